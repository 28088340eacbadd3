"""MIS: the SVC attack of earlier unlearning papers, kept for comparison with their tables."""

import numpy as np
import torch

from amun_ray.metrics.accuracy import check_logits
from amun_ray.metrics.confidence import softmax
from amun_ray.metrics.split import Split, check_split

PENALTY = 3.0  # C; like the kernel width, from the papers that introduced the score (Jia et al. 2023; Fan et al. 2024)


def mis(
    logits: np.ndarray, labels: np.ndarray, rows: Split, *, generator: torch.Generator, largest: int = 2_000
) -> float:
    """Percent of D_F that a support vector classifier calls non-members. Target: the retrained model's.

    The classifier (RBF kernel, C = 3, gamma = 1 / features) is fitted to one feature, the softmax probability of the
    true class, on equal numbers of samples of D_R (members) and D_T (non-members). High does not mean good: to a
    retrained model D_F looks like D_T, and this weak attack takes most of D_T for members (the AMUN paper reports 12.53
    for retrained models at 10 %).

    Args:
        logits: (N, classes).
        labels: (N,) true classes.
        rows: the sets.
        generator: draws the samples.
        largest: most samples per side; the fit takes quadratic time, half a second for 2,000 on one CPU core.

    Raises:
        UserError: logits or a split that do not fit.
    """
    from sklearn.svm import SVC  # a second to import; a trial should not pay for it

    logits, labels = check_logits(logits, labels)
    check_split(rows, len(labels))
    confidence = softmax(logits, labels)
    size = min(largest, len(rows.retain), len(rows.test))
    drawn = [
        part[torch.randperm(len(part), generator=generator)[:size].numpy()] for part in (rows.retain, rows.test)
    ]
    features, truth = confidence[np.concatenate(drawn)][:, None], np.repeat([1, 0], size)
    classifier = SVC(C=PENALTY, gamma="auto", kernel="rbf").fit(features, truth)
    return 100 * float(np.mean(classifier.predict(confidence[rows.forget][:, None]) == 0))
