"""The one number that ranks a method: its mean distance from the retrained model. Not the mean of the metrics.

If retraining is too expensive, a search uses `proxy` instead.
"""

from collections.abc import Mapping, Sequence
from math import isfinite, prod

from amun_ray.base.errors import UserError

GAP_TERMS = ("unlearn_accuracy", "retain_accuracy", "test_accuracy", "forget_test_auc")
ACCURACIES = GAP_TERMS[:3]
GAP_TERMS_MIS = ("unlearn_accuracy", "retain_accuracy", "test_accuracy", "mis")


def average_gap(
    scores: Mapping[str, float], retrained: Mapping[str, float], terms: Sequence[str] = GAP_TERMS
) -> float:
    """Mean absolute difference from the retrained model over `terms`, in percentage points; 0 is perfect unlearning.

    Args:
        scores: of the unlearned model, in percent; may hold more than `terms`.
        retrained: the same scores of the retrained model (the mean, if there are several).
        terms: `GAP_TERMS` (the paper's Avg. Gap with FT AUC) or `GAP_TERMS_MIS` (with the SVC attack).

    Raises:
        UserError: a term is missing or not finite on either side.
    """
    for name, side in (("scores", scores), ("retrained scores", retrained)):
        bad = [term for term in terms if not isfinite(side.get(term, float("nan")))]
        if bad:
            raise UserError(f"average gap: {name} lack a finite {', '.join(bad)}; they hold {', '.join(sorted(side))}")
    return sum(abs(scores[term] - retrained[term]) for term in terms) / len(terms)


def tug_of_war(scores: Mapping[str, float], retrained: Mapping[str, float]) -> float:
    """ToW in percent (Zhao et al. 2024): the product of 1 - |accuracy - retrained accuracy| over D_F, D_R and D_T.

    100 is perfect unlearning. Arguments as in `average_gap`, which see for the errors raised.
    """
    return 100 * prod(1 - average_gap(scores, retrained, (term,)) / 100 for term in ACCURACIES)


def proxy(scores: Mapping[str, float], original_test_accuracy: float) -> float:
    """Mean of |FT AUC - 50| and the loss of test accuracy against the original model, in percentage points; 0 is best.

    It needs no retrained model: 50 is the ideal FT AUC (the paper, ICML 2025, section 6), that of a model that never
    saw D_F; and unlearning should not cost test accuracy. A gain in test accuracy counts as no loss. The proxy ignores
    the accuracy on D_F and D_R, so its best trial need not have the smallest Avg. Gap.

    Raises:
        UserError: a score is missing or not finite.
    """
    terms = ("forget_test_auc", "test_accuracy")
    bad = [term for term in terms if not isfinite(scores.get(term, float("nan")))]
    if bad or not isfinite(original_test_accuracy):
        raise UserError(f"proxy: the scores lack a finite {', '.join(bad) or 'test accuracy of the original'}")
    return (abs(scores["forget_test_auc"] - 50) + max(0.0, original_test_accuracy - scores["test_accuracy"])) / 2


def keeps_accuracies(scores: Mapping[str, float], original: Mapping[str, float], tolerance: float = 0.1) -> bool:
    """True if unlearn and retain accuracy are both within `tolerance` points of the original model's."""
    return all(abs(scores[term] - original[term]) <= tolerance for term in ("unlearn_accuracy", "retain_accuracy"))


def is_unchanged(scores: Mapping[str, float], original: Mapping[str, float], tolerance: float = 2.0) -> bool:
    """True if a method keeps the accuracies, and FT AUC is within `tolerance` points of the original model's.

    Such a method did nothing: a table must say so, because its retain and test accuracy look excellent. Keeping the
    accuracies and lowering FT AUC is different: it is the aim wherever retrained models are right on D_F too.
    """
    moved = abs(scores["forget_test_auc"] - original["forget_test_auc"])
    return keeps_accuracies(scores, original) and moved <= tolerance
