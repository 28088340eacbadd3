"""Pictures that are in a data set twice, or nearly, so that they undo what is asked for or measured."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from amun_ray.data.dataset import Dataset

SHOWN = 5  # pairs in a warning
THUMBNAIL, COARSE = 32, 8  # pixels of a side
NEAR, SMALL_NEAR = 0.985, 0.995  # least correlation of the thumbnails of copies; the latter for fewer pixels than
SMALL = 16 * 16  # pixels: on 8 x 8 pixels, one 1 is like another
COARSELY_NEAR = 0.9  # of coarse thumbnails: whatever passes NEAR passes this
LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in a grey picture (ITU-R 601), as in image files
BLOCK_PIXELS = 2**24  # of images that are looked at together


def twins(dataset: Dataset, rows: np.ndarray, others: np.ndarray) -> list[tuple[int, int]]:
    """`(row, other)` for each of `others` whose pixels are those of one of `rows`, and the first such row.

    Args:
        rows, others: int64 rows of the dataset, disjoint, rising.
    """
    first = dict(zip(dataset.first_alike[rows[::-1]].tolist(), rows[::-1].tolist(), strict=True))
    alike = dataset.first_alike[others]
    return [(first[alike[at]], int(others[at])) for at in np.flatnonzero(np.isin(alike, list(first)))]


def forgotten_twins(dataset: Dataset, forget: np.ndarray) -> str | None:
    """A warning if a picture to be forgotten is also a remaining one, in another row; otherwise None."""
    pairs = twins(dataset, forget, np.setdiff1d(dataset.train_rows, forget))
    if not pairs:
        return None
    show = "shows" if len(pairs) == 1 else "show"
    return (f"warning: {len(pairs)} of the remaining training images {show} what is to be forgotten, pixel by pixel "
            f"(forgotten row = remaining row: {_listed(dataset, pairs)}); unless these are forgotten too, the picture "
            "stays in training")


class NearCopy(NamedTuple):
    """Two rows whose pictures are nearly the same, and the correlation of their thumbnails."""

    row: int
    other: int
    correlation: float


def near_copies(dataset: Dataset, rows: np.ndarray, others: np.ndarray) -> Iterator[NearCopy]:
    """For each of `others` that is nearly the same as one of `rows`, the nearest such row; exact copies are left out.

    Nearly the same: grey thumbnails of at most 32 x 32 pixels have a correlation of 0.985, or of 0.995 if they are
    small. That finds a picture that was encoded again, made brighter or, if it is larger than 32 pixels, resized; not
    one that was cropped or mirrored. Measured: it finds 7 among 5,000 x 45,000 images of CIFAR-10, all of them the same
    picture in other colours, and none among 1,000 x 8,900 of MNIST or 500 x 1,290 digits. (A perceptual hash of 64
    bits, at the distance that finds all copies, takes every fourth image of MNIST for one.)

    Cost, for n rows and N images: each image is read once, and 64 n N products find the pairs to compare: 4 s for that
    CIFAR-10 on one core. Memory: n thumbnails and one block of images, whatever N is.
    """
    mine, mine_coarse = _thumbnails(dataset.pixels[rows])
    near = NEAR if mine.shape[1] >= SMALL else SMALL_NEAR
    step = max(1, BLOCK_PIXELS // dataset.pixels[0].size)
    for start in range(0, len(others), step):
        block = others[start:start + step]
        theirs, theirs_coarse = _thumbnails(dataset.pixels[block])
        at, place = torch.nonzero(theirs_coarse @ mine_coarse.T >= COARSELY_NEAR, as_tuple=True)
        likeness = torch.cat([(theirs[some] * mine[those]).sum(1) for some, those in zip(
            at.split(step), place.split(step), strict=True)])
        best: dict[int, NearCopy] = {}
        for index in torch.nonzero(likeness >= near)[:, 0].tolist():
            row, other, value = int(rows[place[index]]), int(block[at[index]]), float(likeness[index])
            if dataset.first_alike[row] != dataset.first_alike[other] and (
                    other not in best or value > best[other].correlation):
                best[other] = NearCopy(row, other, value)
        yield from best.values()


def _thumbnails(pixels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Grey thumbnails (N, pixels) of mean 0 and norm 1, and coarse ones; all 0 for a picture of one colour."""
    images = torch.from_numpy(np.ascontiguousarray(pixels)).float()
    weights = torch.tensor(LUMA if images.shape[1] == len(LUMA) else [1 / images.shape[1]] * images.shape[1])
    grey = torch.einsum("nchw,c->nhw", images, weights)[:, None]
    thumbnails = []
    height, width = grey.shape[2:]
    for side in (THUMBNAIL, COARSE):
        size = min(side, height), min(side, width)
        small = torch.nn.functional.adaptive_avg_pool2d(grey, size).flatten(1)
        small = small - small.mean(1, keepdim=True)
        thumbnails.append(small / small.norm(dim=1, keepdim=True).clamp_min(1e-3))
    return thumbnails[0], thumbnails[1]


def forgotten_near_copies(dataset: Dataset, forget: np.ndarray) -> str | None:
    """A warning if a picture to be forgotten is nearly the same as a remaining one; otherwise None."""
    pairs = [(pair.row, pair.other) for pair in sorted(
        near_copies(dataset, forget, np.setdiff1d(dataset.train_rows, forget)), key=lambda pair: -pair.correlation)]
    if not pairs:
        return None
    return (f"warning: {len(pairs)} of the remaining training images nearly show what is to be forgotten (forgotten "
            f"row = remaining row: {_listed(dataset, pairs)}); look at them: unless these are forgotten too, what they "
            "show stays in training")


def unseen_twins(dataset: Dataset) -> str | None:
    """A warning if test images are training images; otherwise None."""
    pairs = twins(dataset, dataset.train_rows, dataset.test_rows)
    if not pairs:
        return None
    return (f"warning: {len(pairs)} of {len(dataset.test_rows)} test images are training images, pixel by pixel "
            f"(training row = test row: {_listed(dataset, pairs)}); the model has seen them, so they are no test")


def _listed(dataset: Dataset, pairs: list[tuple[int, int]]) -> str:
    """The first pairs, by the names of the user's files or by row numbers in these."""
    names = dataset.file_numbers if dataset.paths is None else dataset.paths
    shown = [f"{names[row]} = {names[other]}" for row, other in pairs[:SHOWN]]
    return ", ".join(shown) + (", ..." if len(pairs) > SHOWN else "")
