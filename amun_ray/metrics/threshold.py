"""Attacks without reference models: compare one number per sample with a threshold (Song and Mittal 2021).

Each signal takes logits (N, classes) and labels (N,) and returns (N,) float64, oriented so that high means member.
"""

from collections.abc import Callable

import numpy as np

from amun_ray.base.errors import UserError
from amun_ray.metrics.accuracy import check_logits
from amun_ray.metrics.confidence import softmax
from amun_ray.metrics.split import Split, check_split


def negative_loss(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """log p_y, the negative cross-entropy loss, in (-inf, 0]."""
    log_p, _ = _log_probabilities(logits, labels)
    return log_p[np.arange(len(log_p)), labels]


def negative_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """sum_i p_i log p_i, in [-log classes, 0]; the label is not used."""
    log_p, _ = _log_probabilities(logits, labels)
    return (np.exp(log_p) * log_p).sum(axis=1)


def negative_modified_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(1 - p_y) log p_y + sum_{i != y} p_i log(1 - p_i), in (-inf, 0]: minus Song and Mittal's modified entropy.

    It is 0 for a confident right answer and falls without bound for a confident wrong one, where entropy is 0 for both.
    """
    log_p, log_rest = _log_probabilities(logits, labels)
    true = (np.arange(len(log_p)), np.asarray(labels))
    terms = np.exp(log_p) * log_rest
    terms[true] = np.exp(log_rest[true]) * log_p[true]
    return terms.sum(axis=1)


Signal = Callable[[np.ndarray, np.ndarray], np.ndarray]

SIGNALS: dict[str, Signal] = {
    "loss": negative_loss,
    "confidence": softmax,
    "entropy": negative_entropy,
    "modified_entropy": negative_modified_entropy,
}


def best_threshold(members: np.ndarray, others: np.ndarray) -> float:
    """The threshold t for which "score >= t means member" has the best balanced accuracy on the two sets; O(N log N).

    Among equally good thresholds, the largest. An uninformative score thus calls nobody a member: t is then inf.

    Raises:
        UserError: an empty set, or NaN.
    """
    for name, scores in (("members", members), ("non-members", others)):
        if len(scores) == 0 or np.isnan(scores).any():
            raise UserError(f"threshold attack: the scores of {name} are empty or hold NaN")
    candidates = np.append(np.unique(np.concatenate([members, others])), np.inf)
    hits = len(members) - np.searchsorted(np.sort(members), candidates, side="left")
    alarms = len(others) - np.searchsorted(np.sort(others), candidates, side="left")
    gain = hits * len(others) - alarms * len(members)  # in integers, so that ties are ties
    return float(candidates[len(gain) - 1 - np.argmax(gain[::-1])])


def forget_called_member(signal: np.ndarray, labels: np.ndarray, rows: Split, *, per_class: bool = True) -> float:
    """Percent of D_F called members by a threshold fitted on D_R (members) and D_T (non-members).

    Args:
        signal: (N,) from one of `SIGNALS`.
        labels: (N,) true classes.
        rows: the sets. Target: the retrained model's percentage, not 0.
        per_class: a threshold for each class, as Song and Mittal advise; a class without members or non-members
            uses the threshold of all classes together.

    Raises:
        UserError: a split that does not fit, or NaN.
    """
    signal, labels = np.asarray(signal), np.asarray(labels)
    check_split(rows, len(labels))
    threshold = np.full(labels.max() + 1, best_threshold(signal[rows.retain], signal[rows.test]))
    if per_class:
        for label in np.unique(labels[rows.forget]):
            members, others = (signal[part[labels[part] == label]] for part in (rows.retain, rows.test))
            if len(members) and len(others):
                threshold[label] = best_threshold(members, others)
    return 100 * float(np.mean(signal[rows.forget] >= threshold[labels[rows.forget]]))


def _log_probabilities(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log p_i and log(1 - p_i), both (N, classes), exact in the tails: p_i may round to 0 or to 1.

    1 - p_i is the sum of the other probabilities. Computed as a difference, it loses digits only for the largest entry,
    so there it is summed without that entry.
    """
    logits, labels = check_logits(logits, labels)
    if logits.shape[1] < 2:
        raise UserError("logits: entropies need at least 2 classes")
    logits = logits.astype(np.float64)
    broken = np.count_nonzero(~np.isfinite(logits).all(axis=1))
    if broken:
        raise UserError(f"logits: {broken} of {len(logits)} rows are not finite")
    largest = (np.arange(len(logits)), logits.argmax(axis=1))
    logits -= logits[largest][:, None]
    others = logits.copy()
    others[largest] = -np.inf
    second = others.max(axis=1)
    log_others = second + np.log(np.exp(others - second[:, None]).sum(axis=1))
    log_total = np.log1p(np.exp(log_others))
    with np.errstate(divide="ignore"):  # the largest entry may give log 0 here; it is replaced in the next line
        log_rest = np.log(1 + np.exp(log_others)[:, None] - np.exp(logits)) - log_total[:, None]
    log_rest[largest] = log_others - log_total
    return logits - log_total[:, None], log_rest
