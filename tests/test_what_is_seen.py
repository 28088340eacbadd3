"""Which samples reach which model, from the outside: a whole sweep with a network that counts what it is trained on."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from sweeping import REPOSITORY, Sweep
from witness import COUNTER, FLOOR, SIZE, TRAIN, counts, numbered

from amun_ray.data import shards

REQUEST = [3, 7, 12, 20, 21, 40, 41, 58]
EPOCHS = 3  # of training
CONFIG = f"""
name: seen
data: {{name: "witness:numbered", flip: true}}
model: {{name: "witness:Witness"}}
training: {{epochs: {EPOCHS}, lr: 0.1, batch_size: 16}}
originals: {{count: 2}}
forget: {{indices: request.csv}}
held_out: {{originals: 2}}
references: {{count: 6}}
attack: {{shard_size: 3}}
methods:
  finetune:
  amun:
  amun_without_forget: {{access: [forget_only]}}
  gradient_ascent: {{access: [retain]}}
unlearning: {{batch_size: 16}}
search: {{trials: 1, epochs: 2, lr: {{low: 1e-3, high: 1e-2}}, stop_early: false}}
final: {{runs: 2}}
"""
D, LABELS = np.arange(TRAIN), numbered().labels


class Model(NamedTuple):
    """One stored model."""

    name: str
    inputs: dict[str, Any]
    result: dict[str, Any]
    times: np.ndarray  # (SIZE,) how often it was trained on each sample, by its predictions
    seen: np.ndarray | None  # see `counts`; None where weights are not kept


class Unlearned(NamedTuple):
    """What one run of a method saw, on top of its original."""

    method: str
    access: str
    epochs: int
    forgotten: np.ndarray
    adversarial: dict[str, np.ndarray]
    seen: np.ndarray


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("seen")
    (folder / "seen.yaml").write_text(CONFIG)
    (folder / "request.csv").write_text("index\n" + "".join(f"{row}\n" for row in REQUEST))
    Sweep("--config", "seen.yaml", "--output", "out", cwd=folder, PYTHONPATH=str(REPOSITORY / "tests"),
          AMUN_ALLOW_CODE="witness").finish()
    return folder / "out"


def units(output: Path, kind: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted((output / "store" / kind).glob("*/unit.json")):
        yield path.parent, json.loads(path.read_text())


@pytest.fixture(scope="module")
def models(output) -> dict[str, Model]:
    found = {}
    for folder, unit in units(output, "models"):
        name, weights = unit["result"]["name"], folder / "weights.safetensors"
        times = (FLOOR - np.load(folder / "logits.npy")[:, COUNTER]) * 64
        found[name] = Model(name, unit["inputs"], unit["result"], times,
                            counts(weights) if weights.exists() else None)
    return found


def named(models: dict[str, Model], begin: str) -> list[Model]:
    return [model for name, model in sorted(models.items()) if name.startswith(begin)]


@pytest.fixture(scope="module")
def forgotten(models) -> dict[str, np.ndarray]:
    """The rows of each forget set, as the models that never saw them tell."""
    return {kind: np.flatnonzero(named(models, f"retrained without {kind}")[0].times[:TRAIN] == 0)
            for kind in ("final", "held_out")}


def test_originals_are_trained_on_all_of_d_and_nothing_else(models):
    originals = named(models, "original")
    assert len(originals) == 2
    for model in originals:
        assert model.times.tolist() == [EPOCHS] * TRAIN + [0] * (SIZE - TRAIN)


def test_retrained_models_are_trained_on_d_without_the_request(models):
    retrained = named(models, "retrained without final")
    assert len(retrained) == 2
    for model in retrained:
        assert model.times.tolist() == [EPOCHS * (row < TRAIN and row not in REQUEST) for row in range(SIZE)]


def test_the_search_has_a_forget_set_of_the_same_size_that_is_never_the_request(models, forgotten):
    retrained = named(models, "retrained without held_out")
    assert len(retrained) == 2
    assert len(forgotten["held_out"]) == len(REQUEST)
    assert not {*forgotten["held_out"]} & {*REQUEST}
    for model in retrained:
        assert model.times.tolist() == [EPOCHS * (row < TRAIN and row not in forgotten["held_out"])
                                        for row in range(SIZE)]


def test_references_are_trained_on_complementary_halves_of_all_samples(models):
    references = named(models, "reference")
    assert len(references) == 6
    assert all(model.seen is None for model in references)
    halves = np.stack([model.times for model in references])
    assert {*halves.ravel()} == {0, EPOCHS}
    for one, other in zip(halves[::2], halves[1::2], strict=True):
        assert (one + other == EPOCHS).all()
        assert (one > 0).sum() == SIZE // 2
    assert len({half.tobytes() for half in halves}) == 6


def test_every_model_is_told_the_labels_of_the_data_on_clean_images_some_of_them_mirrored(models):
    for model in (one for one in models.values() if one.seen is not None):
        assert np.array_equal(model.seen.sum((1, 2, 3, 4)), model.times)
        assert np.array_equal(model.seen[np.arange(SIZE), LABELS, 0, :, 0].sum(1), model.times)
        assert 0.3 < model.seen[:, :, :, 1].sum() / model.seen.sum() < 0.7


def adversarial_set(output: Path, original: str, forgotten: np.ndarray) -> dict[str, np.ndarray]:
    """Index, label and distance of the set that was built on the rows `forgotten` against an original."""
    (found,) = [rows for folder, unit in units(output, "adversarial_sets") if unit["inputs"]["original"] == original
                for rows in [joined(folder)] if np.array_equal(rows["index"], forgotten)]
    return found


def joined(folder: Path) -> dict[str, np.ndarray]:
    read = [shards.decode(path.read_bytes())[0] for path in sorted(folder.glob("shard-*.parquet"))]
    return {key: np.concatenate([one[key] for one in read]) for key in ("index", "label", "l2", "status")}


@pytest.fixture(scope="module")
def unlearned(output, models, forgotten) -> list[Unlearned]:
    """Every trial and every final model; of a trial with two originals, two."""
    originals = {model.result["weights"]: model for model in named(models, "original")}
    found = []
    for kind, rows in (("trials", forgotten["held_out"]), ("unlearned", np.array(REQUEST))):
        for folder, unit in units(output, kind):
            inputs, result = unit["inputs"], unit["result"]
            files = sorted(folder.glob("weights*.safetensors"))
            for path, case in zip(files, inputs["cases"], strict=True):
                seen = counts(path) - originals[case["original"]].seen
                found.append(Unlearned(*inputs["contender"], result.get("best_epoch", inputs["settings"]["epochs"]),
                                       rows, adversarial_set(output, case["original"], rows), seen))
    return found


def test_a_real_request_is_forgotten_by_the_finals_and_another_set_by_the_trials(unlearned):
    counted = Counter((one.method, one.access, one.forgotten.tolist() == REQUEST) for one in unlearned)
    contenders = [("finetune", "retain"), ("amun", "retain"), ("amun", "forget_only"),
                  ("amun_without_forget", "forget_only"), ("gradient_ascent", "retain")]
    assert counted == {(*contender, final): 4 if final else 2 for contender in contenders for final in (False, True)}


def test_each_method_sees_the_sets_of_its_row_under_the_right_labels(unlearned):
    """D_R and D_F as they are, D_A moved and under the shard's labels; the loss of D_F is raised by ascent alone."""
    for one in unlearned:
        retained = np.setdiff1d(D, one.forgotten) if one.access == "retain" else D[:0]
        forgotten = one.forgotten if one.method in ("amun", "gradient_ascent") else D[:0]
        wanted = np.zeros_like(one.seen.sum(3))  # mirrored or not
        for rows, raised in ((retained, 0), (forgotten, int(one.method == "gradient_ascent"))):
            wanted[rows, LABELS[rows], 0, raised] += one.epochs
        if one.method.startswith("amun"):
            made = one.adversarial
            wanted[made["index"], made["label"], (made["l2"] > 0).astype(int), 0] += one.epochs
        assert np.array_equal(one.seen.sum(3), wanted), (one.method, one.access)


def test_adversarial_images_are_never_mirrored_and_clean_ones_are(unlearned):
    amun = [one for one in unlearned if one.method == "amun"]
    moved = sum(one.seen[:, :, 1] for one in amun)
    clean = sum(one.seen[:, :, 0] for one in amun)
    assert moved[:, :, 0].sum() > 50
    assert moved[:, :, 1].sum() == 0
    assert 0.3 < clean[:, :, 1].sum() / clean.sum() < 0.7


def test_adversarial_labels_are_wrong_ones_of_the_forgotten_rows(unlearned):
    for one in unlearned:
        assert (one.adversarial["label"] != LABELS[one.adversarial["index"]]).all()
        assert np.array_equal(one.adversarial["index"], one.forgotten)
