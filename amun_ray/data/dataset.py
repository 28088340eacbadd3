"""What a dataset is: one stack of uint8 images, whose rows every index array of the project counts."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from PIL import Image

from amun_ray.base.errors import UserError
from amun_ray.base.seeds import generator

STATISTICS_PIXELS = 2**22  # per histogram step and channel: bounds what is copied at once


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training set D, rows [0, train_size), and test set D_T, rows [train_size, N), in one stack.

    Attributes:
        name: what messages and reports call it; not part of the digest.
        pixels: (N, C, H, W) uint8 in 0..255.
        labels: (N,) int64 in [0, classes).
        train_size: number of training rows, 1 <= train_size < N.
        classes: number of classes, at least 2.
        notes: lines of the plan about the files that were read; one that begins with `warning:` points to a probable
            mistake. Not part of the digest.
        file_rows: (N,) int64, rising in D and in D_T: where each row was in the user's own files, counted from 0 over
            the files of each; None if all rows of the files are there.
        file_train_size: number of training rows in the user's files; None means `train_size`.
        class_names: what the user calls each class, in the order of their numbers; empty if they have numbers only.
            Not part of the digest.
        paths: file name of each row relative to the data folder, D then D_T; None if the images are not separate files.
            Not part of the digest.

    Raises:
        UserError: no arrays, a wrong shape, dtype or train_size, or a label outside the classes (the row is named).
    """

    name: str
    pixels: np.ndarray
    labels: np.ndarray
    train_size: int
    classes: int
    notes: tuple[str, ...] = ()
    file_rows: np.ndarray | None = None
    file_train_size: int | None = None
    class_names: tuple[str, ...] = ()
    paths: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        pixels, labels = self.pixels, self.labels
        for name, array in (("images", pixels), ("labels", labels)):
            if not isinstance(array, np.ndarray):
                raise UserError(f"{self.name}: {name} must be a numpy array, found {type(array).__name__}")
        for name, number in (("train_size", self.train_size), ("classes", self.classes)):
            if not isinstance(number, int | np.integer):
                raise UserError(f"{self.name}: {name} must be a whole number, found {number!r}")
        if pixels.ndim != 4 or pixels.dtype != np.uint8 or not pixels.size:
            raise UserError(f"{self.name}: images must be uint8 of shape (N, C, H, W), "
                            f"found {pixels.dtype} {pixels.shape}{_value_range(pixels)}")
        if labels.shape != pixels.shape[:1] or labels.dtype != np.int64:
            raise UserError(f"{self.name}: labels must be int64 of shape ({len(pixels)},), "
                            f"found {labels.dtype} {labels.shape}")
        if not 1 <= self.train_size < len(pixels):
            raise UserError(f"{self.name}: `1 <= train_size < {len(pixels)}` must hold, so that training and test rows "
                            f"both exist, but got train_size={self.train_size}")
        if self.classes < 2:
            raise UserError(f"{self.name}: at least 2 classes are needed, but got {self.classes}")
        rows = self.file_rows
        if rows is not None and (not isinstance(rows, np.ndarray) or rows.shape != labels.shape or
                                 (np.diff(rows[:self.train_size]) <= 0).any()):
            raise UserError(f"{self.name}: file_rows must hold a number for each of {len(pixels)} rows, rising among "
                            "the training rows")
        outside = np.flatnonzero((labels < 0) | (labels >= self.classes))
        if outside.size:
            raise UserError(f"{self.name}: row {outside[0]}: label {labels[outside[0]]} is outside "
                            f"the classes 0..{self.classes - 1}")

    def __len__(self) -> int:
        """N, training and test rows together."""
        return len(self.pixels)

    @property
    def train_rows(self) -> np.ndarray:
        """(train_size,) int64: the rows of D."""
        return np.arange(self.train_size, dtype=np.int64)

    @property
    def test_rows(self) -> np.ndarray:
        """(N - train_size,) int64: the rows of D_T."""
        return np.arange(self.train_size, len(self), dtype=np.int64)

    @property
    def channels(self) -> int:
        """C: 1 for grey, 3 for RGB."""
        return self.pixels.shape[1]

    @property
    def size(self) -> int:
        """The shorter side of an image, in pixels; it limits how often a network may halve the image."""
        return min(self.pixels.shape[2:])

    @property
    def map_path(self) -> str | None:
        """The file that `pixels` is mapped from; None if it is in memory."""
        file = self.pixels.filename if isinstance(self.pixels, np.memmap) else None
        return None if file is None else os.fspath(file)

    def knowing(self, known: Mapping[str, Any]) -> Self:
        """This dataset, with cached properties that were computed before: `digest`, `first_alike`, `statistics`."""
        self.__dict__.update(known)
        return self

    def without(self, rows: np.ndarray, note: str) -> Self:
        """This dataset without some training rows (int64); the others keep their numbers in the user's files. Its
        pixels are in memory.

        Raises:
            UserError: no training row is left.
        """
        kept = np.setdiff1d(np.arange(len(self)), rows)
        return replace(self, pixels=self.pixels[kept], labels=self.labels[kept], train_size=self.train_size - len(rows),
                       notes=(*self.notes, note), file_rows=self.file_numbers[kept],
                       file_train_size=self.file_train_size or self.train_size,
                       paths=self.paths and tuple(self.paths[row] for row in kept))

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of pixels, labels, train_size and classes; equal contents under two names agree."""
        content = hashlib.sha256(repr((self.pixels.shape, self.train_size, self.classes)).encode())
        content.update(np.ascontiguousarray(self.pixels).data)
        content.update(np.ascontiguousarray(self.labels).data)
        return content.hexdigest()

    @cached_property
    def file_numbers(self) -> np.ndarray:
        """(N,) int64: where each row was in the user's files; the rows of D_T count from 0 again."""
        if self.file_rows is not None:
            return self.file_rows
        return np.concatenate([self.train_rows, self.test_rows - self.train_size])

    @cached_property
    def first_alike(self) -> np.ndarray:
        """(N,) int64: for each row the first row with the same pixels, which may be itself."""
        first: dict[bytes, int] = {}
        alike = np.arange(len(self))
        sums = np.array([_byte_sum(image) for image in self.pixels])
        _, group, sizes = np.unique(sums, return_inverse=True, return_counts=True)
        for row in np.flatnonzero(sizes[group] > 1).tolist():  # those with a sum of their own are like no other
            pixels = np.ascontiguousarray(self.pixels[row])
            alike[row] = first.setdefault(hashlib.blake2b(pixels.data, digest_size=16).digest(), row)
        return alike

    @cached_property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, std) of D, one number per channel, for pixels in [0, 1]; exact, since it counts the 256 values."""
        counts = np.zeros((self.channels, 256), np.int64)
        step = max(1, STATISTICS_PIXELS // int(np.prod(self.pixels.shape[2:])))
        for start in range(0, self.train_size, step):
            block = self.pixels[start:min(start + step, self.train_size)]
            for channel in range(self.channels):  # PIL counts bytes as they are; numpy makes integers of them first
                counts[channel] += Image.fromarray(block[:, channel].reshape(len(block), -1)).histogram()
        values = np.arange(256) / 255
        weights = counts / counts.sum(1, keepdims=True)
        mean = weights @ values
        variance = (weights * (values - mean[:, None]) ** 2).sum(1)
        return tuple(mean.tolist()), tuple(np.sqrt(variance).tolist())


class Subset(NamedTuple):
    """Which of a user's rows are taken: all, or random ones, in the order of the files.

    Attributes:
        train_size, test_size: how many random rows of D and of D_T; None takes all.
        seed: decides which.
    """

    train_size: int | None = None
    test_size: int | None = None
    seed: int = 0

    def rows(self, part: str, available: int) -> np.ndarray:
        """The rows of `part`, train or test, out of `available`; as `seeded_subset`."""
        return seeded_subset(available, getattr(self, f"{part}_size"), f"{part}_size", self.seed)


ALL = Subset()


def seeded_subset(available: int, wanted: int | None, name: str, seed: int) -> np.ndarray:
    """(wanted,) int64 sorted: random rows out of `available`, or all of them when `wanted` is None.

    The draw depends on `seed` and `name` alone, so a subset of the training rows does not shift that of the test rows.

    Raises:
        UserError: `wanted` is below 1 or above `available`.
    """
    if wanted is None:
        return np.arange(available, dtype=np.int64)
    if not 1 <= wanted <= available:
        raise UserError(f"`1 <= {name} <= {available}` must hold, since so many rows exist, but got {name}={wanted}")
    return np.sort(permutation(available, seed, "subset", name)[:wanted])


def permutation(count: int, seed: int, *purpose: str | int) -> np.ndarray:
    """(count,) int64: the rows 0..count-1 in an order that depends on the seed and the purpose alone."""
    return torch.randperm(count, generator=generator(seed, *purpose)).numpy()


def _value_range(pixels: np.ndarray) -> str:
    """`, values in [low, high]`, or nothing for an array that has no numbers."""
    if not pixels.size or not np.issubdtype(pixels.dtype, np.number):
        return ""
    return f", values in [{pixels.min():.4g}, {pixels.max():.4g}]"


def _byte_sum(image: np.ndarray) -> int:
    """A number that equal pixels share, and few others do; a fraction of the time of a digest."""
    pixels = np.ascontiguousarray(image).reshape(-1)
    whole = len(pixels) // 8 * 8
    return int(pixels[:whole].view(np.uint64).sum()) ^ int(pixels[whole:].sum())
