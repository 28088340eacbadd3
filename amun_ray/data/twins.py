"""Pictures that are in a data set twice, where that undoes what is asked or measured."""

import numpy as np

from amun_ray.data.dataset import Dataset

SHOWN = 5  # pairs in a warning


def twins(dataset: Dataset, rows: np.ndarray, others: np.ndarray) -> list[tuple[int, int]]:
    """`(row, other)` for each of `others` whose pixels are those of one of `rows`, and the first such row.

    Args:
        rows, others: int64 rows of the dataset, disjoint, rising.
    """
    first = dict(zip(dataset.first_alike[rows[::-1]].tolist(), rows[::-1].tolist(), strict=True))
    alike = dataset.first_alike[others]
    return [(first[alike[at]], int(others[at])) for at in np.flatnonzero(np.isin(alike, list(first)))]


def forgotten_twins(dataset: Dataset, forget: np.ndarray) -> str | None:
    """A warning where a picture to be forgotten is among the remaining ones, under another row; None where none is."""
    pairs = twins(dataset, forget, np.setdiff1d(dataset.train_rows, forget))
    if not pairs:
        return None
    return (f"warning: {len(pairs)} of the remaining training images show what is to be forgotten, pixel by pixel "
            f"(forgotten row = remaining row: {_listed(dataset, pairs)}); unless these are forgotten too, the picture "
            "stays in training")


def unseen_twins(dataset: Dataset) -> str | None:
    """A warning where test images are training images; None where none is."""
    pairs = twins(dataset, dataset.train_rows, dataset.test_rows)
    if not pairs:
        return None
    return (f"warning: {len(pairs)} of {len(dataset.test_rows)} test images are training images, pixel by pixel "
            f"(training row = test row: {_listed(dataset, pairs)}); what is measured on unseen images is not, on these")


def _listed(dataset: Dataset, pairs: list[tuple[int, int]]) -> str:
    """The first pairs, in row numbers of the user's files."""
    numbers = dataset.file_numbers
    shown = [f"{numbers[row]} = {numbers[other]}" for row, other in pairs[:SHOWN]]
    return ", ".join(shown) + (", ..." if len(pairs) > SHOWN else "")
