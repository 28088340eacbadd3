"""U-LiRA and its KDE version: has the method unlearned a sample, or has the model never seen it?

Hayes et al. (SaTML 2025) fit a normal to the confidences of models that saw a sample and unlearned it by the audited
method, and another to those of models that never saw it; RULI (USENIX Security 2025) takes kernel densities. Here each
model has unlearned its own random half of the same targets, so every target has models on both sides, and each model is
audited in turn by the others. The model that unlearned exactly what it never saw is no judge of it: without that one,
each target has as many judges on either side, and 50 is what perfect unlearning scores, however few they are.
"""

import numpy as np

from amun_ray.base.errors import UserError
from amun_ray.metrics import lira
from amun_ray.metrics.auc import auc, tpr_at_fpr

FEWEST = 3  # models a side of every target: one is audited, and two more have a variance
LARGEST = 13.8  # of a logit-scaled confidence: RULI clips probabilities at 1e-6
BANDWIDTH = 1.0  # of RULI's kernels


def unlearned_or_never(values: np.ndarray, unlearned: np.ndarray, *,
                       variance: lira.Variance = "auto") -> list[dict[str, float]]:
    """How well the targets that a model has unlearned are told from those it never saw, for each model, in percent.

    O(models^2 x targets), a few arrays (models, targets) in memory.

    Args:
        values: (models, targets) logit-scaled confidence.
        unlearned: (models, targets) bool: the model saw the target and unlearned it; else it never saw it.
        variance: of the normals, as in `lira.fit`.

    Returns:
        `ulira_auc`, `ruli_auc` (50 is ideal), and of both `_tpr_at_1pct_fpr` and `_tpr_at_0.1pct_fpr` (1 and 0.1).

    Raises:
        UserError: a target with fewer than `FEWEST` models on a side, or a model without targets of both sides.
    """
    few = int(np.minimum(unlearned.sum(axis=0), (~unlearned).sum(axis=0)).min())
    if few < FEWEST:
        raise UserError(f"U-LiRA: every target must be unlearned by {FEWEST} models and never seen by {FEWEST}, and "
                        f"one has {few}; more references, or other targets")
    rates = []
    for place, (value, mine) in enumerate(zip(values, unlearned, strict=True)):
        opposite = np.flatnonzero((unlearned != mine).all(axis=1))[:1]
        others, theirs = (np.delete(of_model, [place, *opposite], axis=0) for of_model in (values, unlearned))
        scores = {"ulira": lira.log_likelihood_ratio(value, _normals(others, theirs, variance)),
                  "ruli": _log_density(value, others, theirs) - _log_density(value, others, ~theirs)}
        of_model: dict[str, float] = {}
        for name, score in scores.items():
            of_model[f"{name}_auc"] = auc(score[mine], score[~mine], constant=50.0)
            for title, fpr in (("1pct", 1.0), ("0.1pct", 0.1)):
                of_model[f"{name}_tpr_at_{title}_fpr"] = tpr_at_fpr(score[mine], score[~mine], fpr)
        rates.append(of_model)
    return rates


def _normals(values: np.ndarray, unlearned: np.ndarray, variance: lira.Variance) -> lira.Lira:
    sides = np.stack([unlearned, ~unlearned])
    count = sides.sum(axis=1)
    mean = (sides * values).sum(axis=1) / count
    return lira.of_moments(count, mean, (sides * (values - mean[:, None]) ** 2).sum(axis=1), variance)


def _log_density(value: np.ndarray, others: np.ndarray, side: np.ndarray) -> np.ndarray:
    """(targets,) log of the kernel density of the models on a `side` (models, targets) at `value`, up to a constant."""
    value, others = (np.clip(confidences, -LARGEST, LARGEST) for confidences in (value, others))
    kernels = np.where(side, -((value - others) / BANDWIDTH) ** 2 / 2, -np.inf)
    density: np.ndarray = np.logaddexp.reduce(kernels, axis=0) - np.log(side.sum(axis=0))
    return density
