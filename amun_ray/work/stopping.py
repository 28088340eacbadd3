"""When a trial of a search ends before its last epoch: it is hopeless, or past its best.

Hopeless: it is stopped, and cannot win. Past its best: it is finished, and wins with its best epoch if no other is
better. What the constants save and lose: benchmarks/README.md, `early_stop.py`.
"""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

HOPED = 0.8  # of the original's value: what a trial of the first round must be able to reach
UNJUDGED = 0.2  # of its epochs: before it has had so many, no trial is hopeless, since a method may begin slowly
LAST = 3  # the last epochs, of which the one that improved a trial most says what it may improve in each to come
WORSE, IN_A_ROW = 1.5, 2  # past its best: so many times its best value, after so many epochs in a row,
STALE = 4  # or no better after so many epochs


class Limits(NamedTuple):
    """What decides whether a trial is hopeless: values as the search minimises them, in points."""

    original: float     # of the original model, from which every trial sets out
    goal: float | None  # which the trial must be able to reach; None: it is never hopeless


class End(NamedTuple):
    """The end of a trial before its last epoch."""

    epoch: int  # from 1
    hopeless: bool  # otherwise past its best
    reason: str


def limits(original: float, best: float, *, first: bool) -> Limits:
    """The limits of trials. The goal is the `best` value of the study's finished ones (infinite if there are none) if
    that is better than the original's; otherwise what is hoped for in the `first` round, and none later."""
    if best < original:
        return Limits(original, best)
    return Limits(original, HOPED * original if first else None)


def end(values: Sequence[float], limits: Limits | None, epochs: int) -> End | None:
    """Where a trial of `epochs` epochs ends, by its value after each epoch; None: these values do not end it.

    It is hopeless if it would not reach the goal by improving in each epoch that is left as much as it did in the best
    of its last epochs. Without `limits` every trial runs to its last epoch.
    """
    if limits is None:
        return None
    path, best, at, worse = [limits.original, *values], inf, 0, 0
    for epoch, value in enumerate(values[:epochs - 1], 1):
        best, at = min((best, at), (value, epoch))
        pace = max(0.0, *(path[each - 1] - path[each] for each in range(max(1, epoch - LAST + 1), epoch + 1)))
        reach = best - pace * (epochs - epoch)
        if limits.goal is not None and epoch >= UNJUDGED * epochs and reach > limits.goal:
            return End(epoch, True, f"hopeless after epoch {epoch}: {best:.2f} points at best, lately at most "
                                    f"{pace:.2f} better in an epoch; to reach were {limits.goal:.2f}")
        worse = worse + 1 if value > WORSE * best else 0
        if worse == IN_A_ROW or epoch - at == STALE:
            return End(epoch, False, f"past its best after epoch {epoch}: {value:.2f} points, {best:.2f} at best")
    return None
