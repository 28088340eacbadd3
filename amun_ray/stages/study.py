"""One Optuna study: the next trial of one method with one access, chosen from the trials of earlier rounds alone.

Suggestions come in rounds of `search.together`. Each is drawn by a sampler seeded with the trial's number, and Optuna
is told the results of a round when all of it is over, in the order of suggestion, so that the trials do not depend on
the number of workers. A failed trial is reported as failed, a stopped one as pruned, never with its early value.

No trial is finished yet in the first round, so its trials are stopped by what is hoped for. Where that leaves none,
this was too much: the best of those that were stopped runs again, to the end, and then each that is not hopeless by its
value.
"""

import warnings
from collections import deque
from dataclasses import replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial

from amun_ray.base.names import lookup
from amun_ray.base.seeds import derive
from amun_ray.config.schema import Sweep
from amun_ray.unlearn import Contender
from amun_ray.work.plan import given_points, trial_count
from amun_ray.work.stopping import Limits, end, limits
from amun_ray.work.trials import Trial, curve
from amun_ray.work.units import Hyperparameters

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def tpe(seed: int, startup: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)


def uniform(seed: int, startup: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


SAMPLERS = {"tpe": tpe, "random": uniform, "grid": uniform}  # a grid is enqueued in advance, so nothing is drawn


class Study:
    """The trials of one (method, access); known-good points and grid points come first.

    Args:
        original: the value of the original model; None: no trial ends early.
    """

    def __init__(self, sweep: Sweep, contender: Contender, original: float | None) -> None:
        self._search, self._space, self._original = sweep.search, sweep.space(contender), original
        self.total = trial_count(sweep, contender)
        self.finished: list[Trial] = []
        self._asked: list[optuna.Trial] = []
        self._round: dict[int, Trial] = {}
        self._held: dict[int, Trial] = {}  # those of the first round that were stopped, and may run again
        self._again: deque[Trial] = deque()
        self._spent: dict[int, float] = {}  # the seconds of those until they were stopped
        self._hopes = True  # whether trials may be stopped although none is finished
        self.limits = self._limits()  # for the trials that are suggested next; None if they run to their last epoch
        sampler = SeededByNumber(self._search.sampler, sweep.seed, str(contender), startup=self._search.startup)
        self._optuna = optuna.create_study(directions=["minimize"] * len(self._search.terms), sampler=sampler)
        for point in given_points(sweep, contender):
            self._optuna.enqueue_trial(point)

    def next_settings(self) -> tuple[int, Hyperparameters] | None:
        """The next trial's number and settings; None if the study is done or waiting for its round."""
        if self._again:
            return (again := self._again.popleft()).number, again.settings
        number, together = len(self._asked), self._search.width
        if number == self.total or len(self.finished) < number // together * together:
            return None
        self._asked.append(asked := self._optuna.ask())
        own: dict[str, Any] = {name: axis.suggest(asked, name) for name, axis in self._space.items()}
        return number, Hyperparameters(own.pop("lr"), own.pop("schedule"), self._search.epochs, own)

    def tell(self, trial: Trial) -> list[Trial]:
        """Record a trial that has ended; after the last of its round, tell Optuna all of them, in order.

        Returns the trials that are over with it, which is all but those that may have to run again. One that has run
        again took the seconds of both runs.
        """
        if spent := self._spent.pop(trial.number, 0.0):
            trial = replace(trial, result=trial.result | {"seconds": trial.result.get("seconds", 0.0) + spent})
        held = self._hopes and "stopped" in trial.result
        (self._held if held else self._round)[trial.number] = trial
        over, width = [] if held else [trial], min(self._search.width, self.total - len(self.finished))
        if self._held and len(self._round) + len(self._held) == width:
            over += self._settled()
        if len(self._round) == width:
            for number in sorted(self._round):
                self._optuna.tell(self._asked[number], **_outcome(self._round[number]))
                self.finished.append(self._round[number])
            self._round.clear()
            self._hopes, self.limits = False, self._limits()
        return over

    def _settled(self) -> list[Trial]:
        """The held trials that are over, now that all others of their round are; what else is held may run again."""
        held = [self._held[number] for number in sorted(self._held)]
        finished = any(each.finished for each in self._round.values())
        if not (self._hopes and finished):  # otherwise they are over, by the limits that stopped them
            self._hopes = False
            self.limits = self._limits()
        if finished:
            over = [each for each in held if end(curve(each.result), self.limits, self._search.epochs)]
            again = [each for each in held if each not in over]
        else:
            over, again = [], [min(held, key=lambda each: min(curve(each.result)))]
        self._round |= {each.number: self._held.pop(each.number) for each in over}
        self._again += [self._held.pop(each.number) for each in again]
        self._spent |= {each.number: each.result.get("seconds", 0.0) for each in again}
        return over

    def _limits(self) -> Limits | None:
        """By the best of the trials that are over."""
        if not self._search.stop_early or self._original is None:
            return None
        best = min((each for each in (*self.finished, *self._round.values()) if each.finished),
                   key=lambda each: each.value, default=None)
        return limits(self._original, [] if best is None else curve(best.result), self._search.epochs,
                      first=self._hopes)

    @property
    def front(self) -> list[Trial]:
        """The finished trials that no other beats in every term; with one term, a single trial."""
        return [self.finished[trial.number] for trial in self._optuna.best_trials]


def _outcome(trial: Trial) -> dict[str, Any]:
    if trial.finished:
        return {"values": list(trial.scores.values())}
    return {"state": optuna.trial.TrialState.FAIL if "failed" in trial.result else optuna.trial.TrialState.PRUNED}


class SeededByNumber(optuna.samplers.BaseSampler):
    """A sampler reseeded for each trial with its number: its suggestions depend only on the finished trials."""

    def __init__(self, name: str, seed: int, study: str, startup: int) -> None:
        self._make, self._seed, self._study, self._startup = lookup(SAMPLERS, name, "sampler"), seed, study, startup

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler = self._make(derive(self._seed, "search", self._study, trial.number) % 2**32, self._startup)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial,
                        search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str,
                           param_distribution: BaseDistribution) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)
