"""The whole Tune path, workers included, on a method whose every score is known in closed form."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from searching import BEST_EPOCH, BEST_LR, cases, gap, sweep, with_ray

from amun_ray.base.errors import UserError
from amun_ray.reporting.costs import SweepCosts
from amun_ray.runtime.cluster import Cluster
from amun_ray.stages.experiment import Experiment
from amun_ray.stages.search import best_settings, measure_first
from amun_ray.work.units import ForgetCase

OPTIONS = {"num_cpus": 1, "num_gpus": 0}
PLAIN = {"searching:PLAIN": {"access": ["retain"]}}


def search(settings, folder, *, workers=2, count=1):
    over = []
    found = best_settings(with_ray(settings, folder), cases(count), OPTIONS, workers,
                          lambda trial, stored: over.append(trial))
    return found, sorted(over, key=lambda trial: trial.number)


@pytest.fixture(scope="module")
def folder(local_ray, tmp_path_factory):
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def found(folder):
    return search(sweep({"trials": 24}), folder)


def test_the_search_finds_the_optimum_of_a_known_function(found):
    (winner,), trials = found[0].best.values(), found[1]
    assert [trial.number for trial in trials] == list(range(24))
    for trial in trials:
        assert trial.result["average_gap"] == pytest.approx([gap(trial.settings.lr, epoch) for epoch in (1, 2, 3)])
        assert trial.best.epochs == BEST_EPOCH
    assert winner.value == min(trial.value for trial in trials) <= gap(BEST_LR * 10 ** (3 / 16), BEST_EPOCH)
    assert found[0].fronts == {winner.contender: [trial for trial in trials if trial.value == winner.value]}


def test_the_same_search_again_runs_nothing_and_says_so(found, folder, capsys):
    again = search(sweep({"trials": 24}), folder)
    assert again == found
    assert "search: 24 trials from the store" in capsys.readouterr().out


def test_a_first_round_that_runs_again_leaves_no_trial_out(local_ray, tmp_path):
    """The original is nearer to the retrained model than any setting brings a model."""
    settings = sweep({"trials": 6, "stop_early": True, "sampler": "random", "lr": {"low": 1e-4, "high": 1e-3}})
    near, over = [replace(one, before={"average_gap": 5.0}) for one in cases()], []
    best_settings(with_ray(settings, tmp_path), near, OPTIONS, 2, lambda trial, stored: over.append(trial))
    assert sorted(trial.number for trial in over) == [*range(6)]
    assert all(trial.finished for trial in over)


def test_a_trial_counts_every_case_and_takes_their_mean(local_ray, tmp_path):
    _, trials = search(sweep({"trials": 2, "together": 2}), tmp_path, count=3)
    for trial in trials:
        by_case = [[epoch["average_gap"] for epoch in curve] for curve in trial.result["curves"]]
        wrong = [4 * gap(trial.settings.lr, epoch) / 3 for epoch in (1, 2, 3)]  # percent of each split
        assert by_case == [pytest.approx([0.75 * abs(100 - one - perfect) for one in wrong])
                           for perfect in (100, 90, 80)]
        assert trial.result["average_gap"] == pytest.approx(np.mean(by_case, axis=0))


def test_the_proxy_needs_no_retrained_model(local_ray, tmp_path):
    settings = sweep({"objective": "proxy", "trials": 3, "together": 3})
    blind = [SimpleNamespace(**{**vars(one), "target": None, "seed": one.seed}) for one in cases()]
    over = []
    found = best_settings(with_ray(settings, tmp_path), blind, OPTIONS, 1, lambda trial, stored: over.append(trial))
    for trial in over:
        lost = [4 * gap(trial.settings.lr, epoch) / 3 for epoch in (1, 2, 3)]  # percent; FT AUC is 50 throughout
        assert trial.result["proxy"] == pytest.approx([one / 2 for one in lost])
        assert "average_gap" not in trial.result
        assert trial.best.epochs == BEST_EPOCH
    (winner,) = found.best.values()
    assert winner.scores == {"proxy": min(trial.value for trial in over)}


def test_two_objectives_make_a_front_and_the_least_mean_goes_to_the_finals(local_ray, tmp_path):
    """The second case's retrained models are 20 points worse than the original: the objectives disagree."""
    settings = sweep({"objective": "both", "trials": 16, "sampler": "random"})
    over = []
    workspace = with_ray(settings, tmp_path)
    found = best_settings(workspace, cases(3)[2:], OPTIONS, 2, lambda trial, stored: over.append(trial))
    ((contender, front),) = found.fronts.items()
    points = np.array([list(trial.scores.values()) for trial in sorted(over, key=lambda trial: trial.number)])
    beaten = [any((other <= point).all() and (other < point).any() for other in points) for point in points]
    assert sorted(trial.number for trial in front) == [number for number, one in enumerate(beaten) if not one]
    assert len({tuple(trial.scores.values()) for trial in front}) > 1
    winner = found.best[contender]
    assert winner in front
    assert winner.value == points.mean(axis=1).min()


