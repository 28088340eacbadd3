"""Attacks on AMUN itself: has unlearning moved the decision boundary round the forgotten samples?

AMUN teaches the model a wrong label right beside each forgotten sample. So an attacker who knows the method measures
how far it is from a sample to another decision, and what the model says at the sample's adversarial image. Both are
compared with models that never saw the sample: z is the model's number less their mean. To divide it by one standard
deviation for all samples would change no rank, and few models give no better one. Apollo asks the model for labels
alone, on walks that such models alone lay out.
"""

import numpy as np

from amun_ray.metrics.auc import auc, tpr_at_fpr

NOTHING = 50.0  # percent: the AUC if all scores are equal


def moved_boundary(forget: np.ndarray, unseen: np.ndarray, never_forget: np.ndarray,
                   never_unseen: np.ndarray) -> dict[str, float]:
    """Forgotten told from unseen samples by the distance to the nearest other decision, in percent.

    Args:
        forget, unseen: (F,) and (U,) distances on the audited model; 0 where it is wrong.
        never_forget, never_unseen: (models, F) and (models, U), the same on models that saw neither; with no models
            the distances count as they are.

    Returns:
        `boundary_auc`: of z. 50 is ideal; above, forgotten samples are still further away than models that never saw
        them say, as those of a model that remembers; below, the boundary was pulled towards them.
        `boundary_two_sided_auc`, `boundary_tpr_at_1pct_fpr`: of the distance of z from its median over unseen samples.
        Targets: those of the retrained model.

    Raises:
        UserError: an empty side, or NaN.
    """
    near, far = (distances - _mean(never) for distances, never in ((forget, never_forget), (unseen, never_unseen)))
    middle = np.median(far)
    moved, still = np.abs(near - middle), np.abs(far - middle)
    return {"boundary_auc": auc(near, far, constant=NOTHING),
            "boundary_two_sided_auc": auc(moved, still, constant=NOTHING),
            "boundary_tpr_at_1pct_fpr": tpr_at_fpr(moved, still, 1.0)}


def adversarial_label(margin: np.ndarray, never: np.ndarray) -> dict[str, float]:
    """What the model still says at the adversarial images of D_F, and how well that tells it from a retrained one.

    Each model of `never` in turn is the other side: z of the audited model and of that one, by the mean of the rest.

    Args:
        margin: (F,) of the audited model at the adversarial image: logit of its stored label less the largest other.
        never: (models, F), the same of models that never saw these samples, one at least.

    Returns:
        `adversarial_label_kept`: percent of D_F where the model says the label; target: the retrained model's.
        `adversarial_label_auc`, `adversarial_label_tpr_at_1pct_fpr`: means over the other sides; 50 and 1 are ideal.

    Raises:
        UserError: an empty side, or NaN.
    """
    ranks = []
    for place, other in enumerate(never):
        rest = _mean(np.delete(never, place, axis=0))
        ranks.append((auc(margin - rest, other - rest, constant=NOTHING), tpr_at_fpr(margin - rest, other - rest, 1.0)))
    area, rate = np.mean(ranks, axis=0)
    return {"adversarial_label_kept": 100 * float(np.mean(margin > 0)), "adversarial_label_auc": float(area),
            "adversarial_label_tpr_at_1pct_fpr": float(rate)}


def flip_confidences(right: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """Apollo's evidence (2, n) that the boundary of a model is further away than that of models that never saw the
    samples, and that it is nearer; -inf where there is none.

    The model still says the true label where those say another: the less sure they are there, the more it remembers
    (under-unlearning). It says another where they say the true one: the surer they are, the more it was moved
    (over-unlearning). A threshold on each is an attack that needs nothing of the model but labels.

    Args:
        right: (points, n) bool, whether the model says the true label at each point of a walk.
        sure: (points, n) log(p / (1 - p)) of the true label by models that never saw the sample.
    """
    return np.stack([np.where(right, -sure, -np.inf).max(axis=0), np.where(right, -np.inf, sure).max(axis=0)])


def apollo(forget: np.ndarray, unseen: np.ndarray) -> dict[str, float]:
    """Forgotten told from unseen samples by their `flip_confidences` (2, F) and (2, U), in percent.

    Returns:
        `apollo_under_auc`, `apollo_over_auc`: 50 is ideal. Where each walk crosses one boundary, they add up to 100.
        `apollo_under_tpr_at_1pct_fpr`, `apollo_over_tpr_at_1pct_fpr`.

    Raises:
        UserError: an empty side, or NaN.
    """
    scores: dict[str, float] = {}
    for name, near, far in zip(("under", "over"), forget, unseen, strict=True):
        scores |= {f"apollo_{name}_auc": auc(near, far, constant=NOTHING),
                   f"apollo_{name}_tpr_at_1pct_fpr": tpr_at_fpr(near, far, 1.0)}
    return scores


def _mean(never: np.ndarray) -> np.ndarray | float:
    return never.mean(axis=0) if len(never) else 0.0
