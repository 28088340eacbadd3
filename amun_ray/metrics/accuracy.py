"""The share of samples a model gets right, and the check that logits and labels belong together."""

import numpy as np

from amun_ray.base.errors import UserError


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Percent of rows of `logits` (N, classes) whose largest entry (the first one, on ties) is at `labels` (N,).

    Raises:
        UserError: no samples, different lengths, or logits that are not finite.
    """
    logits, labels = check_logits(logits, labels)
    broken = int((~np.isfinite(logits).all(axis=1)).sum())
    if broken:
        raise UserError(f"logits: {broken} of {len(logits)} rows are not finite")
    return 100 * float(np.count_nonzero(logits.argmax(axis=1) == labels)) / len(labels)


def accuracy_interval(percent: float, count: int) -> tuple[float, float]:
    """95 % interval of an accuracy of `percent` over `count` independent samples (Wilson, 1927)."""
    share, z = percent / 100, 1.96
    centre = share + z**2 / (2 * count)
    margin = z * float(np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)))
    scale = 100 / (1 + z**2 / count)
    return max(0.0, scale * (centre - margin)), min(100.0, scale * (centre + margin))


def check_logits(logits: np.ndarray, labels: np.ndarray, name: str = "logits") -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays: `logits` (N, classes) and `labels` (N,) in [0, classes); UserError if they do not fit."""
    logits, labels = np.asarray(logits), np.asarray(labels)
    if logits.ndim != 2:
        raise UserError(f"{name}: must have shape (N, classes), got {logits.shape}")
    if len(logits) != len(labels):
        raise UserError(f"{name}: {len(logits)} rows for {len(labels)} labels; both must come from the same samples")
    if len(logits) == 0:
        raise UserError(f"{name}: no samples")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise UserError(f"{name}: {logits.shape[1]} classes, but labels run from {labels.min()} to {labels.max()}")
    return logits, labels
