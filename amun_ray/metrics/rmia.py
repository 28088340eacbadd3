"""RMIA: was a sample in the training set? Judged by reference models and a population (Zarifzadeh et al. 2024).

    ratio(x) = p_target(x) / p_reference(x)
    score(x) = share of population samples z with ratio(x) / ratio(z) > gamma

p_target is the attacked model's confidence in the true class; p_reference(x) is the mean confidence of the reference
models. Online: over all references, where each sample is in the training set of exactly half. Offline: `offline_mean`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from amun_ray.base.errors import UserError
from amun_ray.metrics.auc import auc, balanced
from amun_ray.metrics.bank import check_members, signals
from amun_ray.metrics.confidence import check_taylor, taylor_softmax
from amun_ray.metrics.split import Split


@dataclass(frozen=True, kw_only=True)
class RmiaSettings:
    """The attack's parameters; the defaults are those of the AMUN paper.

    Raises:
        UserError: gamma, temperature or order not positive.
    """

    gamma: float = 2.0
    """How much likelier a sample must be than one of the population; positive."""
    order: int = 4
    """Order of the Taylor softmax: 4 in the AMUN paper, 3 in its scripts; see `taylor_softmax` on odd ones."""
    margin: float = 0.6
    """Soft margin of the Taylor softmax."""
    temperature: float = 2.0
    """Temperature of the Taylor softmax; positive."""

    def __post_init__(self) -> None:
        check_taylor(self.order, self.temperature)
        if not self.gamma > 0:
            raise UserError(f"gamma must be positive, got {self.gamma}")

    def confidence(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Soft-margin Taylor softmax (N,) in (0, 1) of logits (N, classes)."""
        return taylor_softmax(logits, labels, order=self.order, margin=self.margin, temperature=self.temperature)


DEFAULTS = RmiaSettings()


def reference_mean(
    references: Iterable[np.ndarray],
    labels: np.ndarray,
    *,
    settings: RmiaSettings = DEFAULTS,
    members: np.ndarray | None = None,
) -> np.ndarray:
    """Mean confidence (N,) over all reference models: the denominator of the online attack.

    Args:
        references: logits (N, classes) of one model after another, as in `bank.signals`.
        labels: (N,) true classes.
        settings: the same as for the target's confidence.
        members: (models, N) bool, True where the model was trained on the sample. Only checked.

    Raises:
        UserError: references that do not fit (see `bank.signals`), or a sample with fewer than 2 models in or out.
    """
    if members is not None:
        check_members(members, len(labels))
    models = None if members is None else len(members)
    total, seen = np.zeros(len(labels)), 0
    for confidence in signals(references, labels, settings.confidence, models):
        total += confidence
        seen += 1
    return total / seen


def out_mean(
    references: Iterable[np.ndarray], labels: np.ndarray, *, members: np.ndarray, settings: RmiaSettings = DEFAULTS
) -> np.ndarray:
    """Mean confidence (N,) over the reference models that were not trained on the sample. Arguments as above.

    Raises:
        UserError: as in `reference_mean`, except that a sample may be in no model; it must be out of at least 2.
    """
    check_members(members, len(labels), sides=("out",))
    total = np.zeros(len(labels))
    confidences = signals(references, labels, settings.confidence, len(members))
    for confidence, member in zip(confidences, members, strict=True):
        total += np.where(member, 0.0, confidence)
    return total / (~members).sum(axis=0)


def offline_mean(mean_out: np.ndarray, a: float) -> np.ndarray:
    """The offline attack's substitute for `reference_mean`: ((1 + a) mean_out + (1 - a)) / 2, shape (N,).

    It estimates the mean over both sides from the "out" models alone, assuming p_in = a p_out + (1 - a)
    (Zarifzadeh et al. 2024, section on the offline attack; they use about 0.3 for CIFAR-10, 0.6 for CIFAR-100).

    Raises:
        UserError: a outside [0, 1].
    """
    if not 0 <= a <= 1:
        raise UserError(f"a must lie in [0, 1], got {a}")
    return ((1 + a) * np.asarray(mean_out) + (1 - a)) / 2


