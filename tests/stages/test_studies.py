"""What is tried next, without a worker: Tune is played by a loop that answers with scores known in closed form."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
from searching import BEST_LR, case, gap, sweep, without_ray

from amun_ray.base.errors import UserError
from amun_ray.stages.studies import InOrder, Studies
from amun_ray.work.plan import trial_count
from amun_ray.work.trials import cut, shortened

METHODS = {"searching:PLAIN": None, "searching:SHIFTED": {"search": ["shift"]}}


def result(lr, epochs, shift=0.0):
    gaps = [gap(lr, epoch, shift) for epoch in range(1, epochs + 1)]
    return {"best_average_gap": min(gaps), "best_epoch": 1 + int(np.argmin(gaps)), "average_gap": gaps,
            "curves": [[{"average_gap": one} for one in gaps]], "weights": [], "seconds": 0.0}


def seen_until(made, over):
    """The result of a trial that ended there: the best of the epochs that it had."""
    gaps = made["average_gap"][:over.epoch]
    return shortened(made, over) | {"best_average_gap": min(gaps), "best_epoch": 1 + int(np.argmin(gaps))}


class Played:
    """A search with `workers` at once, whose trials end in random order; `left` trials are answered at most."""

    def __init__(self, settings, folder, *, workers=1, left=10_000, answer=result, luck=0, held_out=None):
        self.workspace, self.over, self.ran = without_ray(settings, folder), [], []
        self.studies = Studies(self.workspace, held_out or [case()],
                               lambda trial, stored: self.over.append((trial, stored)))
        running, draw, started = [], random.Random(luck), 0
        while len(self.ran) < left:
            while len(running) < workers:
                asked = self.studies.suggest(str(started))
                if not isinstance(asked, dict):
                    break
                running.append(str(started))
                started += 1
            if not running:
                break
            self._answer(running.pop(draw.randrange(len(running))), answer)

    def _answer(self, trial_id, answer):
        job = self.studies._running[trial_id]
        made = answer(job.settings.lr, job.settings.epochs, job.settings.own.get("shift", 0.0))
        over, store = job.end(made.get("average_gap", ())), self.workspace.store
        self.ran.append(job)
        if over is not None and over.hopeless:
            store.finish(job.stopped, cut(made, over) | {"seconds": made.get("seconds", 0.0)})
        elif over is not None:
            store.finish(job.past, seen_until(made, over))
        elif made:
            store.finish(job.whole, made)
        self.studies.on_trial_complete(trial_id, {}, error=not made)

    @property
    def trials(self):
        """Every trial that is over, in the order of suggestion."""
        return sorted(((str(trial.contender), trial.number, trial.settings, trial.value, trial.result.get("stopped"))
                       for trial, _ in self.over), key=lambda one: one[:2])


SEARCHES = {"tpe": {}, "random": {"sampler": "random"}, "grid": {"sampler": "grid", "grid": {"lr": 5, "own": 2}},
            "points": {"points": [{"lr": 0.5, "schedule": "never"}]},
            "stop_early": {"stop_early": True, "trials": 24, "epochs": 6}}

FAR = [case(before=60.0)]  # so far from the retrained models that some of every first round are better


@pytest.mark.parametrize("name", SEARCHES)
def test_the_same_trials_come_out_whatever_the_number_of_workers_and_their_luck(name, tmp_path):
    settings = sweep(SEARCHES[name], METHODS)
    alone = Played(settings, tmp_path / "alone", held_out=FAR)
    crowd = Played(settings, tmp_path / "crowd", workers=5, luck=3, held_out=FAR)
    assert alone.trials == crowd.trials
    wanted = sum(trial_count(settings, contender) for contender in settings.contenders)
    assert len(alone.trials) == alone.studies.total == wanted
    other = Played(settings.model_copy(update={"seed": 1}), tmp_path / "other", held_out=FAR)
    assert other.trials != alone.trials


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_that_was_cut_off_goes_on_to_the_same_trials_and_repeats_none(name, tmp_path):
    settings = sweep(SEARCHES[name], METHODS)
    whole = Played(settings, tmp_path / "whole", workers=3, held_out=FAR)
    first = Played(settings, tmp_path / "cut", workers=3, left=13, held_out=FAR)
    again = Played(settings, tmp_path / "cut", workers=2, luck=7, held_out=FAR)
    assert again.trials == whole.trials
    assert {job.whole.digest for job in first.ran}.isdisjoint(job.whole.digest for job in again.ran)
    assert sum(stored for _, stored in again.over) == len(first.ran)
    third = Played(settings, tmp_path / "cut", held_out=FAR)
    assert not third.studies.unfinished
    assert third.ran == []
    assert third.studies.winners() == again.studies.winners() == whole.studies.winners()


def test_a_study_finds_what_is_best_and_takes_the_earliest_of_equals(tmp_path):
    played = Played(sweep({"trials": 32}), tmp_path)
    (winner,) = played.studies.winners().values()
    assert winner.value == min(trial.value for trial, _ in played.over)
    assert winner.number == min(trial.number for trial, _ in played.over if trial.value == winner.value)
    assert abs(np.log10(winner.best.lr / BEST_LR)) < 3 / 16  # at most one image wrong
    assert winner.best.epochs == 2
    late = [trial for trial, _ in played.over if trial.number >= 16]
    early = [trial for trial, _ in played.over if trial.number < 8]
    assert np.mean([one.value for one in late]) < np.mean([one.value for one in early])  # it learns


def test_within_one_error_a_better_test_accuracy_wins(tmp_path):
    """Two cases are 4 points apart, a standard error of 2, and the test accuracy rises with the gap by steps of 1.5."""
    def answer(lr, epochs, shift):
        made = result(lr, epochs, shift)
        made["curves"] = [[{"average_gap": value + side, "test_accuracy": value} for value in made["average_gap"]]
                          for side in (-2, 2)]
        return made

    two = [case("held_out 0"), case("held_out 1")]
    least, near = (Played(sweep({"select": select}), tmp_path / select, answer=answer, held_out=two).studies.winners()
                   for select in ("least", "within_one_error"))
    (first,), (second,) = least.values(), near.values()
    assert first.errors.total == 2.0
    assert (first.value, second.value) == (0, 1.5)


def test_a_space_has_only_what_the_method_has_and_the_config_names(tmp_path):
    own = {(trial.contender.method, trial.contender.access): set(trial.settings.own)
           for trial, _ in Played(sweep({}, METHODS), tmp_path).over}
    assert own == {("searching:PLAIN", "retain"): set(), ("searching:PLAIN", "forget_only"): set(),
                   ("searching:SHIFTED", "retain"): {"shift"}}


def test_known_good_points_come_first_and_count_as_trials(tmp_path):
    points = [{"lr": 0.25, "schedule": "every_5", "settings": {"shift": 4}}, {"lr": 0.125, "schedule": "never"}]
    methods = {"searching:SHIFTED": {"search": ["shift"], "points": points}}
    played = Played(sweep({"points": [{"lr": 0.5, "schedule": "every_1"}], "trials": 6}, methods), tmp_path)
    tried = [settings for _, _, settings, _, _ in played.trials]
    assert [(one.lr, one.schedule) for one in tried[:3]] == [(0.5, "every_1"), (0.25, "every_5"), (0.125, "never")]
    assert tried[1].own == {"shift": 4}
    assert 0 <= tried[2].own["shift"] <= 20  # left out: the sampler's
    assert len(tried) == 6


def test_a_grid_is_every_combination_once_and_no_more_than_the_trials_allow(tmp_path):
    search = {"sampler": "grid", "grid": {"lr": 3, "own": 2}, "schedules": ["never", "every_1"], "trials": 50}
    played = Played(sweep(search, METHODS), tmp_path / "all")
    tried = {}
    for contender, _, settings, _, _ in played.trials:
        tried.setdefault(contender, []).append((settings.lr, settings.schedule, *settings.own.values()))
    lrs, schedules = (1e-4, pytest.approx(1e-2), 1.0), ("every_1", "never")
    assert sorted(tried["searching:PLAIN (retain)"]) == [(lr, schedule) for lr in lrs for schedule in schedules]
    assert sorted(tried["searching:SHIFTED (retain)"]) == [
        (lr, schedule, shift) for lr in lrs for schedule in schedules for shift in (0.0, 20.0)]
    few = Played(sweep(search | {"trials": 4}, METHODS), tmp_path / "few")
    assert all(len([one for one in few.trials if one[0] == name]) == 4 for name in tried)


def test_a_place_that_is_suggested_twice_is_run_once(tmp_path):
    search = {"lr": {"low": 0.1, "high": 0.1}, "schedules": ["never"], "trials": 8}
    played = Played(sweep(search), tmp_path, workers=4)
    assert len(played.ran) == 1
    assert len(played.over) == 8


def test_hopeless_trials_stop_early_and_are_no_finished_ones(tmp_path):
    search = {"stop_early": True, "trials": 24, "sampler": "random"}
    played, free = Played(sweep(search), tmp_path / "a"), Played(sweep(search | {"stop_early": False}), tmp_path / "b")
    stopped = [trial for trial, _ in played.over if "stopped" in trial.result]
    assert 3 < len(stopped) < 24
    assert all(len(trial.result["average_gap"]) < 3 and trial.value == float("inf") for trial in stopped)
    states = [one.state.name for one in played.studies._studies[stopped[0].contender]._optuna.trials]
    assert [states[trial.number] for trial, _ in sorted(played.over, key=lambda one: one[0].number)] == [
        "PRUNED" if trial in stopped else "COMPLETE" for trial, _ in
        sorted(played.over, key=lambda one: one[0].number)]
    (winner,), (best,) = played.studies.winners().values(), free.studies.winners().values()
    assert (winner.number, winner.settings, winner.value) == (best.number, best.settings, best.value)
    after = Played(sweep(search), tmp_path / "b")  # the store holds the whole trials: they are cut, not run
    assert after.trials == played.trials
    assert after.ran == []


def test_the_first_round_must_near_the_retrained_and_the_later_ones_the_best(tmp_path):
    played = Played(sweep({"stop_early": True, "trials": 12, "sampler": "random"}), tmp_path, held_out=FAR)
    jobs = sorted(played.ran, key=lambda job: job.number)
    assert {job.limits for job in jobs[:4]} == {(60, 42, 1)}
    values = [trial.value for trial, _ in sorted(played.over, key=lambda one: one[0].number)]
    for start in (4, 8):
        assert {job.limits[:2] for job in jobs[start:start + 4]} == {(60, min(values[:start]))}


def test_a_first_round_without_a_finished_trial_runs_again_to_the_end(tmp_path):
    """The original is nearer to the retrained model than any setting brings a model, so all four are stopped."""
    search = {"stop_early": True, "trials": 8, "sampler": "random", "lr": {"low": 1e-4, "high": 1e-3}}
    near = [case(before=5.0)]
    played = Played(sweep(search), tmp_path / "a", workers=3, held_out=near)
    assert sorted(job.number for job in played.ran) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7]
    assert [job.limits for job in played.ran[:8]] == [(5, 3.5, 1)] * 4 + [(5, None, 1)] * 4
    assert sorted(trial.number for trial, _ in played.over) == [*range(8)]  # each is over once
    assert all(trial.finished for trial, _ in played.over if trial.number < 4)
    free = Played(sweep(search | {"stop_early": False}), tmp_path / "b", held_out=near)
    assert played.studies.winners().keys() == free.studies.winners().keys()
    assert [one.value for one in played.studies.winners().values()] == [
        one.value for one in free.studies.winners().values()]
    again = Played(sweep(search), tmp_path / "a", held_out=near)
    assert again.trials == played.trials
    assert again.ran == []


SLOW = {0.1: [9.9, 9.9, 9.8, 9.8, 9.7, 9.7],    # the original is at 10, so that 7 is hoped for: after two epochs each
        0.2: [9.6, 9.3, 8.95, 8.6, 8.25, 8.0],  # is hopeless. The second is the best; by its 8.0 the first still is,
        0.3: [9.75, 9.35, 9.0, 8.6, 8.0, 7.9],  # but not the third, which may become 7.87,
        0.4: [9.77, 9.37, 9.0, 8.6, 8.0, 7.0]}  # and the fourth, 7.89
POINTS = {"stop_early": True, "trials": 4, "epochs": 6,
          "points": [{"lr": lr, "schedule": "never"} for lr in SLOW]}


def slow(lr, epochs, shift):
    return told(SLOW[lr])


def told(gaps):
    return {"best_average_gap": min(gaps), "best_epoch": gaps.index(min(gaps)) + 1, "average_gap": gaps,
            "curves": [[{"average_gap": one} for one in gaps]], "weights": []}


def test_of_a_hopeless_first_round_the_best_runs_to_the_end_and_then_what_may_beat_it(tmp_path):
    ten = [case(before=10.0)]
    played = Played(sweep(POINTS), tmp_path, answer=slow, held_out=ten)
    assert [(job.number, job.limits) for job in played.ran] == [
        *((number, (10, 7, 2)) for number in range(4)), (1, (10, None, 2)), (2, (10, 8, 2)), (3, (10, 8, 2))]
    assert [one[3] for one in played.trials] == [float("inf"), 8.0, 7.9, 7.0]
    assert "to reach were 7.00" in played.trials[0][4]
    assert len(played.over) == 4
    again = Played(sweep(POINTS), tmp_path, answer=slow, held_out=ten)
    assert again.trials == played.trials
    assert again.ran == []


def test_a_stopped_trial_and_one_that_runs_again_take_the_seconds_of_all_their_runs(tmp_path):
    def answer(lr, epochs, shift):
        return slow(lr, epochs, shift) | {"seconds": 1.0}

    def seconds(played):
        return [trial.result["seconds"] for trial, _ in sorted(played.over, key=lambda one: one[0].number)]

    ten = [case(before=10.0)]
    played = Played(sweep(POINTS), tmp_path, answer=answer, held_out=ten)
    assert seconds(played) == [1.0, 2.0, 2.0, 2.0]
    assert seconds(Played(sweep(POINTS), tmp_path, held_out=ten)) == [1.0, 2.0, 2.0, 2.0]


def test_of_a_hopeless_first_round_that_is_past_its_best_the_best_runs_as_far_again(tmp_path):
    played = Played(sweep(POINTS | {"epochs": 11}), tmp_path, held_out=[case(before=10.0)],
                    answer=lambda lr, *_: told([round(9.9 - lr / 10, 2), *[15.0] * 2, *[1.0] * 8]))
    assert [job.number for job in played.ran] == [0, 1, 2, 3, 3]
    assert [one[3] for one in played.trials] == [*[float("inf")] * 3, 9.86]
    assert [len(trial.result["average_gap"]) for trial, _ in played.over] == [3] * 4


def test_if_the_best_of_a_hopeless_first_round_is_lost_the_next_one_runs_to_the_end(tmp_path):
    seen = []

    def answer(lr, epochs, shift):
        seen.append(lr)
        return {} if seen.count(lr) == 2 and lr == 0.2 else slow(lr, epochs, shift)

    played = Played(sweep(POINTS), tmp_path, answer=answer, held_out=[case(before=10.0)])
    assert [job.number for job in played.ran] == [0, 1, 2, 3, 1, 2, 3]
    assert [job.limits.goal for job in played.ran] == [7, 7, 7, 7, None, None, 7.9]
    assert [one[3] for one in played.trials] == [float("inf"), float("inf"), 7.9, 7.0]
    assert "failed" in next(trial.result for trial, _ in played.over if trial.number == 1)


def test_a_trial_past_its_best_is_finished_and_can_win(tmp_path):
    search = {"stop_early": True, "trials": 12, "sampler": "random", "epochs": 8}
    played, free = Played(sweep(search), tmp_path / "a"), Played(sweep(search | {"stop_early": False}), tmp_path / "b")
    past = [trial for trial, _ in played.over if "past" in trial.result]
    assert all(trial.finished and 4 <= len(trial.result["average_gap"]) < 8 for trial in past)
    (winner,), (best,) = played.studies.winners().values(), free.studies.winners().values()
    assert winner in past
    assert (winner.number, winner.best, winner.value) == (best.number, best.best, best.value)
    after = Played(sweep(search), tmp_path / "b")  # these were run whole
    assert after.trials == played.trials
    assert after.ran == []
    later = Played(sweep(search | {"stop_early": False}), tmp_path / "a")  # and these were not: they run again
    assert later.trials == free.trials
    assert {trial.number for trial in past} <= {job.number for job in later.ran}


def test_a_whole_trial_that_was_better_after_its_end_is_no_result_for_one_that_ends(tmp_path):
    """7, 1, 2, 2, 0.5: past its best after four epochs, of which the second was the best."""
    def answer(lr, epochs, shift):
        gaps = [7.0, 1.0, 2.0, 2.0, 0.5, 9.0]
        return {"best_average_gap": 0.5, "best_epoch": 5, "average_gap": gaps,
                "curves": [[{"average_gap": one} for one in gaps]], "weights": []}

    search = {"trials": 1, "epochs": 6}
    whole = Played(sweep(search), tmp_path, answer=answer)
    ends = Played(sweep(search | {"stop_early": True}), tmp_path, answer=answer)
    assert [(trial.value, trial.best.epochs) for trial, _ in (*whole.over, *ends.over)] == [(0.5, 5), (1.0, 2)]
    assert len(ends.ran) == 1
    assert Played(sweep(search), tmp_path).over[0][0].value == 0.5
    assert Played(sweep(search | {"stop_early": True}), tmp_path).trials == ends.trials


def test_with_two_objectives_no_trial_is_hopeless(tmp_path):
    """The front holds one trial that is best by each term, and far behind in the mean of both."""
    def answer(lr, epochs, shift):
        made = result(lr, epochs, shift)
        return made | {"proxy": [100 - value for value in made["average_gap"]]}

    played = Played(sweep({"objective": "both", "stop_early": True, "trials": 24, "sampler": "random"}), tmp_path,
                    answer=answer)
    assert all("stopped" not in trial.result for trial, _ in played.over)
    assert all(job.limits is None for job in played.ran)


def test_a_failed_trial_is_told_as_failed_and_the_rest_goes_on(tmp_path):
    def answer(lr, epochs, shift):
        return result(lr, epochs, shift) if lr < 0.1 else {"failed": "epoch 1: loss is nan"}
    played = Played(sweep({}), tmp_path, answer=answer)
    failed = [trial for trial, _ in played.over if "failed" in trial.result]
    assert failed
    assert {trial.number for trial in failed} == {trial.number for trial, _ in played.over if trial.settings.lr >= 0.1}
    (winner,) = played.studies.winners().values()
    assert winner.finished


def test_a_method_without_a_successful_trial_is_lost_with_the_reason_and_the_others_go_on(tmp_path):
    def answer(lr, epochs, shift):  # of METHODS the one with a shift alone succeeds
        return result(lr, epochs, shift) if shift else {"failed": "epoch 1: loss is nan"}
    played = Played(sweep({"trials": 4}, METHODS), tmp_path, answer=answer)
    ((winner, trial),) = played.studies.winners().items()
    assert winner.method == "searching:SHIFTED"
    assert trial.finished
    assert set(played.studies.lost().values()) == {"epoch 1: loss is nan"}
    assert {*played.studies.lost(), winner} == {*played.workspace.sweep.contenders}


def test_a_search_without_any_successful_trial_ends_with_the_reasons(tmp_path):
    settings = sweep({"trials": 3}, METHODS)
    played = Played(settings, tmp_path, answer=lambda *_: {"failed": "epoch 1: loss is nan"})
    with pytest.raises(UserError, match=r"no successful trial: searching:PLAIN \(retain\): epoch 1: loss is nan"):
        played.studies.winners()
    lost = Played(sweep({"trials": 2}), tmp_path / "lost", answer=lambda *_: {})
    assert [trial.result for trial, _ in lost.over] == [
        {"failed": "its worker was lost, and again each time it was tried", "kept": False}] * 2
    assert Played(sweep({"trials": 2}), tmp_path / "lost").ran  # another start tries such a trial again


def test_a_trial_whose_worker_was_lost_says_what_it_was_lost_to_last(tmp_path):
    studies = Studies(without_ray(sweep({"trials": 1}), tmp_path), [case()], lambda trial, stored: None)
    assert studies.suggest("a")
    (tmp_path / "error.txt").write_text(  # as Tune writes it
        "Failure # 1 (occurred at 2026-11-26_16-00-00)\nThe node has died.\n"
        "Failure # 2 (occurred at 2026-11-26_16-01-00)\n1 worker(s) were killed due to the node running low on memory. "
        "Memory on the node\n")
    InOrder(studies).on_trial_error(None, SimpleNamespace(trial_id="a", error_file=str(tmp_path / "error.txt")))
    studies.on_trial_complete("a", error=True)
    ((_, reason),) = studies.lost().items()
    assert reason.startswith("its worker was lost, and again each time it was tried: a node was running low on memory")