def test_a_trial_that_diverges_counts_with_the_epochs_before(local_ray, tmp_path):
    found, trials = search(sweep({"trials": 3, "together": 3}, gate=str(tmp_path / "diverges")), tmp_path / "store",
                           workers=1)
    for trial in trials:
        assert trial.result["average_gap"] == [gap(trial.settings.lr, epoch) for epoch in (1, 2)]
        assert trial.finished
        assert trial.result["diverged"].startswith("epoch 3: ")
    assert next(iter(found.best.values())).value == min(trial.value for trial in trials)


@pytest.mark.parametrize("blow", ["once lost", "once memory"])
def test_a_lost_worker_and_a_lack_of_memory_are_tried_again(local_ray, tmp_path, blow):
    gate = tmp_path / "gate"
    gate.write_text(blow)
    _, trials = search(sweep({"trials": 2, "together": 2}, gate=str(gate)), tmp_path / "store", workers=1)
    assert not gate.exists()
    assert all(trial.finished for trial in trials)


@pytest.mark.parametrize(("blow", "reason"), [
    ("memory", "no successful trial: .*OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"),
    ("mistake", "no successful trial: .*KeyError: 'teacher'"),
    ("disk", "search: OSError: .*No space left on device; what is finished is kept"),
])
def test_what_does_not_pass_ends_the_search_with_its_reason_and_is_not_stored(local_ray, tmp_path, blow, reason):
    gate = tmp_path / "gate"
    gate.write_text(blow)
    settings = sweep({"trials": 2, "together": 2}, gate=str(gate))
    with pytest.raises(UserError, match=reason):
        search(settings, tmp_path / "store", workers=1)
    assert not list((tmp_path / "store").rglob("unit.json"))


def test_the_trial_that_is_measured_is_one_of_the_search(local_ray, tmp_path):
    settings = sweep({"trials": 2, "together": 2})
    workspace = with_ray(settings, tmp_path)
    assert measure_first(workspace, cases(), OPTIONS) is None  # no GPU here
    assert len(list(tmp_path.rglob("unit.json"))) == 1
    _, trials = search(settings, tmp_path)
    assert [trial.finished for trial in trials] == [True, True]
    assert len(list(tmp_path.rglob("unit.json"))) == 2
    assert measure_first(workspace, cases(), OPTIONS) is None  # nothing is left to measure


class Untouchable(dict):
    """A mapping whose final entries must not be read."""

    def __getitem__(self, key):
        assert "final" not in str(key), f"the search reads {key}"
        return super().__getitem__(key)

    def get(self, key, default=None):
        return self.__getitem__(key)


def test_the_search_never_reads_a_final_forget_set(local_ray, tmp_path, monkeypatch):
    """Everything that the driver hands to the search raises when its part of a final set is touched."""
    opened, settings = [], sweep({"trials": 1})

    class Plan:
        sweep, held_out = settings, [ForgetCase(0, "held_out 0", np.arange(50))]

        @property
        def final(self):
            raise AssertionError("the search reads the final forget sets")

        sets = final

    def open_case(case, models, made, reference, banks, for_search):
        assert for_search
        opened.append((case.original, case.name, made, models.retrained[case.name]))
        return cases()[0]
    monkeypatch.setattr("amun_ray.stages.cases._open", open_case)
    monkeypatch.setattr("amun_ray.stages.cases._with_originals", lambda cases, models: cases)
    record = SimpleNamespace(trial=lambda trial, cases, original: None, files=lambda files: None,
                             progress=lambda *_: None)
    workspace = with_ray(settings, tmp_path / "store")
    experiment = Experiment(Plan(), tmp_path, workspace, record, OPTIONS, 1,
                            Cluster(((2.0, 0.0),), "test"), SweepCosts())
    evidence = SimpleNamespace(mean=0, workspace=workspace)
    models = SimpleNamespace(originals=["original"], evidence=evidence, banks=[],
                             retrained=Untouchable({"held_out 0": ["r0"], "final 0": ["r1"]}))
    sets = Untouchable({(0, "held_out 0"): "adversaries", (0, "final 0"): "never"})
    assert experiment.search(models, sets, lambda *_: None, 1)
    assert opened == [(0, "held_out 0", "adversaries", ["r0"])]
