"""What repeated runs support: mean and spread, an interval, and whether two methods really differ."""

from collections.abc import Mapping, Sequence
from math import ceil, log2
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from amun_ray.base.errors import UserError

WIDEST = 4.0  # largest half-width of an interval, in standard errors: with 2 originals, 95 % would need 12.7


class Summary(NamedTuple):
    """Mean and sample standard deviation (n - 1) of n values, in their unit."""

    mean: float
    std: float  # 0.0 for n = 1, where the spread is unknown: always show n too
    n: int


class Interval(NamedTuple):
    """An interval that contains the true mean with probability at least `level`."""

    low: float
    high: float
    level: float  # in (0, 1)


class Comparison(NamedTuple):
    """A method against the reference method, over the same (original, forget set) pairs."""

    difference: float  # mean of method - reference, in the values' unit
    interval: Interval | None  # of the difference; None for a single pair
    p: float  # two-sided: the larger p-value of the two tests of `compare`
    p_holm: float  # the same after Holm's correction for all comparisons
    n: int  # pairs
    significant: bool  # p_holm <= level


class CrossedMean(NamedTuple):
    """The mean over originals and forget sets, both taken as random draws, and its uncertainty."""

    mean: float
    standard_error: float
    degrees: float  # of freedom, of the standard error

    def interval(self, level: float = 0.95) -> Interval:
        """Student's interval, cut off at WIDEST standard errors on either side; its level is then lower."""
        from scipy.special import stdtr, stdtrit  # slow to import; a dry run should not pay for it

        far = min(float(stdtrit(self.degrees, (1 + level) / 2)), WIDEST)
        half = far * self.standard_error
        return Interval(self.mean - half, self.mean + half,
                        min(level, 2 * float(stdtr(self.degrees, far)) - 1))

    @property
    def p(self) -> float:
        """The p-value of Student's two-sided test that the true mean is 0."""
        from scipy.special import stdtr

        if self.standard_error == 0:  # no spread: the mean is taken as certain
            return float(self.mean == 0)
        return 2 * float(stdtr(self.degrees, -abs(self.mean) / self.standard_error))


def summarize(values: Sequence[float]) -> Summary:
    """Mean, standard deviation (n - 1) and n; UserError if there are no values or one is not finite."""
    array = _finite(values, "values")
    return Summary(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else 0.0, len(array))


def crossed_mean(values: np.ndarray) -> CrossedMean:
    """The mean of a crossed design with its standard error (random effects of rows, columns and their pairs).

    Every original model forgets every set, so two cases may share an original or a set and are not independent. With
    mean squares R of the rows, C of the columns and E of the residuals,

        variance of the mean = (R + C - E) / (a b),   or max(R, C) / (a b) where that is larger,

    with Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946). The maximum makes it conservative when E is
    large by chance. With one row or one column this is the ordinary standard error, and the mean describes only that
    one original or set.

    Args:
        values: (a, b) one number for each original and forget set; a * b >= 2.

    Raises:
        UserError: a wrong shape, a single number, or a value that is not finite.
    """
    values = _finite(values, "crossed mean", dimensions=2)
    if values.size < 2:
        raise UserError("crossed mean: one number has no standard error; it takes two originals or two forget sets")
    (a, b), mean = values.shape, float(values.mean())
    rows, columns = values.mean(axis=1) - mean, values.mean(axis=0) - mean
    rest = values - mean - rows[:, None] - columns
    square = {"rows": b * float(rows @ rows) / max(a - 1, 1), "columns": a * float(columns @ columns) / max(b - 1, 1)}
    if min(a, b) == 1:
        return CrossedMean(mean, (sum(square.values()) / (a * b)) ** 0.5, a * b - 1)
    square["rest"] = float((rest**2).sum()) / ((a - 1) * (b - 1))
    variance, largest = square["rows"] + square["columns"] - square["rest"], max(square["rows"], square["columns"])
    if variance <= largest:
        return CrossedMean(mean, (largest / (a * b)) ** 0.5, a - 1 if largest == square["rows"] else b - 1)
    degrees = variance**2 / (square["rows"]**2 / (a - 1) + square["columns"]**2 / (b - 1)
                             + square["rest"]**2 / ((a - 1) * (b - 1)))
    return CrossedMean(mean, (variance / (a * b)) ** 0.5, max(degrees, min(a, b) - 1))


def jackknife_error(left_out: Sequence[float]) -> float:
    """The standard error of a number, from its values with one of n independent parts left out each time; n >= 2."""
    values = _finite(left_out, "jackknife")
    return float(np.sqrt((len(values) - 1) * values.var()))


def compare(differences: Mapping[str, np.ndarray], *, level: float = 0.05) -> dict[str, Comparison]:
    """Paired tests of several methods, each against a reference, with Holm's correction over all of them.

    Takes the larger p-value of two tests: Wilcoxon's signed-rank test, which assumes independent cases but no normal
    distribution; and Student's test of `crossed_mean`, which allows for cases that share an original or a set.

    Args:
        differences: method -> (originals, sets) of method - reference for the same original and forget set. Average
            repeated runs of a pair first: they are not independent. Choose the reference before you see the values.
        level: family-wise error rate, in (0, 1).

    Returns:
        One row per method. With fewer than `cases_needed` pairs none can be significant.

    Raises:
        UserError: no pairs, an array that is not (originals, sets), or a value that is not finite.
    """
    arrays = {name: _finite(values, name, dimensions=2) for name, values in differences.items()}
    means = {name: crossed_mean(array) if array.size > 1 else None for name, array in arrays.items()}
    p_values = [_p(array, means[name]) for name, array in arrays.items()]
    return {name: Comparison(float(array.mean()), mean and mean.interval(1 - level), p, corrected, array.size,
                             corrected <= level)
            for (name, array), mean, p, corrected in zip(arrays.items(), means.values(), p_values, holm(p_values),
                                                         strict=True)}


def _p(differences: np.ndarray, mean: CrossedMean | None) -> float:
    """The larger p-value of the two tests; 1 if nothing can be tested or there is no difference at all."""
    from scipy.stats import wilcoxon  # half a second to import; a trial should not pay for it

    if mean is None or not differences.any():
        return 1.0
    return max(float(wilcoxon(differences.ravel()).pvalue), mean.p)


def cases_needed(comparisons: int, level: float = 0.05) -> int:
    """How many cases are needed before one of m comparisons can be significant: the smallest n with 2 m / 2^n <= level.

    With n pairs the exact Wilcoxon test has no p-value below 2 / 2^n, and Holm multiplies the smallest of m by m.
    """
    return ceil(log2(2 * comparisons / level))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the given order: the i-th smallest of m times (m - i + 1), made monotone."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted.tolist()


def _finite(values: ArrayLike, name: str, dimensions: int = 1) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != dimensions or array.size == 0:
        expected = "at least one number" if dimensions == 1 else "a number for each original and forget set"
        raise UserError(f"{name}: needs {expected}, got shape {array.shape}")
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise UserError(f"{name}: {bad} of {array.size} are not finite")
    return array
