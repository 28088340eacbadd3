"""Which rows of the stacked samples are retained, to be forgotten, and never seen."""

from typing import NamedTuple

import numpy as np

from amun_ray.base.errors import UserError
from amun_ray.data.dataset import permutation
from amun_ray.data.splits import forgotten_classes


class Split(NamedTuple):
    """Rows of D + D_T, disjoint int64 arrays. A row number is valid for every array of the same stack.

    If whole classes are forgotten, D_T is split in two: no model that has forgotten them gets their test images right,
    and compared with test images of other classes, their training images would stand out by their class alone.
    """

    retain: np.ndarray  # D_R, trained on and kept
    forget: np.ndarray  # D_F, trained on and to be forgotten
    test: np.ndarray  # D_T, never trained on, without the classes that are forgotten as a whole
    forgotten_test: np.ndarray = np.empty(0, np.int64)  # the test rows of those classes

    @classmethod
    def of(cls, forget: np.ndarray, *, labels: np.ndarray, train_size: int) -> "Split":
        """The split for one forget set of a stack with `labels` (N,), the first `train_size` of them for training.

        D_T is split in two as `forgotten_classes` says.
        """
        rows = np.arange(len(labels), dtype=np.int64)
        test, classes = rows[train_size:], forgotten_classes(labels, forget, train_size)
        apart = np.isin(labels[test], classes)
        return cls(np.setdiff1d(rows[:train_size], forget), forget, test[~apart], test[apart])

    def sample(self, count: int, seed: int) -> "Split":
        """All of D_F, and at most `count` random rows of each other part, rising. A greater `count` adds to them."""
        def few(name: str) -> np.ndarray:
            part: np.ndarray = getattr(self, name)
            return np.sort(part[permutation(len(part), seed, "score", name)[:count]])
        return Split(few("retain"), self.forget, few("test"), few("forgotten_test"))

    def within(self, rows: np.ndarray) -> "Split":
        """The part of it that is among `rows`, which rise, by places in these."""
        return Split(*(np.searchsorted(rows, np.intersect1d(part, rows)) for part in self))

    @property
    def unseen(self) -> np.ndarray:
        """The rows of D_T to compare D_F with: images of the same kind."""
        return self.forgotten_test if self.forgotten_test.size else self.test


def check_split(rows: Split, count: int) -> None:
    """Raise UserError unless D_R, D_F and D_T are non-empty, disjoint and within [0, count)."""
    for name, part in rows._asdict().items():
        part = np.asarray(part)
        if part.size == 0 and part is rows.forgotten_test:
            continue
        if part.size == 0:
            raise UserError(f"{name} rows: the set is empty, it has no accuracy and no AUC")
        if part.ndim != 1 or part.dtype.kind not in "iu":
            raise UserError(f"{name} rows: must be a 1-D array of integers, got {part.dtype} of shape {part.shape}")
        if part.min() < 0 or part.max() >= count:
            raise UserError(f"{name} rows: must lie in [0, {count}), found [{part.min()}, {part.max()}]")
    shared = np.flatnonzero(np.bincount(np.concatenate(rows)) > 1)
    if shared.size:
        raise UserError(f"retain, forget and test rows must be disjoint; row {shared[0]} occurs more than once")
