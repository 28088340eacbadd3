"""One training by two workers that Ray Train starts, on CPUs: the model that one worker makes, also where one is killed
on the way, and a worker's mistake.

Ray Train starts eight processes, so it runs where it is asked for: AMUN_ENDURANCE=1. tests/training/test_group.py has
the training itself.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from amun_ray import data
from amun_ray.base.errors import UserError
from amun_ray.base.names import allow
from amun_ray.config.schema import Sweep
from amun_ray.models import MODELS, checkpoint
from amun_ray.runtime.bench import SharedWorkspace
from amun_ray.stages.originals import train_models
from amun_ray.stages.widening import measured
from amun_ray.storage.store import Store
from amun_ray.work.artifacts import read_logits
from amun_ray.work.units import WEIGHTS, Training

pytestmark = pytest.mark.skipif("AMUN_ENDURANCE" not in os.environ, reason="starts Ray Train: AMUN_ENDURANCE=1")
allow("test_together")
SETTINGS = {
    "name": "together", "data": {"name": "digits", "train_size": 200, "crop": 1}, "forget": {"fraction": 0.1},
    "model": {"name": "vit", "options": {"patch": 4, "width": 12, "depth": 1}}, "methods": {"finetune": None}}
RECIPE = {"epochs": 3, "lr": 0.05, "clip": 1.0, "batch_size": 15}
ROWS = np.arange(10, 47)  # batches of 15, 15 and 7: the shares are unequal


def mortal(*, trap: str, **options) -> nn.Module:
    """A small `vit` whose process is killed in a training step, once, where the file `trap` lies."""
    def spring(net: nn.Module, *_: object) -> None:
        if net.training and os.environ.get("RANK") == "1":
            with suppress(FileNotFoundError):
                Path(trap).unlink()
                os.kill(os.getpid(), signal.SIGKILL)

    net = MODELS["vit"](**options)
    net.register_forward_hook(spring)
    return net


def trained(folder, gpus, **model):
    """The weights and logits of a training, by so many workers."""
    sweep = Sweep.model_validate(SETTINGS | {"training": RECIPE, "resources": {"gpus": gpus}} | model)
    workspace = SharedWorkspace.open(sweep, Store(str(folder)), data.load("digits", train_size=200))
    (made,) = train_models(workspace, [Training("original 0", ROWS, 3)], {"num_cpus": 1, "num_gpus": 0})
    (state,) = checkpoint.read(next(folder.rglob(WEIGHTS))).values()
    return state, read_logits(workspace, made.unit, "original 0"), made


def test_two_workers_make_the_model_that_one_makes(local_ray, tmp_path):
    alone, logits, one = trained(tmp_path / "alone", 1)
    both, others, two = trained(tmp_path / "both", 2)
    assert one.unit.digest == two.unit.digest  # where a model was trained is no part of what it is
    for name, tensor in alone.items():
        torch.testing.assert_close(both[name], tensor, atol=2e-6, rtol=1e-5)
    np.testing.assert_allclose(others, logits, atol=2e-5)


def test_a_step_is_measured_by_one_worker_and_by_two(local_ray, tmp_path):
    """The answer is that of the first process, a time that each of them may take."""
    sweep = Sweep.model_validate(SETTINGS | {"training": RECIPE})
    workspace = SharedWorkspace.open(sweep, Store(str(tmp_path)), data.load("digits", train_size=200))
    steps = measured(workspace, Training("original 0", ROWS, 3), {"num_cpus": 1, "num_gpus": 0}, [1, 2])
    assert sorted(steps) == [1, 2]
    assert all(0 < seconds < 1 for seconds in steps.values())


def test_a_worker_that_is_killed_costs_a_start_and_changes_nothing(local_ray, tmp_path):
    trap = tmp_path / "trap"
    model = {"name": "test_together:mortal", "options": SETTINGS["model"]["options"] | {"trap": str(trap)}}
    alone, _, _ = trained(tmp_path / "alone", 1, model=model)
    trap.touch()
    both, _, _ = trained(tmp_path / "both", 2, model=model)
    assert not trap.exists(), "it was killed"
    for name, tensor in alone.items():
        torch.testing.assert_close(both[name], tensor, atol=2e-6, rtol=1e-5)


def test_a_mistake_in_a_worker_is_the_sweeps_error_and_is_not_tried_again(local_ray, tmp_path):
    with pytest.raises(UserError, match="batch norm can be trained on several GPUs, but not on several CPUs"):
        trained(tmp_path / "norm", 2, model={"name": "small_cnn"})
