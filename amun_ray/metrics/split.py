"""Which rows of the one stack of samples are retained, to be forgotten, and never seen."""

from typing import NamedTuple

import numpy as np

from amun_ray.base.errors import UserError


class Split(NamedTuple):
    """Rows of D + D_T, three disjoint int64 arrays. A row number is valid for every array of the same stack."""

    retain: np.ndarray  # D_R, trained on and kept
    forget: np.ndarray  # D_F, trained on and to be forgotten
    test: np.ndarray  # D_T, never trained on

    @classmethod
    def of(cls, forget: np.ndarray, *, train_size: int, size: int) -> "Split":
        """The split of a stack of `size` rows, the first `train_size` of them for training, for one forget set."""
        rows = np.arange(size, dtype=np.int64)
        return cls(np.setdiff1d(rows[:train_size], forget), forget, rows[train_size:])


def check_split(rows: Split, count: int) -> None:
    """Raise UserError unless the three sets are not empty, disjoint, and lie in [0, count)."""
    for name, part in rows._asdict().items():
        part = np.asarray(part)
        if part.size == 0:
            raise UserError(f"{name} rows: the set is empty, it has no accuracy and no AUC")
        if part.ndim != 1 or part.dtype.kind not in "iu":
            raise UserError(f"{name} rows: must be a 1-D array of integers, got {part.dtype} of shape {part.shape}")
        if part.min() < 0 or part.max() >= count:
            raise UserError(f"{name} rows: must lie in [0, {count}), found [{part.min()}, {part.max()}]")
    shared = np.flatnonzero(np.bincount(np.concatenate(rows)) > 1)
    if shared.size:
        raise UserError(f"retain, forget and test rows must be disjoint; row {shared[0]} occurs more than once")
