"""What a trial is: its address, its outcome, and when it is hopeless."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from amun_ray.metrics import crossed_mean
from amun_ray.storage.store import Store, Unit
from amun_ray.unlearn import Contender
from amun_ray.work.units import Case, Hyperparameters, Workspace, case_inputs

TERMS = ("average_gap", "proxy", "iam_gap")  # what a search may minimise, in percentage points


@dataclass(frozen=True)
class Job:
    """A trial to run: its place in its study, its settings, and the limits that it must stay within.

    Two units may hold its result. The address of `whole` does not depend on limits, so that every search finds it; that
    of `stopped`, for a stopped trial, includes the limits that stopped it.
    """

    contender: Contender
    number: int
    settings: Hyperparameters
    limits: tuple[float, ...] | None  # see `limits`
    whole: Unit
    stopped: Unit

    @classmethod
    def of(cls, workspace: Workspace, cases: Sequence[Case], contender: Contender, number: int,
           settings: Hyperparameters, limits: tuple[float, ...] | None) -> "Job":
        inputs, search = case_inputs(workspace, contender, settings, cases, run=0), workspace.sweep.search
        if search.objective != "average_gap":
            inputs["objective"] = search.objective
        return cls(contender, number, settings, limits, Unit("trials", inputs),
                   Unit("trials", inputs | {"limits": list(limits or ())}))

    def result(self, store: Store) -> dict[str, Any] | None:
        """The stored result of this trial. If an earlier search ran it for longer, it is cut where these limits would
        have stopped it: the same config gives the same trials, whatever the store holds."""
        result = store.result(self.whole)
        if result is None:
            return store.result(self.stopped) if self.limits else None
        limits = self.limits or ()
        stop = stopped_after(curve(result), limits)
        return result if stop is None else cut(result, stop, limits)

    def trial(self, result: dict[str, Any]) -> "Trial":
        return Trial(self.contender, self.number, self.settings, self.stopped if "stopped" in result else self.whole,
                     result)


@dataclass(frozen=True)
class Trial:
    """A trial that is over: its place in its study, its settings, and its stored result.

    The result has each term of the objective by epoch and, for a finished trial, its best epoch; otherwise its `failed`
    or `stopped` is the reason.
    """

    contender: Contender
    number: int
    settings: Hyperparameters  # with the requested number of epochs
    unit: Unit
    result: dict[str, Any]

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


def limits(finished: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """For each epoch but the last, the limit that a trial's best value so far must not exceed.

    A trial is hopeless after epoch e if its best value so far is behind the best of all `finished` trials, given as
    curves over all epochs, by more than any of those improved its own best value after epoch e. None of its epochs so
    far is the best of the study: that one is lower.
    """
    epochs = max(map(len, finished))  # a diverged trial has fewer, and did not improve
    padded = [[*values, *[np.inf] * (epochs - len(values))] for values in finished]
    best_so_far = np.minimum.accumulate(padded, axis=1)  # (trials, epochs)
    made_up = (best_so_far - best_so_far[:, -1:]).max(axis=0)
    return tuple(float(value) for value in best_so_far[:, -1].min() + made_up[:-1])


def stopped_after(values: Sequence[float], limits: Sequence[float]) -> int | None:
    """The epoch, from 1, after which a trial with these values by epoch is hopeless; None if it stays within limits."""
    best_so_far = np.minimum.accumulate(values) if len(values) else ()
    return next((epoch for epoch, (value, limit) in enumerate(zip(best_so_far, limits, strict=False), 1)
                 if value > limit), None)


def cut(result: dict[str, Any], epochs: int, limits: Sequence[float]) -> dict[str, Any]:
    """The result of a trial stopped after `epochs` epochs: without a best epoch, so that it cannot win."""
    kept = {term: result[term][:epochs] for term in TERMS if term in result}
    best = min(curve(kept))
    return kept | {"curves": [case[:epochs] for case in result["curves"]],
                   "stopped": f"hopeless after epoch {epochs}: {best:.2f} points at best, more than the limit of "
                              f"{limits[epochs - 1]:.2f}"}
