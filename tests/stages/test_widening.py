"""How many workers train each model, without Ray: what is asked for, measured and kept."""

import numpy as np
import pytest
from searching import sweep, without_ray

from amun_ray.stages import pace, widening
from amun_ray.training.group import ALONE
from amun_ray.work.checkpoints import Checkpoint
from amun_ray.work.units import Training

GPU, CPU = {"num_cpus": 2, "num_gpus": 1}, {"num_cpus": 2, "num_gpus": 0}
NODES = [(16.0, 8.0), (5.0, 8.0), (4.0, 0.0)]  # (CPUs, GPUs): workers of two CPUs and a GPU find room for 8 and 2


def jobs(workspace, **more):
    trainings = [Training(f"original {number}", np.arange(60), number, **more) for number in range(3)]
    return [(training, training.unit(workspace)) for training in trainings]


def widths(workspace, wanted, options):
    """Of each model, in the order of `wanted`."""
    found = widening.widths_of(workspace, wanted, options)
    return [found[unit.digest] for _, unit in wanted]


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """The workspace for settings of `resources`, and what was measured."""
    asked = []

    def measured(workspace, training, options, numbers):
        asked.append((training.name, [*numbers]))
        return {number: 1 / number for number in numbers}

    def workspace(**resources):
        settings = sweep({})
        return without_ray(settings.model_copy(update={"resources": type(settings.resources)(**resources)}), tmp_path)

    monkeypatch.setattr(widening, "room_of_nodes", lambda: NODES)
    monkeypatch.setattr(widening, "measured", measured)
    return workspace, asked


def test_the_first_training_is_measured_on_what_the_smallest_node_holds(opened, monkeypatch):
    workspace, asked = opened[0](widen=True), opened[1]
    assert widths(workspace, jobs(workspace), GPU) == [2, 2, 2]  # of ten GPUs
    assert asked == [("original 0", [1, 2])]
    monkeypatch.setattr(widening, "room_of_nodes", None)  # is not asked again
    assert widths(workspace, jobs(workspace), GPU) == [2, 2, 2]
    assert len(asked) == 1


def test_a_node_with_room_for_one_worker_is_not_measured(opened, monkeypatch):
    monkeypatch.setattr(widening, "room_of_nodes", lambda: [(2.0, 8.0)] * 5)
    workspace, asked = opened[0](widen=True), opened[1]
    assert widths(workspace, jobs(workspace), GPU) == [1, 1, 1]
    assert asked == []


@pytest.mark.parametrize(("resources", "options", "number"), [
    ({}, GPU, 1), ({"gpus": 3}, GPU, 3), ({"gpus": 3}, CPU, 3), ({"widen": True}, CPU, 1)])
def test_without_widen_or_a_gpu_the_config_says_how_many(opened, resources, options, number):
    workspace, asked = opened[0](**resources), opened[1]
    assert widths(workspace, jobs(workspace), options) == [number] * 3
    assert asked == []


@pytest.mark.parametrize(("resources", "number"), [({"gpus": 3}, 3), ({"widen": True}, 2)])
def test_a_model_that_is_loaded_takes_one_worker(opened, resources, number):
    workspace, asked = opened[0](**resources), opened[1]
    wanted = [*jobs(workspace, checkpoint=Checkpoint("a.pt", "abc", {}))[:1], *jobs(workspace)[1:]]
    assert widths(workspace, wanted, GPU) == [1, number, number]
    assert [name for name, _ in asked] == ["original 1"] * (number == 2)


def test_nothing_is_measured_where_all_models_are_there(opened):
    workspace, asked = opened[0](widen=True), opened[1]
    for _, unit in jobs(workspace):
        workspace.store.finish(unit, {})
    assert widths(workspace, jobs(workspace), GPU) == [1, 1, 1]
    assert asked == []


def test_the_first_round_of_steps_warms_up_and_each_other_is_timed(opened, monkeypatch):
    workspace, seen = opened[0](), []

    def fit(model, parts, *, recipe, group, **_):
        seen.append((parts, recipe.epochs, recipe.batch_size, group))
        yield from range(1, recipe.epochs + 1)

    monkeypatch.setattr(pace, "bench", lambda _: type("Bench", (), {"device": "cpu", "part": staticmethod(len)}))
    monkeypatch.setattr(pace, "fit", fit)
    times = iter([100.0, 107.0, 113.0, 121.0])
    monkeypatch.setattr(pace.time, "monotonic", lambda: seen.append("time") or next(times))
    training = Training("original 0", np.arange(10_000), 0)
    seconds = pace.step_seconds(workspace, training, warm=lambda: seen.append("warm"))
    assert seconds == [round_seconds / pace.STEPS for round_seconds in (7.0, 6.0, 8.0)]
    assert seen == [([pace.STEPS * 128], 4, 128, ALONE), "warm", *["time"] * 4]