def ratios(confidence: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """p_target / p_reference per sample, both (N,); UserError unless both have the same length, finite and positive."""
    confidence, mean = np.asarray(confidence, dtype=np.float64), np.asarray(mean, dtype=np.float64)
    if confidence.shape != mean.shape or confidence.ndim != 1:
        raise UserError(f"RMIA: target confidences {confidence.shape} and reference means {mean.shape} must both be "
                        "(N,) over the same samples")
    for name, values in (("target confidences", confidence), ("reference means", mean)):
        bad = int((~(np.isfinite(values) & (values > 0))).sum())
        if bad:
            raise UserError(f"RMIA: {bad} of {len(values)} {name} are not positive finite numbers")
    return confidence / mean


def scores(
    confidence: np.ndarray, mean: np.ndarray, population: np.ndarray | None = None, *, gamma: float = 2.0
) -> np.ndarray:
    """RMIA score (N,) in [0, 1] of every sample. High means member.

    The count is exact for `ratio(x) / ratio(z) > gamma` as evaluated in floating point. That predicate is monotone in
    ratio(z), so bisection in the sorted population counts the z in O((N + Z) log Z).

    Args:
        confidence: (N,) the target model's confidence in the true class.
        mean: (N,) mean over the reference models, from `reference_mean` or `offline_mean`.
        population: rows z to compare with; None means all N. A sample never counts itself for the usual gamma >= 1,
            since 1 > gamma is false.
        gamma: how much more likely x must be than z.

    Raises:
        UserError: shapes that differ, values that are not positive, an empty population, gamma <= 0.
    """
    if not gamma > 0:
        raise UserError(f"gamma must be positive, got {gamma}")
    ratio = ratios(confidence, mean)
    reference = np.sort(ratio if population is None else ratio[population])
    if not reference.size:
        raise UserError("RMIA: the population is empty")
    low = np.zeros(len(ratio), dtype=np.int64)  # x dominates every z before `low`, and none from `high` on
    high = np.full(len(ratio), len(reference))
    for _ in range(len(reference).bit_length()):
        middle = (low + high) // 2
        dominated = (middle < high) & (ratio / reference[np.minimum(middle, len(reference) - 1)] > gamma)
        low = np.where(dominated, middle + 1, low)
        high = np.where(dominated, high, middle)
    return low / len(reference)


def forget_test_auc(
    values: np.ndarray, rows: Split, *, generator: torch.Generator | None = None, constant: float | None = None
) -> float:
    """FT AUC in percent: telling D_F (positive) from D_T (from the forgotten classes alone, if whole classes are
    forgotten). 50 is ideal: a retrained model has it. See `auc_between`."""
    return auc_between(values[rows.forget], values[rows.unseen], generator=generator, constant=constant)


def forget_retain_auc(
    values: np.ndarray, rows: Split, *, generator: torch.Generator | None = None, constant: float | None = None
) -> float:
    """FR AUC in percent: telling D_R (positive) from D_F. The target is the retrained model's. See `auc_between`."""
    return auc_between(values[rows.retain], values[rows.forget], generator=generator, constant=constant)


def retain_test_auc(
    values: np.ndarray, rows: Split, *, generator: torch.Generator | None = None, constant: float | None = None
) -> float:
    """RT AUC in percent: telling D_R (positive) from D_T; the best this attack can do here. See `auc_between`."""
    return auc_between(values[rows.retain], values[rows.test], generator=generator, constant=constant)


def auc_between(
    positive: np.ndarray,
    negative: np.ndarray,
    *,
    generator: torch.Generator | None = None,
    constant: float | None = None,
) -> float:
    """AUC in percent of two sets of scores: over all pairs, or on one equal-sized draw if a `generator` is given.

    The paper draws. The expectation of a draw is the AUC over all pairs, which is the default because it is noise-free.
    """
    if generator is not None:
        positive, negative = balanced(positive, negative, generator)
    return auc(positive, negative, constant=constant)
