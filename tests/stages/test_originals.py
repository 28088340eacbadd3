"""What a worker makes of a training: the model of its rows alone, and what the store then holds."""

import numpy as np
import pytest
import ray
import torch

from amun_ray import data
from amun_ray.base.seeds import generator
from amun_ray.config.schema import Sweep
from amun_ray.metrics import predict
from amun_ray.models import checkpoint
from amun_ray.runtime.bench import SharedWorkspace
from amun_ray.stages.originals import make_model
from amun_ray.storage.store import Store
from amun_ray.training.augment import Augmentation
from amun_ray.training.loop import fit
from amun_ray.training.parts import place
from amun_ray.training.recipe import Recipe
from amun_ray.work.checkpoints import Checkpoint
from amun_ray.work.units import LOGITS, WEIGHTS, Training

DIGITS, ROWS, SEED = data.load("digits", train_size=50), np.arange(45, 5, -1), 7


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "put", lambda value: [value])
    monkeypatch.setattr(ray, "get", lambda values: [value for value, in values])
    sweep = Sweep.model_validate({
        "name": "one", "data": {"name": "digits", "train_size": 50, "crop": 1, "flip": True},
        "model": {"name": "small_cnn", "options": {"width": 4}}, "methods": {"finetune": None},
        "training": {"lr": 0.1, "epochs": 2, "batch_size": 16}, "forget": {"fraction": 0.1}})
    return SharedWorkspace.open(sweep, Store(str(tmp_path)), DIGITS)


@pytest.mark.parametrize("kept", [True, False])
def test_a_model_is_trained_on_its_rows_alone_and_predicts_every_sample(workspace, kept):
    training = Training("reference 0", ROWS, SEED, keep_weights=kept)
    make_model(workspace, training, unit := training.unit(workspace))
    wanted = workspace.new_model(SEED)
    part = place(DIGITS.pixels[ROWS], DIGITS.labels[ROWS], augment=True)
    list(fit(wanted, [part], recipe=Recipe(lr=0.1, epochs=2, batch_size=16), augmentation=Augmentation(1, True),
             generator=generator(SEED, "order")))
    check(workspace, unit, wanted, kept)
    said = workspace.store.result(unit)
    assert (said["name"], said["samples"]) == ("reference 0", 40)
    assert 0 < said["seconds"] < 600


def test_a_checkpoint_is_taken_as_it_is(workspace):
    given = workspace.new_model(SEED + 1)
    training = Training("original 0", np.arange(50), SEED, checkpoint=Checkpoint("given.pt", "abc", given.state_dict()))
    make_model(workspace, training, unit := training.unit(workspace))
    check(workspace, unit, given, kept=True)


def check(workspace, unit, wanted, kept):
    """The store holds the predictions of the model and, where they are kept, its weights."""
    logits = np.load(workspace.store.path(unit, LOGITS))
    np.testing.assert_array_equal(logits, predict(wanted, torch.from_numpy(DIGITS.pixels)).numpy())
    assert logits.shape == (len(DIGITS), 10)
    assert workspace.store.result(unit)["weights"] == (checkpoint.digest(wanted.state_dict()) if kept else None)
    assert [workspace.store.has(unit, name) for name in (LOGITS, WEIGHTS)] == [True, kept]
    workspace.store.read(unit, LOGITS)
    if kept:
        workspace.store.read(unit, WEIGHTS)  # has a checksum, too
