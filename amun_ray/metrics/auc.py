"""How well a score tells members from non-members: AUC, ROC, and TPR at a low FPR. All in percent."""

import numpy as np
import torch

from amun_ray.base.errors import UserError


def auc(positive: np.ndarray, negative: np.ndarray, *, constant: float | None = None) -> float:
    """Percent chance that a random positive scores above a random negative; a tie counts one half.

    Exact (the Mann-Whitney statistic, integer counts), O(N log N), over all pairs. This is the expectation of the AUC
    of equal-sized random draws from both sides, without their noise.

    Args:
        positive: scores (P,) of the side that should score high.
        negative: scores (Q,) of the other side.
        constant: what to return when all scores are equal and say nothing; None raises.

    Raises:
        UserError: an empty side, NaN, or all scores equal and `constant` is None.
    """
    positive, negative = _checked(positive, negative)
    negative = np.sort(negative)
    if negative[0] == negative[-1] and np.all(positive == negative[0]):
        if constant is None:
            raise UserError(f"all {len(positive) + len(negative)} scores equal {negative[0]:g}: no attack can be read "
                            "from them; is the model constant, or gamma too large for these confidences?")
        return constant
    below = int(np.searchsorted(negative, positive, side="left").sum())
    not_above = int(np.searchsorted(negative, positive, side="right").sum())
    return 100 * (below + not_above) / (2 * len(positive) * len(negative))


def auc_interval(percent: float, positive: int, negative: int) -> tuple[float, float]:
    """95 % interval of an AUC of `percent`, given the sample counts of both sides (Hanley and McNeil, 1982)."""
    area = percent / 100
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (positive - 1) * (q1 - area**2) + (negative - 1) * (q2 - area**2))
    margin = 196 * float(np.sqrt(max(variance, 0.0) / (positive * negative)))
    return max(0.0, percent - margin), min(100.0, percent + margin)


def balanced(positive: np.ndarray, negative: np.ndarray, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Both sides at the size of the smaller one; the larger side is sampled without replacement."""
    size = min(len(positive), len(negative))

    def draw(scores: np.ndarray) -> np.ndarray:
        if len(scores) == size:
            return scores
        return scores[torch.randperm(len(scores), generator=generator)[:size].numpy()]

    return draw(np.asarray(positive)), draw(np.asarray(negative))


def roc(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ROC curve of the rule "score >= threshold", one point per distinct score, from (0, 0) to (100, 100).

    Returns:
        `(fpr, tpr)`: two non-decreasing arrays in percent.

    Raises:
        UserError: an empty side, or NaN.
    """
    positive, negative = _checked(positive, negative)
    thresholds = np.unique(np.concatenate([positive, negative]))[::-1]

    def share_at_least(scores: np.ndarray) -> np.ndarray:
        counts = len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")
        return np.concatenate([[0.0], 100 * counts / len(scores)])

    return share_at_least(negative), share_at_least(positive)


def tpr_at_fpr(positive: np.ndarray, negative: np.ndarray, fpr: float) -> float:
    """The largest true positive rate, in percent, of a threshold whose false positive rate is at most `fpr` percent.

    Thresholds are not interpolated: with fewer than 100 / fpr negatives, none of them may pass.

    Raises:
        UserError: an empty side, NaN, or `fpr` outside [0, 100].
    """
    if not 0 <= fpr <= 100:
        raise UserError(f"fpr is in percent and must lie in [0, 100], got {fpr}")
    alarms, hits = roc(positive, negative)
    return float(hits[np.searchsorted(alarms, fpr, side="right") - 1])


def _checked(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sides = {"positive": np.asarray(positive), "negative": np.asarray(negative)}
    for name, scores in sides.items():
        if scores.size == 0:
            raise UserError(f"{name} scores: the set is empty")
        missing = int(np.isnan(scores).sum())
        if missing:
            raise UserError(f"{name} scores: {missing} of {scores.size} are NaN")
    return sides["positive"], sides["negative"]
