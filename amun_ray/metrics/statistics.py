"""What a set of repeated runs supports: mean and spread, an interval, and whether two methods really differ."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from amun_ray.base.errors import UserError


class Summary(NamedTuple):
    """Mean and sample standard deviation (n - 1) of n values, in their unit."""

    mean: float
    std: float  # 0.0 for n = 1, where the spread is unknown: show n beside it
    n: int


class Comparison(NamedTuple):
    """A method against the reference method, over the same (original, forget set) pairs."""

    difference: float  # mean of method - reference, in the values' unit
    p: float  # Wilcoxon signed-rank test, two-sided
    p_holm: float  # the same after Holm's correction for all comparisons made
    n: int  # pairs
    significant: bool  # p_holm <= level


def summarize(values: Sequence[float]) -> Summary:
    """Mean, standard deviation (n - 1) and n; UserError for no values or one that is not finite."""
    array = _finite(values, "values")
    return Summary(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else 0.0, len(array))


def bootstrap_interval(
    values: Sequence[float],
    *,
    generator: torch.Generator,
    groups: Sequence[int] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
) -> tuple[float, float]:
    """Expanded percentile bootstrap interval `(low, high)` for the mean of `values` (Hesterberg, "What teachers should
    know about the bootstrap", The American Statistician 69, 2015, section 3).

    Quantiles of the resampled means, taken as far out as makes up for what the plain percentile interval lacks with few
    values: the width is that of Student's interval, and no end lies outside the values, so no share exceeds 100 %. Up
    to 5 values it is their range, which holds the median in 1 - 2**(1 - n) of all sets: 87.5 % for 4.

    Args:
        values: (n,) one number per run, n >= 2.
        generator: CPU generator.
        groups: (n,) which runs belong together (the same original model and forget set). Such runs are not
            independent, so the groups' means are resampled instead of the runs, each group with equal weight.
        level: share of such intervals that should hold the true mean, in (0, 1).
        resamples: bootstrap samples drawn.

    Raises:
        UserError: fewer than 2 values or groups, a value that is not finite, level outside (0, 1).
    """
    from scipy.special import ndtr, stdtrit  # a moment to import, which no dry run should pay

    array = _finite(values, "values")
    if groups is not None:
        array = _group_means(array, np.asarray(groups))
    if len(array) < 2 or not 0 < level < 1:
        raise UserError("bootstrap: needs at least 2 values or groups and 0 < level < 1, "
                        f"got {len(array)} and level {level}")
    count, tail = len(array), (1 - level) / 2
    means = array[torch.randint(count, (resamples, count), generator=generator).numpy()].mean(axis=1)
    far = ndtr(np.sqrt(count / (count - 1)) * stdtrit(count - 1, tail))  # the tail that is cut off at either end
    low, high = np.quantile(means, [far, 1 - far])
    return float(low), float(high)


def compare(
    values: Mapping[str, Sequence[float]], *, reference: str, level: float = 0.05
) -> dict[str, Comparison]:
    """Every other method against `reference`: paired Wilcoxon signed-rank tests, Holm-corrected.

    Args:
        values: method -> (n,) values; entry i of every method belongs to the same (original, forget set) pair. Average
            repeated runs of a pair first, they are not independent.
        reference: the method to compare with, usually the best one or AMUN.
        level: family-wise error rate.

    Returns:
        A row for each other method. With n <= 5 pairs the test cannot reach p < 0.05, whatever the values.

    Raises:
        UserError: the reference is missing, a length differs, or a value is not finite.
    """
    from scipy.stats import wilcoxon  # half a second to import, which no trial should pay

    if reference not in values:
        raise UserError(f"compare: {reference!r} is not among {', '.join(sorted(values))}")
    base = _finite(values[reference], reference)
    names = [name for name in values if name != reference]
    differences = []
    for name in names:
        array = _finite(values[name], name)
        if len(array) != len(base):
            raise UserError(f"compare: {name} has {len(array)} values, {reference} has {len(base)}; pairs must match")
        differences.append(array - base)
    # Without any difference the statistic is undefined; the data then speak for no difference at all.
    p_values = [float(wilcoxon(d).pvalue) if np.any(d) else 1.0 for d in differences]
    return {
        name: Comparison(float(d.mean()), p, corrected, len(base), corrected <= level)
        for name, d, p, corrected in zip(names, differences, p_values, holm(p_values), strict=True)
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: the i-th smallest of m times (m - i + 1), made monotone."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()


def _group_means(array: np.ndarray, groups: np.ndarray) -> np.ndarray:
    if groups.shape != array.shape:
        raise UserError(f"bootstrap: {len(array)} values but groups of shape {groups.shape}")
    _, index = np.unique(groups, return_inverse=True)
    return np.bincount(index, weights=array) / np.bincount(index)


def _finite(values: Sequence[float], name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise UserError(f"{name}: needs at least one number, got shape {array.shape}")
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise UserError(f"{name}: {bad} of {array.size} are not finite")
    return array
