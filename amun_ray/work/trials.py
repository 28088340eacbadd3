"""What a trial is: its address and its outcome."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from amun_ray.metrics import crossed_mean
from amun_ray.storage.store import Store, Unit
from amun_ray.unlearn import Contender
from amun_ray.work.stopping import IN_A_ROW, STALE, WORSE, End, Limits, end
from amun_ray.work.units import Case, Hyperparameters, Workspace, case_inputs

TERMS = ("average_gap", "proxy", "iam_gap")  # what a search may minimise, in percentage points


@dataclass(frozen=True)
class Job:
    """A trial to run: its place in its study, its settings, and its limits; None: it runs to its last epoch.

    Three units may hold its result. The addresses of `whole` and `past`, for one that ended past its best, do not
    depend on limits, so that every search finds them; that of `stopped`, for a hopeless one, does.
    """

    contender: Contender
    number: int
    settings: Hyperparameters
    limits: Limits | None
    whole: Unit
    past: Unit
    stopped: Unit

    @classmethod
    def of(cls, workspace: Workspace, cases: Sequence[Case], contender: Contender, number: int,
           settings: Hyperparameters, limits: Limits | None) -> "Job":
        inputs, search = case_inputs(workspace, contender, settings, cases, run=0), workspace.sweep.search
        if search.objective != "average_gap":
            inputs["objective"] = search.objective
        return cls(contender, number, settings, limits, Unit("trials", inputs),
                   Unit("trials", inputs | {"past": [WORSE, IN_A_ROW, STALE]}),
                   Unit("trials", inputs | {"limits": list(limits or ())}))

    def end(self, values: Sequence[float]) -> End | None:
        """As in `stopping.end`."""
        return end(values, self.limits, self.settings.epochs)

    def stored(self, store: Store) -> "Trial | None":
        """The trial as the store has it. If another search ran it for longer, it ends where it would have ended here:
        the same config gives the same trials, whatever the store holds. One that would not have ended here is none."""
        for unit in (self.whole, self.past, self.stopped) if self.limits else (self.whole,):
            if (result := store.result(unit)) is None:
                continue
            over, early = self.end(curve(result)), not result.keys().isdisjoint(("stopped", "past"))
            if over is None and not early:
                return self.trial(unit, result)
            if over is not None and over.hopeless:
                ran = result if unit is self.stopped else store.result(self.stopped) or {}  # others may have gone on
                return self.trial(self.stopped, cut(result, over) | {"seconds": ran.get("seconds", 0.0)})
            if over is not None and result.get("best_epoch", math.inf) <= over.epoch:
                return self.trial(unit, shortened(result, over))
        return None

    def trial(self, unit: Unit, result: dict[str, Any]) -> "Trial":
        """This trial with a result, which is that of `unit`."""
        return Trial(self.contender, self.number, self.settings, unit, result)


@dataclass(frozen=True)
class Trial:
    """A trial that is over: its place in its study, its settings, and its stored result.

    The result has each term of the objective by epoch and, for a finished trial, its best epoch; otherwise its `failed`
    or `stopped` is the reason. The reason of a finished one with fewer epochs is its `diverged` or `past`.
    """

    contender: Contender
    number: int
    settings: Hyperparameters  # with the requested number of epochs
    unit: Unit
    result: dict[str, Any]
    reused: bool = field(default=False, compare=False)  # whether the store already had it

    @property
    def finished(self) -> bool:
        return "failed" not in self.result and "stopped" not in self.result

    @property
    def scores(self) -> dict[str, float]:
        """Each term of the objective at the best epoch, in points; empty unless the trial finished."""
        return {term: self.result[f"best_{term}"] for term in TERMS if f"best_{term}" in self.result}

    @property
    def value(self) -> float:
        """The number that ranks trials, lower is better: the mean of `scores`, infinite if there are none."""
        return float(np.mean(list(self.scores.values()))) if self.finished else float("inf")

    @property
    def best(self) -> Hyperparameters:
        return self.settings._replace(epochs=self.result["best_epoch"])

    @property
    def at_best(self) -> list[dict[str, float]]:
        """The scores of each case at the best epoch."""
        return [scores[self.result["best_epoch"] - 1] for scores in self.result["curves"]]

    @property
    def test_accuracy(self) -> float:
        """Percent, at the best epoch, mean over the cases."""
        return float(np.mean([scores["test_accuracy"] for scores in self.at_best]))

    @property
    def errors(self) -> "Errors":
        """How sure `value` is. The cases are crossed, originals with forget sets: see `crossed_mean`."""
        originals = len({case["original"] for case in self.unit.inputs["cases"]})
        values = np.array([np.mean([scores[term] for term in self.scores]) for scores in self.at_best])
        cases = crossed_mean(values.reshape(originals, -1)).standard_error if len(values) > 1 else None
        return Errors(cases, self.result.get("bank_error"))


class Errors(NamedTuple):
    """Standard errors of a trial's value, in points; None where nothing is known of one."""

    cases: float | None  # other originals and forget sets would have given another value
    bank: float | None  # and so would other reference models

    @property
    def total(self) -> float:
        """Both together, as if they were independent; what is not known counts as none."""
        return math.hypot(self.cases or 0.0, self.bank or 0.0)

    def __str__(self) -> str:
        parts = [f"{name} {value:.2f}" for name, value in self._asdict().items() if value is not None]
        return f"+- {self.total:.2f} ({', '.join(parts)})" if parts else "(error unknown)"


def chosen(trials: Sequence[Trial], select: str) -> Trial:
    """The trial whose settings go to the finals; without a finished one, the first that is not.

    `least`: that of the least value, the earliest of equals. `within_one_error`: of all whose value is at most one
    standard error of that one greater, that of the best test accuracy; of equals that of the least value.
    """
    least = min(trials, key=lambda trial: (trial.value, trial.number))
    if select == "least" or not least.finished:
        return least
    near = [trial for trial in trials if trial.value <= least.value + least.errors.total]
    return min(near, key=lambda trial: (-trial.test_accuracy, trial.value, trial.number))


def curve(result: dict[str, Any]) -> list[float]:
    """The number that ranks epochs, after each epoch of a result: the mean of the objective's terms."""
    return [float(np.mean(values)) for values in zip(*(result[term] for term in TERMS if term in result), strict=True)]


def shortened(result: dict[str, Any], over: End) -> dict[str, Any]:
    """The result of a trial that ended past its best, from one with later epochs."""
    kept = {key: value for key, value in result.items() if key != "diverged"}
    return kept | _epochs(result, over.epoch) | {"past": over.reason}


def cut(result: dict[str, Any], over: End) -> dict[str, Any]:
    """The result of a hopeless trial, from one with later epochs: without a best epoch, so that it cannot win."""
    return _epochs(result, over.epoch) | {"stopped": over.reason}


def _epochs(result: dict[str, Any], epochs: int) -> dict[str, Any]:
    """The curves of a result up to an epoch."""
    return {term: result[term][:epochs] for term in TERMS if term in result} | {
        "curves": [case[:epochs] for case in result["curves"]]}
