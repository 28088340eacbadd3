"""An output folder that was copied, then renamed: the command goes on there, and touches no other place."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from sweeping import CONFIG, Sweep, finished, made, numbers, results, uri

from amun_ray import data
from amun_ray.config import file as config_file
from amun_ray.metrics import predict
from amun_ray.tracking import load_model

BEST = "models:/small-amun-retain@best"
pytestmark = [pytest.mark.skipif("AMUN_ENDURANCE" not in os.environ, reason="starts two sweeps: AMUN_ENDURANCE=1"),
              pytest.mark.filterwarnings("ignore::DeprecationWarning")]


def state(folder: Path) -> dict[Path, tuple[int, int]]:
    found = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path: (one.st_mtime_ns, one.st_size) for path, one in found.items()}


def logits(output: Path) -> np.ndarray:
    """Of the registered model, on a few images."""
    import torch
    sweep = config_file.load(str(CONFIG))
    pixels = data.load(sweep.data.name, **sweep.data.settings).pixels[:50]
    return predict(load_model(BEST, uri=uri(output)), torch.from_numpy(pixels)).numpy()


def resumed(output: Path, old: Path) -> None:
    """The same command with another `--output` finds all its work, and says that the database came here."""
    before, ids = finished(output), [row["mlflow_run_ids"] for row in results(output)]
    again = Sweep("--config", CONFIG, "--output", output).finish()
    assert finished(output) == before
    assert not [label for label in ("training", "adversarial examples", "search", "unlearning") if made(again, label)]
    assert [row["mlflow_run_ids"] for row in results(output)] == ids  # nothing was logged a second time
    assert f"MLflow: {output / 'mlflow.db'} came here from {old}; it now refers to the files in " \
           f"{output / 'mlartifacts'}" in again.lines
    assert str(old) not in again.text.replace(f"came here from {old}", "")


def test_a_copy_and_then_a_renamed_folder_go_on_where_they_are(undisturbed, tmp_path):
    original, copy, moved = undisturbed[1], tmp_path / "copy", tmp_path / "moved #2"
    before, wanted = state(original), logits(original)
    shutil.copytree(original, copy)
    assert np.array_equal(logits(copy), wanted)
    resumed(copy, original)
    assert state(original) == before
    assert numbers(copy) == numbers(original)
    copy.rename(moved)
    assert np.array_equal(logits(moved), wanted)
    resumed(moved, copy)
    assert np.array_equal(logits(moved), wanted)
    assert numbers(moved) == numbers(original)
    assert not copy.exists()
    assert not [path for path in moved.rglob("*") if path.is_file() and str(copy).encode() in path.read_bytes()
                and path.suffix in (".json", ".html", ".yaml", ".md", ".db")]
