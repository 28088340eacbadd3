"""The ends of the spectrum of a symmetric map, by Lanczos's method with a bound on the error."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from amun_ray.unlearn.gradients import Vector, combine, dot, scaled

FAILURE = 1e-6  # probability, over the random start, with which an error bound may not hold
ROUNDING = 1e-5  # of the largest magnitude: more than the float32 sums over a data set are off by


class Ends(NamedTuple):
    """What is known after a number of steps: `smallest - error` <= the smallest eigenvalue <= `smallest`, up to
    rounding on the right."""

    smallest: float
    largest: float
    error: float  # inf while there are too few steps to say anything


def ends(bend: Callable[[Vector], Vector], start: Vector) -> Iterator[Ends]:
    """The ends of the spectrum of `bend`, one application of it better at each step; ends by itself where they are
    exact, or `bend` gives no finite numbers.

    For a start of random direction in n dimensions, k steps miss the largest eigenvalue by more than a share r of the
    spectrum's width with a probability of at most 1.648 sqrt(n) exp(-(2 k - 1) sqrt(r)) (Kuczynski and Wozniakowski,
    SIAM J. Matrix Anal. Appl. 13, 1992, theorem 4.2), and the smallest likewise. Residuals alone bound nothing: they
    say that some eigenvalue is near, not that it is the smallest. All earlier vectors are kept, and each new one is
    made orthogonal to them, because without that rounding makes copies of eigenvalues.

    Cost: at step k one application, 2 k inner products, and k vectors of memory.

    Args:
        start: drawn from a normal distribution with the same variance everywhere.
    """
    basis = [scaled(start, 1 / norm(start))]
    diagonal: list[float] = []
    beside: list[float] = []
    size = sum(part.numel() for part in start.values())
    while True:
        turned = bend(basis[-1])
        diagonal.append(dot(basis[-1], turned).item())
        for vector in (*basis, *basis):  # twice is enough (Parlett)
            turned = combine(turned, -dot(vector, turned).item(), vector)
        rest = norm(turned)
        if not math.isfinite(diagonal[-1] + rest):
            return
        values = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
        floor = ROUNDING * float(np.abs(values).max())
        exact = len(basis) == size or rest <= floor
        yield Ends(float(values[0]), float(values[-1]),
                   floor + (rest if exact else _missed(len(basis), size, float(values[-1] - values[0]))))
        if exact:
            return
        beside.append(rest)
        basis.append(scaled(turned, 1 / rest))


def _missed(steps: int, size: int, width: float) -> float:
    """The largest distance of an end from what `steps` steps found; `width` is what they found of the spectrum's, too
    small by at most the share on either side."""
    share = (math.log(1.648 * math.sqrt(size) / FAILURE) / (2 * steps - 1)) ** 2
    return width * share / (1 - 2 * share) if share < 0.5 else math.inf


def norm(vector: Vector) -> float:
    """The Euclidean length."""
    return dot(vector, vector).sqrt().item()
