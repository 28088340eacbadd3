"""When a trial of a search ends before its last epoch: it is hopeless, or past its best.

Hopeless: it is stopped, and cannot win. Past its best: it is finished, and wins with its best epoch if no other is
better. The constants and what they save and lose: benchmarks/README.md, `early_stop.py`.
"""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

PACE = 1.25  # a later epoch improves a trial at most so many times as much as its best one so far
HOPED = 0.8  # of the original's value: what a trial of the first round must be able to reach
SETTLED = 2  # the first epoch after which a trial of the first round is judged: a method may damage first, then repair
WORSE, IN_A_ROW = 1.5, 2  # past its best: so many times its best value, after so many epochs in a row


class Limits(NamedTuple):
    """What decides whether a trial is hopeless: lower values are better, all are at least 0."""

    original: float     # the value of the original model, from which every trial sets out
    goal: float | None  # what the trial must be able to reach; None: it is never hopeless
    since: int          # the first epoch after which it is judged, from 1


class End(NamedTuple):
    """The end of a trial before its last epoch."""

    epoch: int
    hopeless: bool  # otherwise past its best
    reason: str


def limits(original: float, best: float, *, first: bool) -> Limits:
    """The limits of trials. The goal is the `best` value of the study's finished ones (infinite if there are none) if
    that is better than the original's; otherwise what is hoped for in the `first` round, and none later."""
    if best < original:
        return Limits(original, best, 1)
    return Limits(original, HOPED * original if first else None, SETTLED)


def end(values: Sequence[float], limits: Limits | None, epochs: int) -> End | None:
    """Where a trial of `epochs` epochs ends, by its value after each epoch; None: these values do not end it.

    It is hopeless if it would not reach the goal even by improving in every epoch that is left PACE times as much as it
    did in its best epoch. Without `limits` every trial runs to its last epoch.
    """
    if limits is None:
        return None
    before, best, pace, worse = limits.original, inf, 0.0, 0
    for epoch, value in enumerate(values[:epochs - 1], 1):
        best, pace, before = min(best, value), max(pace, before - value), value
        reach = best - PACE * pace * (epochs - epoch)
        if limits.goal is not None and epoch >= limits.since and reach > limits.goal:
            return End(epoch, True, f"hopeless after epoch {epoch}: {best:.2f} points at best, and no more than "
                                    f"{pace:.2f} better in an epoch; to reach were {limits.goal:.2f}")
        worse = worse + 1 if value > WORSE * best else 0
        if worse == IN_A_ROW:
            return End(epoch, False, f"past its best after epoch {epoch}: {value:.2f} points, {best:.2f} at best")
    return None
