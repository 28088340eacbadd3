"""What a worker makes of a training: the model of its rows alone, and what the store then holds."""

from types import SimpleNamespace

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
from amun_ray.runtime.queue import IN_FLIGHT
from amun_ray.stages import originals
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


@pytest.mark.parametrize(("widths", "limit"), [([4, 4, 1], 12), ([1, 1, 1], IN_FLIGHT)])
def test_trainings_are_asked_for_as_far_as_their_gpus_are_there(workspace, monkeypatch, widths, limit):
    """By as many workers as each is to have; where each has one, all at once: Ray lets them wait."""
    trainings = [Training(f"reference {number}", ROWS, number) for number in range(3)]
    asked, options = [], {"num_cpus": 1, "num_gpus": 1}

    def missing(store, jobs, unit, submit, *, limit, weight, over, **_):
        asked.extend([limit(), [(weight(job), submit(job)) for job in jobs]])
        for job in jobs:
            over(job, True)

    monkeypatch.setattr(originals, "widths_of", lambda workspace, jobs, given: {
        unit.digest: width for (_, unit), width in zip(jobs, widths, strict=True)})
    monkeypatch.setattr(originals, "make_missing", missing)
    monkeypatch.setattr(originals, "_trained", lambda store, name, unit, *, reused: name)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 12.0})
    together = SimpleNamespace(remote=lambda shared, training, unit, workers, options: (training.name, workers))
    alone = SimpleNamespace(remote=lambda shared, training, unit: (training.name, 1))
    monkeypatch.setattr(originals, "_train_together", together)
    monkeypatch.setattr(originals, "_train", SimpleNamespace(options=lambda **_: alone))
    assert originals.train_models(workspace, trainings, options) == [training.name for training in trainings]
    assert asked == [limit, [(width, (f"reference {number}", width)) for number, width in enumerate(widths)]]


@pytest.mark.parametrize(("given", "widths", "held"), [(1, [1.0, 0.5, 0.25], [1.0, 0.5, 0.25]), (1, [4, 1, 1], [1, 1]),
                                                       (0.5, [1, 1, 1], [0.5] * 3), (0.0, [1.0] * 3, [0.0] * 3)])
def test_a_training_holds_its_share_of_a_gpu_and_says_so(workspace, monkeypatch, given, widths, held):
    """One by several workers holds a whole GPU for each of them."""
    trainings = [Training(f"reference {number}", ROWS, number) for number in range(3)]
    asked, told = [], []

    def missing(store, jobs, unit, submit, *, over, **_):
        for job in jobs:
            submit(job)
            over(job, True)

    def options(*, num_gpus, **_):
        asked.append(num_gpus)
        return SimpleNamespace(remote=lambda *_: None)

    monkeypatch.setattr(originals, "widths_of", lambda workspace, jobs, given: {
        unit.digest: width for (_, unit), width in zip(jobs, widths, strict=True)})
    monkeypatch.setattr(originals, "make_missing", missing)
    monkeypatch.setattr(originals, "_trained", lambda store, name, unit, *, reused: name)
    monkeypatch.setattr(originals, "_train", SimpleNamespace(options=options))
    monkeypatch.setattr(originals, "_train_together", SimpleNamespace(remote=lambda *_: None))
    originals.train_models(workspace, trainings, {"num_cpus": 1, "num_gpus": given},
                           lambda training, model, options: told.append(options["num_gpus"]))
    assert asked == held
    assert told == [given * min(width, 1) for width in widths]


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
