"""LiRA: how much likelier the model's confidence is if the sample was trained on (Carlini et al. 2022, algorithm 1).

For each sample, one normal is fitted to the logit-scaled confidences of the reference models that saw it, and another
to those of the models that did not. It uses the same predictions as RMIA.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np

from amun_ray.base.errors import UserError
from amun_ray.metrics.bank import check_members, signals
from amun_ray.metrics.confidence import logit_scaled
from amun_ray.metrics.split import Split

FEW_MODELS = 64  # with fewer models per side, a sample's own variance is noise (their paper, section VI-A)
SMALLEST_STD = 1e-6  # avoids a division by zero where all references agree
Variance = Literal["auto", "per_sample", "pooled", "fixed"]


class Lira(NamedTuple):
    """The two normals of every sample, over log(p / (1 - p)); four arrays (N,) float64."""

    mean_in: np.ndarray
    std_in: np.ndarray
    mean_out: np.ndarray
    std_out: np.ndarray


def fit(
    references: Iterable[np.ndarray], labels: np.ndarray, *, members: np.ndarray, variance: Variance = "auto"
) -> Lira:
    """The normals, in one pass over the reference models; memory does not grow with their number.

    Args:
        references: logits (N, classes) of one model after another, as in `bank.signals`.
        labels: (N,) true classes.
        members: (models, N) bool, True where the model was trained on the sample.
        variance: `per_sample`; or one per side: `pooled`, the mean of those of all samples, or `fixed`, that of all
            values about their common mean. The published code has the last, which counts the differences between
            samples too. `auto` follows the paper's advice to share one where models are few: pooled with fewer than 64
            on a side, else per sample.

    Raises:
        UserError: references that do not fit, or a sample with fewer than 2 models in or out.
    """
    check_members(members, len(labels))
    count, mean, squares = (np.zeros((2, len(labels))) for _ in range(3))
    values = signals(references, labels, logit_scaled, len(members))
    for value, member in zip(values, members, strict=True):
        for side, weight in enumerate((member, ~member)):  # Welford's update: stable, unlike a sum of squares
            count[side] += weight
            step = weight * (value - mean[side])
            mean[side] += step / np.maximum(count[side], 1)
            squares[side] += step * (value - mean[side])
    return of_moments(count, mean, squares, variance)


def of_moments(count: np.ndarray, mean: np.ndarray, squares: np.ndarray, variance: Variance) -> Lira:
    """The normals from the moments of the models in and out, each (2, N): their number, the mean of their values, and
    the sum of squares about it. `variance` as in `fit`."""
    if variance == "auto":
        variance = "pooled" if count.min() < FEW_MODELS else "per_sample"
    spread = squares / (count - 1) if variance == "per_sample" else np.empty_like(squares)
    if variance == "pooled":
        spread[:] = (squares / (count - 1)).mean(axis=1, keepdims=True)
    elif variance == "fixed":
        total = count.sum(axis=1, keepdims=True)
        common = (count * mean).sum(axis=1, keepdims=True) / total
        spread[:] = (squares + count * (mean - common) ** 2).sum(axis=1, keepdims=True) / total
    std = np.maximum(np.sqrt(spread), SMALLEST_STD)
    return Lira(mean[0], std[0], mean[1], std[1])


def log_likelihood_ratio(value: np.ndarray, normals: Lira) -> np.ndarray:
    """LiRA's score (N,): log N(value; in) - log N(value; out). High means member.

    `value` (N,) is the target model's `logit_scaled` confidence. The scores go into `auc` and `tpr_at_fpr`.

    Raises:
        UserError: `value` and the references differ in length.
    """
    value = np.asarray(value, dtype=np.float64)
    if value.shape != normals.mean_in.shape:
        raise UserError(f"LiRA: {value.shape} target confidences, {normals.mean_in.shape} fitted samples")
    inside = ((value - normals.mean_in) / normals.std_in) ** 2 / 2 + np.log(normals.std_in)
    outside = ((value - normals.mean_out) / normals.std_out) ** 2 / 2 + np.log(normals.std_out)
    return outside - inside


def membership_probability(value: np.ndarray, normals: Lira) -> np.ndarray:
    """Probability (N,) in [0, 1] that the sample is still in the model, at even odds: p_in / (p_in + p_out).

    This is the score of U-LiRA (Kurmanji et al. 2023; Hayes et al. 2024) with one difference: U-LiRA fits the first
    normal to models that saw the sample and unlearned it, which needs a reference bank for each method. Here it is
    fitted to models that saw the sample, so the question is "trained on or never seen", not "unlearned or never seen".
    """
    ratio = log_likelihood_ratio(value, normals)
    return np.exp(-np.logaddexp(0.0, -ratio))


def forget_called_member(value: np.ndarray, normals: Lira, rows: Split) -> float:
    """Percent of D_F whose membership probability is above one half. Target: the retrained model's."""
    return 100 * float(np.mean(membership_probability(value, normals)[rows.forget] > 0.5))
