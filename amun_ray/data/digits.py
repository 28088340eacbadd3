"""scikit-learn's handwritten digits: 1,797 grey images of 8 x 8 that need neither a file nor a network."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from amun_ray.base.errors import UserError
from amun_ray.data.dataset import Dataset, permutation

GREY_LEVELS = 16  # the set counts ink in 0..16


def load_digits(*, train_size: int = 700, seed: int = 0) -> Dataset:
    """The digits, shuffled once by `seed`: the first `train_size` rows are for training, all others for testing.

    Args:
        train_size: 1 <= train_size < 1797.
        seed: decides the shuffle.

    Returns:
        Dataset with pixels (1797, 1, 8, 8) and 10 classes.
    """
    images, labels = _read()
    if not 1 <= train_size < len(labels):
        raise UserError(f"digits: `1 <= train_size < {len(labels)}` must hold, but got train_size={train_size}")
    order = permutation(len(labels), seed, "digits")
    pixels = np.rint(images[order] * (255 / GREY_LEVELS)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return Dataset("digits", pixels, labels[order].astype(np.int64), train_size, classes=10)


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Ink (1797, 64) in 0..16 and labels (1797,), from scikit-learn's own file: the library takes seconds to import."""
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    rows = np.loadtxt(Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return rows[:, :-1], rows[:, -1].astype(np.int64)
