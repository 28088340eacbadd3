"""CIFAR-10 and CIFAR-100 by name, through torchvision, downloaded where there is a network."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from amun_ray.base.errors import UserError, first_line
from amun_ray.base.files import expanded
from amun_ray.data.dataset import Dataset, seeded_subset


def load_cifar10(
    *, root: str | os.PathLike[str], download: bool = True, train_size: int | None = None, test_size: int | None = None,
    seed: int = 0,
) -> Dataset:
    """CIFAR-10 (Krizhevsky, 2009): pixels (60000, 3, 32, 32), 50,000 rows for training, 10 classes.

    Args:
        root: folder that has, or gets, torchvision's copy of the set. Its files are pickles; torchvision compares
            each with a fixed checksum before it opens it.
        download: fetch the set if it is not in `root`.
        train_size, test_size: how many random rows of each (`seed` decides which), in file order; None takes all.
        seed: decides the subsets.

    Raises:
        UserError: the set is not in `root` and cannot be downloaded, or torchvision does not work here.
    """
    return _load("CIFAR10", root, download, {"train_size": train_size, "test_size": test_size}, seed)


def load_cifar100(
    *, root: str | os.PathLike[str], download: bool = True, train_size: int | None = None, test_size: int | None = None,
    seed: int = 0,
) -> Dataset:
    """CIFAR-100 (Krizhevsky, 2009): as `load_cifar10`, with 100 classes (the fine labels)."""
    return _load("CIFAR100", root, download, {"train_size": train_size, "test_size": test_size}, seed)


SIZES = {"cifar10": (50_000, 10_000, 10), "cifar100": (50_000, 10_000, 100)}  # training and test images, classes
NOT_HERE = "(not downloaded yet)"  # at the end of the name of an `outline`


def outline(
    name: str, *, train_size: int | None = None, test_size: int | None = None, seed: int = 0, **_: object
) -> Dataset:
    """A stand-in, for a plan, of a set that is not downloaded yet: as many images, which hold only their number.

    Raises:
        UserError: a subset larger than the set.
    """
    train, test, classes = SIZES[name]
    rows = [seeded_subset(have, wanted, what, seed) for have, wanted, what in
            ((train, train_size, "train_size"), (test, test_size, "test_size"))]
    count = sum(map(len, rows))
    pixels = np.zeros((count, 3, 32, 32), np.uint8)
    pixels[:, :, 0, :2] = np.arange(1, count + 1, dtype="<u2").view(np.uint8).reshape(count, 1, 2)  # no two are alike
    return Dataset(f"{name} {NOT_HERE}", pixels, np.arange(count, dtype=np.int64) % classes, len(rows[0]), classes,
                   file_rows=np.concatenate(rows), file_train_size=train)


def _load(kind: str, root: str | os.PathLike[str], download: bool, sizes: dict[str, int | None], seed: int) -> Dataset:
    """Both parts of the torchvision class `kind`, cut down to `sizes`, in one stack."""
    name = kind.lower()
    constructor = _torchvision_class(kind)
    root = expanded(os.fspath(root))
    try:
        parts = [constructor(root, train=train, download=download) for train in (True, False)]
    except (OSError, RuntimeError) as error:  # no network or folder, and torchvision's "not found or corrupted"
        raise UserError(f"{name}: not in {root!r}, and cannot be downloaded: {first_line(error)}; without a network, "
                        "copy torchvision's folder there, or use the dataset 'parquet'") from error
    rows = [seeded_subset(len(part.data), size, what, seed)
            for part, (what, size) in zip(parts, sizes.items(), strict=True)]
    # torchvision holds (N, H, W, C)
    pixels = np.concatenate([part.data[chosen] for part, chosen in zip(parts, rows, strict=True)])
    labels = np.concatenate([np.asarray(part.targets, np.int64)[chosen]
                             for part, chosen in zip(parts, rows, strict=True)])
    pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    return Dataset(name, pixels, labels, len(rows[0]), classes=len(parts[0].classes),
                   file_rows=np.concatenate(rows), file_train_size=len(parts[0].data),
                   class_names=tuple(parts[0].classes))


def _torchvision_class(kind: str) -> Callable[..., Any]:
    """The class `kind` of torchvision.datasets; imported here, because other datasets do not need torchvision."""
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:  # RuntimeError: builds of torch and torchvision that do not fit
        raise UserError(f"{kind.lower()} needs a torchvision that fits this torch: {first_line(error)}") from error
    return getattr(datasets, kind)
