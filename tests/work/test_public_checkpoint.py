"""A public checkpoint with its own normalisation gets its published accuracy; with another one, a warning."""

import os
import re
from functools import cache

import pytest
import torch
from sweeping import REPOSITORY

from amun_ray import data
from amun_ray.base.names import allowing
from amun_ray.config.schema import Sweep
from amun_ray.metrics import accuracy, predict
from amun_ray.work import accuracies
from amun_ray.work.plan import Plan

SHARED = REPOSITORY.parent / "shared" / "data"
PUBLISHED_PCT = 91.73  # on all of CIFAR-10's test images, says its source
SIZES = {"train_size": 256, "test_size": 10000 if os.environ.get("AMUN_WHOLE_CIFAR10") else 2000}
FILES = ("checkpoints/resnet20-12fca82f.th", "checkpoints/resnet20-12fca82f.safetensors")

FOLDER = {"train": str(SHARED / "cifar10-train.parquet"), "test": str(SHARED / "cifar10-test.parquet")}

if not all((SHARED / name).is_file() for name in (*FILES, "cifar10-train.parquet", "cifar10-test.parquet")):
    pytest.skip("no shared data folder beside the repository", allow_module_level=True)


@pytest.fixture(scope="module", autouse=True)
def _code():
    with pytest.MonkeyPatch.context() as patch, allowing("cifar_resnet"):
        patch.syspath_prepend(REPOSITORY / "examples")
        yield


def plan(file, normalize):
    made = Sweep.model_validate({
        "name": "public", "data": {"name": "parquet", "normalize": normalize} | FOLDER | SIZES,
        "model": {"name": "cifar_resnet:resnet20"}, "originals": {"checkpoints": [str(SHARED / file)]},
        "training": {"lr": 0.1, "epochs": 1}, "forget": {"fraction": 0.1}, "methods": {"finetune": None}})
    return Plan(made, images())


@cache
def images():
    return data.load("parquet", **FOLDER, **SIZES)


def test_it_gets_its_published_accuracy_with_its_own_normalisation():
    for file in FILES:
        given = plan(file, "imagenet")
        given.check()
        lines = list(accuracies.sampled(given))
        assert len(lines) == 1, lines  # no warning
        assert ("names without 'module.'" in str(given)) == file.endswith(".th")
    (training,) = accuracies.original_trainings(given.workspace(given.store(REPOSITORY)), given.checkpoints)
    rows = given.dataset.test_rows
    logits = predict(accuracies.loaded(given, training), torch.from_numpy(given.dataset.pixels[rows])).numpy()
    assert accuracy(logits, given.dataset.labels[rows]) == pytest.approx(PUBLISHED_PCT, abs=1.0)


def test_with_another_normalisation_a_warning_names_one_that_does():
    """The statistics of CIFAR-10 are so near to those of ImageNet that the network does not tell them apart."""
    _, warning = accuracies.sampled(plan(FILES[1], "none"))
    assert "warning: original 0 gets little right" in warning
    gain = re.search(r"(?:dataset|imagenet) it gets (\S+) % right .* of which it gets (\S+) % now", warning)
    assert float(gain[1]) > 95 > 60 > float(gain[2])
