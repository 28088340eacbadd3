"""Who is hard to forget: how much more often models are right on a sample if they were trained on it."""

from collections.abc import Iterable

import numpy as np

from amun_ray.metrics.bank import check_members, signals
from amun_ray.metrics.confidence import softmax

GROUPS = ("low", "medium", "high")


def memorisation(references: Iterable[np.ndarray], labels: np.ndarray, *, members: np.ndarray) -> np.ndarray:
    """Memorisation (N, 2) of each sample, both in [-1, 1]: P(right | in) - P(right | out) over the reference models
    (Feldman and Zhang, 2020), and the same of the probability of the true class, which orders equal ones.

    One pass; memory does not grow with the number of models.

    Args:
        references: logits (N, classes) of one model after another, as in `bank.signals`.
        labels: (N,) true classes.
        members: (models, N) bool, True where the model was trained on the sample.

    Raises:
        UserError: references that do not fit, or a sample with fewer than 2 models in or out.
    """
    check_members(members, len(labels))

    def both(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return np.stack([np.argmax(logits, axis=1) == labels, softmax(logits, labels)], axis=1)

    sums = np.zeros((2, len(labels), 2))
    for value, member in zip(signals(references, labels, both, len(members)), members, strict=True):
        for side, weight in enumerate((member, ~member)):
            sums[side] += weight[:, None] * value
    inside = members.sum(axis=0)[:, None]
    return sums[0] / inside - sums[1] / (len(members) - inside)


def ranked(memorised: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`rows` from the least to the most memorised; `memorised` (N, 2) from `memorisation`."""
    rows = np.sort(rows)
    return rows[np.lexsort((memorised[rows, 1], memorised[rows, 0]))]


def thirds(memorised: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
    """`rows` in three parts that are equally large but for one row: the least, medium and most memorised.

    At least 3 rows are needed for none of them to be empty.
    """
    return dict(zip(GROUPS, np.array_split(ranked(memorised, rows), len(GROUPS)), strict=True))
