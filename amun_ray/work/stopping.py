"""When a trial of a search ends before its last epoch: it is hopeless, or past its best.

Hopeless: it is stopped, and cannot win. Past its best: it is finished, and wins with its best epoch if no other is
better. What the constants save and lose: benchmarks/README.md, `early_stop.py`.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, inf
from typing import NamedTuple

HOPED = 0.7  # of the original's value: what a trial of the first round must be able to reach
UNJUDGED = 5  # the first of so many parts of its epochs, in which no trial is hopeless, since a method may begin slowly
LAST = 3  # the last epochs, of which the one that improved a trial most says what it may improve in the next,
KEPT = 0.95  # and so much less in each after it: a trial slows down
WORSE, IN_A_ROW = 1.5, 2  # past its best: so many times its best value, after so many epochs in a row,
STALE = 4  # or no better after so many epochs


class Limits(NamedTuple):
    """What decides whether a trial is hopeless: values as the search minimises them, in points."""

    original: float     # of the original model, from which every trial sets out
    goal: float | None  # which the trial must be able to reach; None: it is never hopeless
    since: int          # the first epoch after which it is judged, from 1


class End(NamedTuple):
    """The end of a trial before its last epoch."""

    epoch: int  # from 1
    hopeless: bool  # otherwise past its best
    reason: str


def limits(original: float, best: Sequence[float], epochs: int, *, first: bool) -> Limits:
    """The limits of trials of `epochs` epochs, by the values of the study's `best` finished one after each of its own
    (empty if there is none).

    The goal is its least value if that is better than the original's; otherwise what is hoped for in the `first` round,
    and none later. No trial is judged where the best one itself would have been hopeless.
    """
    goal, since = min(best, default=inf), ceil(epochs / UNJUDGED)
    if goal >= original:
        return Limits(original, HOPED * original if first else None, since)
    hopeless = [epoch for epoch in range(since, len(best)) if reach(original, best[:epoch], epochs) > goal]
    return Limits(original, goal, max(hopeless, default=since - 1) + 1)


def reach(original: float, values: Sequence[float], epochs: int) -> float:
    """What a trial of `epochs` epochs may come to, by its `values` after each so far: its best, improved in the next
    epoch by as much as in the best of its last ones, and a little less in each that is left."""
    pace = max(0.0, *(before - after for before, after in pairwise([original, *values][-LAST - 1:])))
    return min(values) - pace * sum(KEPT**each for each in range(epochs - len(values)))


def end(values: Sequence[float], limits: Limits | None, epochs: int) -> End | None:
    """Where a trial of `epochs` epochs ends, by its value after each epoch; None: these values do not end it.

    It is hopeless if the goal is out of its reach. Without `limits` every trial runs to its last epoch.
    """
    if limits is None:
        return None
    best, at, worse = inf, 0, 0
    for epoch, value in enumerate(values[:epochs - 1], 1):
        best, at = min((best, at), (value, epoch))
        if limits.goal is not None and epoch >= limits.since:
            hoped = reach(limits.original, values[:epoch], epochs)
            if hoped > limits.goal:
                return End(epoch, True, f"hopeless after epoch {epoch}: {best:.2f} points at best, which may become "
                                        f"{hoped:.2f}; to reach were {limits.goal:.2f}")
        worse = worse + 1 if value > WORSE * best else 0
        if worse == IN_A_ROW or epoch - at == STALE:
            return End(epoch, False, f"past its best after epoch {epoch}: {value:.2f} points, {best:.2f} at best")
    return None
