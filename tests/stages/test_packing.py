"""How many workers share a GPU: what is measured, until when, and what follows. No GPU computes here: time and memory
are made up."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from beside import SECONDS, room
from searching import sweep, with_ray, without_ray

from amun_ray.stages import packing, search, widening
from amun_ray.stages.packing import Pace, attack_once, shared, shares, side_by_side, steps_by_share
from amun_ray.work.units import Training

GPU = {"num_cpus": 1, "num_gpus": 1}
NODES = ((64.0, 2.0), (16.0, 0.0), (32.0, 2.0))  # (CPUs, GPUs)
TIGHT = dict(zip((1.0, 0.5, 0.3333), SECONDS.values(), strict=True))


@pytest.mark.parametrize(("seconds", "most", "fitting", "wanted"), [
    ([1.0, 1.0, 1.0, 1.0, 1.5], 16, 16, {1.0: 1.0, 0.5: 1.0, 0.3333: 1.0, 0.25: 1.0}),  # six are as fast as four
    ([1.0, 1.25, 1.75, 2.5], 16, 16, TIGHT),       # four are hardly faster than three
    ([1.0, 2.0], 16, 16, {1.0: 1.0}),              # they take turns
    ([1.0, 1.0, 1.0], 16, 3, {1.0: 1.0, 0.5: 1.0, 0.3333: 1.0}),
    ([1.0, 1.0], 2, 16, {1.0: 1.0, 0.5: 1.0}),     # no CPUs for more
    ([1.0], 16, 1, {1.0: 1.0}),
    ([1.0, 1.0, None], 16, 16, {1.0: 1.0, 0.5: 1.0}),  # three do not get through
    ([None], 16, 16, {1.0: 1.0})])
def test_more_workers_are_tried_until_they_do_not_fit_or_gain_nothing(seconds, most, fitting, wanted):
    tried = []

    def measure(number):
        tried.append(number)
        each = seconds[len(tried) - 1]
        return None if each is None else Pace(each, room(fitting))

    assert steps_by_share(measure, most) == wanted
    assert tried == [*packing.NUMBERS[:len(seconds)]]


def test_where_memory_is_not_known_each_has_a_whole_gpu():
    assert steps_by_share(lambda number: Pace(1.0, None), 16) == {1.0: 1.0}


def test_what_could_not_be_measured_is_measured_by_the_next_stage(opened, monkeypatch):
    workspace, measure = opened[0]("auto"), packing.side_by_side
    monkeypatch.setattr(packing, "side_by_side", lambda *_: None)
    assert shared(workspace, GPU, 12, "shards") == GPU
    monkeypatch.setattr(packing, "side_by_side", measure)
    assert shared(workspace, GPU, 12, "trials")["num_gpus"] == 0.3333


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """The workspace for a number of GPUs in the config; four GPUs, TIGHT for several workers."""
    asked = []

    def measure(workspace, options, number):
        asked.append(number)
        return Pace([*TIGHT.values(), 9.0][len(asked) - 1], room(16))

    def workspace(gpus):
        settings = sweep({})
        return without_ray(settings.model_copy(update={"resources": type(settings.resources)(gpus=gpus)}), tmp_path)

    monkeypatch.setattr(packing, "room_of_nodes", lambda: NODES)
    monkeypatch.setattr(packing, "side_by_side", measure)
    monkeypatch.setattr(packing, "_measured", {})
    return workspace, asked


@pytest.mark.parametrize(("pieces", "share"), [(4, 1), (5, 0.5), (8, 0.5), (9, 0.3333), (12, 0.3333), (13, 0.5)])
def test_as_many_share_a_gpu_as_let_all_pieces_end_first(opened, capsys, pieces, share):
    """Of 13, by 1.25 a round, 8 and 5 take 2.5; by 1.75, 12 and 1 take 3.5; by 1, 4 rounds of 4."""
    workspace, asked = opened[0]("auto"), opened[1]
    assert shared(workspace, GPU, pieces, "pieces") == {"num_cpus": 1, "num_gpus": share}
    assert shared(workspace, GPU, pieces, "pieces")["num_gpus"] == share
    assert asked == ([1, 2, 3, 4] if pieces > 4 else [])  # once
    said = f"resources.gpus: {pieces} pieces, {round(1 / share)} on a GPU\n"
    assert (said in capsys.readouterr().out) == (pieces > 4)


@pytest.mark.parametrize(("fit", "share"), [(1, 1), (2, 0.5), (3, 0.3333), (40, 0.3333)])
def test_no_more_share_a_gpu_than_its_memory_holds(opened, fit, share):
    assert shared(opened[0]("auto"), GPU, 12, "pieces", lambda: fit)["num_gpus"] == share


@pytest.mark.parametrize(("gpus", "options"), [(1, GPU), (0.5, GPU | {"num_gpus": 0.5}), ("auto", GPU | {
    "num_gpus": 0.0})])
def test_without_auto_or_a_gpu_the_options_stay(opened, gpus, options):
    workspace, asked = opened[0](gpus), opened[1]
    assert shared(workspace, options, 100, "pieces", lambda: pytest.fail("is not asked")) == options
    assert shares(workspace, options, [1.0] * 100) == [1.0] * 100
    assert asked == []


def test_the_longest_trainings_have_a_gpu_each_where_all_end_as_early(opened):
    """Two have a GPU each, for 2.5; beside them, on two GPUs, two rounds of four take 1.25 each."""
    assert shares(opened[0]("auto"), GPU, [2.5] * 2 + [1.0] * 8) == [1.0] * 2 + [0.5] * 8
    assert shares(opened[0]("auto"), GPU, [1.0] * 4) == [1.0] * 4


def test_only_trainings_that_are_missing_are_counted(opened, monkeypatch):
    workspace = opened[0]("auto")
    jobs = [(training, training.unit(workspace)) for training in (
        Training(f"reference {number}", np.arange(60), number) for number in range(12))]
    found = widening.widths_of(workspace, jobs, GPU)
    assert [*found.values()] == [0.3333] * 12
    for _, unit in jobs[:8]:
        workspace.store.finish(unit, {})
    assert [*widening.widths_of(workspace, jobs, GPU).values()] == [1.0] * 12


def test_the_first_trial_is_measured_where_several_would_share_a_gpu(opened, monkeypatch):
    workspace, measured = opened[0]("auto"), []
    monkeypatch.setattr(search, "measure_first", lambda *given: measured.append(given) or room(2))
    assert search.unlearners(workspace, (), GPU, 4, 4) == (GPU, GPU)
    assert measured == []
    halves, thirds = GPU | {"num_gpus": 0.5}, GPU | {"num_gpus": 0.3333}
    assert search.unlearners(workspace, (), GPU, 4, 12) == (GPU, halves)
    assert search.unlearners(workspace, (), GPU, 12, 12) == (halves, halves)
    assert len(measured) == 2
    monkeypatch.setattr(search, "measure_first", lambda *given: None)
    assert search.unlearners(workspace, (), GPU, 12, 12) == (GPU, GPU)
    monkeypatch.setattr(search, "measure_first", lambda *given: room(9))
    assert search.unlearners(workspace, (), GPU, 12, 12) == (thirds, thirds)


@pytest.mark.parametrize(("search", "radius"), [({"name": "nearest"}, None), ({"name": "pgd_l2"}, 0.001),
                                                ({"name": "pgd_l2", "eps_init": 0.5}, 0.5)])
def test_a_whole_shard_is_attacked_where_memory_is_measured(local_ray, tmp_path, monkeypatch, search, radius):
    seen = []
    monkeypatch.setattr(packing, "craft", lambda model, images, labels, *, settings: seen.append(
        (tuple(images.shape), tuple(labels.shape), settings.eps_init)))
    settings = sweep({})
    attack = type(settings.attack)(search=search, shard_size=60)
    attack_once(with_ray(settings.model_copy(update={"attack": attack}), tmp_path))
    assert seen == [((60, 1, 2, 2), (60,), radius)]


def test_a_gpu_that_others_hold_is_not_waited_for(local_ray, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(packing, "PATIENCE_SECONDS", 1)  # there is none at all
    workspace = with_ray(sweep({}), tmp_path)
    assert side_by_side(workspace, GPU, 2) is None
    assert "no GPU was without work for 1 s" in capsys.readouterr().out


def test_a_sweep_shares_the_gpu_of_its_ray(tmp_path):
    """Of eight trainings four rounds of two are over first, of nine shards three rounds of three. Two trials fit."""
    done = subprocess.run([sys.executable, Path(__file__).with_name("beside.py"), tmp_path], check=True, text=True,
                          stdout=subprocess.PIPE, env=os.environ | {"RAY_ADDRESS": "local"})
    *lines, last = done.stdout.splitlines()
    assert [line.removeprefix("resources.gpus: ") for line in lines if line.startswith("resources.gpus: ")] == [
        "measured on a GPU: 2 trainings at once are 1.6 times as fast as one, 3 trainings at once are 1.71 times as "
        "fast as one", "8 trainings, 2 on a GPU", "9 shards, 3 on a GPU", "6 trials at a time, 2 on a GPU",
        "12 final models, 2 on a GPU"]
    assert json.loads(last) == [[1, True], [2, True], [3, True], ["trial", True]]
    assert "unlearning by finetune (retain): 4 models" in done.stdout
