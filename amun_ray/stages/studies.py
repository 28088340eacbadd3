"""What Tune is given to try: one Optuna study per method and access, advanced in rounds, reproducible and resumable.

Suggestions are made in rounds of `search.together`. Each is seeded by its own number, and a study is told of a round
when all of it is finished, in the order of suggestion: the same trials come out whatever the number of workers, and a
search that was interrupted suggests what it did before, finds those trials in the store, and goes on with the rest.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from amun_ray.config import Method, Sweep
from amun_ray.errors import UserError
from amun_ray.names import lookup
from amun_ray.seeds import derive
from amun_ray.stages.cases import Case, Contender, Settings, case_inputs
from amun_ray.stages.workspace import Workspace
from amun_ray.store import Unit
from amun_ray.unlearn import METHODS

METRIC = "best_average_gap"
optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Trial:
    """A finished trial: its place in its study, what it tried, and its stored result (`failed`: the reason)."""

    contender: Contender
    number: int
    settings: Settings  # with the number of epochs that was run
    unit: Unit
    result: dict[str, Any]

    @property
    def gap(self) -> float:
        """The lowest Avg. Gap of any epoch, in points; infinite for a failed trial."""
        return self.result.get(METRIC, float("inf"))

    @property
    def best(self) -> Settings:
        return self.settings._replace(epochs=self.result["best_epoch"])


def trial_unit(workspace: Workspace, cases: Sequence[Case], contender: Contender, settings: Settings) -> Unit:
    """The address of a trial."""
    return Unit("trials", case_inputs(workspace, contender, settings, cases, run=0))


class Studies(Searcher):
    """What Tune asks for trials: one Optuna study per (method, access), advanced in rounds, side by side."""

    def __init__(self, workspace: Workspace, cases: Sequence[Case], on_trial: Callable[[Trial], None]) -> None:
        super().__init__()
        self._workspace, self._cases, self._on_trial = workspace, cases, on_trial
        self._studies = {contender: _Study(workspace.sweep, contender)
                         for contender in (Contender(*names) for names in workspace.sweep.contenders)}
        self.total = len(self._studies) * workspace.sweep.search.trials
        self._ready: deque[tuple[Contender, int, Settings, Unit]] = deque()
        self._running: dict[str, tuple[Contender, int, Settings, Unit]] = {}
        for contender in self._studies:
            self._refill(contender)

    @property
    def unfinished(self) -> bool:
        """Whether there is a trial that the store does not hold."""
        return bool(self._ready)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if not self._ready:
            return None if self._running else Searcher.FINISHED
        contender, _, settings, _ = self._running[trial_id] = self._ready.popleft()
        return {"contender": list(contender), "settings": list(settings)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Epochs in between are not told: a study knows finished trials alone."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        contender, number, settings, unit = self._running.pop(trial_id)
        stored = self._workspace.store.result(unit) or {"failed": "its worker was lost or raised an error"}
        self._finish(contender, Trial(contender, number, settings, unit, stored))
        self._refill(contender)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the store holds every finished trial, and the suggestions follow from those."""

    def winners(self) -> dict[Contender, Trial]:
        """The trial with the lowest Avg. Gap of every study; the earliest of equals."""
        best = {contender: min(study.finished, key=lambda trial: (trial.gap, trial.number))
                for contender, study in self._studies.items()}
        lost = [f"{contender}: {trial.result['failed']}" for contender, trial in best.items()
                if "failed" in trial.result]
        if lost:
            raise UserError("no successful trial: " + "; ".join(lost) + ". Search lower learning rates (search.lr)")
        return best

    def _refill(self, contender: Contender) -> None:
        """Queue the trials that the study may suggest by now; those that the store holds are finished at once."""
        study = self._studies[contender]
        while (suggested := study.next_trial()) is not None:
            number, settings = suggested
            unit = trial_unit(self._workspace, self._cases, contender, settings)
            stored = self._workspace.store.result(unit)
            if stored is None:
                self._ready.append((contender, number, settings, unit))
            else:
                self._finish(contender, Trial(contender, number, settings, unit, stored))

    def _finish(self, contender: Contender, trial: Trial) -> None:
        self._studies[contender].finish(trial)
        self._on_trial(trial)


class _Study:
    """One Optuna study, behind Tune's OptunaSearch, that sees results a whole round at a time and in order."""

    def __init__(self, sweep: Sweep, contender: Contender) -> None:
        self._search, self._suggested = sweep.search, 0
        self._round: dict[int, Trial] = {}
        self.finished: list[Trial] = []
        sampler = SeededByNumber(sweep.seed, str(contender), startup=sweep.search.startup)
        self._optuna = OptunaSearch(Space(sweep, contender.method), metric=METRIC, mode="min", sampler=sampler)

    def next_trial(self) -> tuple[int, Settings] | None:
        """The next trial's number and settings; None when the study is at its end or waits for its round."""
        number, together = self._suggested, self._search.together
        if number == self._search.trials or len(self.finished) < number // together * together:
            return None
        self._suggested += 1
        own = self._optuna.suggest(str(number))
        return number, Settings(own.pop("lr"), own.pop("schedule"), self._search.epochs, own)

    def finish(self, trial: Trial) -> None:
        """Note a finished trial; when its round is complete, tell Optuna of all of it, in the order of suggestion."""
        self._round[trial.number] = trial
        if len(self._round) < min(self._search.together, self._search.trials - len(self.finished)):
            return
        for number in sorted(self._round):
            done = self._round[number]
            failed = "failed" in done.result
            self._optuna.on_trial_complete(str(number), None if failed else {METRIC: done.gap}, error=failed)
            self.finished.append(done)
        self._round.clear()


class Space:
    """The space of a study, as OptunaSearch wants it: picklable, called with an Optuna trial."""

    def __init__(self, sweep: Sweep, method: str) -> None:
        self._search = sweep.search
        chosen = (sweep.methods[method] or Method()).search
        self._own = {key: lookup(METHODS, method, "method").settings[key] for key in chosen}

    def __call__(self, trial: optuna.Trial) -> None:
        trial.suggest_float("lr", self._search.lr.low, self._search.lr.high, log=True)
        trial.suggest_categorical("schedule", self._search.schedules)
        for key, setting in self._own.items():
            if setting.choices is not None:
                trial.suggest_categorical(key, setting.choices)
            else:
                trial.suggest_float(key, setting.low, setting.high, log=setting.log)


class SeededByNumber(optuna.samplers.BaseSampler):
    """TPE, seeded anew for each trial by the trial's number: what it suggests depends on the finished trials alone."""

    def __init__(self, seed: int, study: str, startup: int) -> None:
        self._seed, self._study, self._startup = seed, study, startup

    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        seed = derive(self._seed, "search", self._study, trial.number) % 2**32
        self._tpe = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self._startup, constant_liar=True)

    def infer_relative_search_space(self, study, trial):
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(self, study, trial, search_space):
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(self, study, trial, param_name, param_distribution):
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)
