"""DATASETS: name -> function that returns a Dataset; `load` is the one way in."""

import inspect
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from amun_ray.base.blame import FAILURES, fault
from amun_ray.base.errors import UserError, in_words
from amun_ray.base.names import check_arguments, lookup
from amun_ray.data.dataset import Dataset
from amun_ray.data.digits import load_digits
from amun_ray.data.files import File, find_files
from amun_ray.data.folder import load_folder
from amun_ray.data.huggingface import load_huggingface, training_files
from amun_ray.data.keep import Keep
from amun_ray.data.parquet import load_parquet, read_further
from amun_ray.data.settings import flat
from amun_ray.data.torchvision_sets import SIZES, load_cifar10, load_cifar100, outline

KEEP = "keep"  # the parameter of a dataset that its caller gives, and no config

DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": load_digits,
    "folder": flat(load_folder),
    "huggingface": flat(load_huggingface),
    "parquet": flat(load_parquet),
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
}

TABLES: dict[str, Callable[..., list[File]]] = {  # settings of a dataset with further columns -> its training files
    "huggingface": training_files,
    "parquet": lambda *, train, **_: find_files(train)[0],
}


def further(name: str, column: str, **settings: Any) -> pa.ChunkedArray:
    """A further column of the dataset `name`, over all rows of its training files.

    Raises:
        UserError: as `parquet.read_further`, or the dataset has no such columns.
    """
    if name not in TABLES:
        raise UserError(f"forget.column: only data.name: {' and '.join(sorted(TABLES))} have further columns, not "
                        f"{name}")
    return read_further(TABLES[name](**settings), column)


def check(name: str, **settings: Any) -> Callable[..., Dataset]:
    """The function behind `name`, after its settings were checked by name; nothing is read.

    Args:
        name: a row of DATASETS, or `package.module:callable` of the user's own.
        settings: keyword arguments for that function.

    Raises:
        UserError: unknown name, a setting that does not exist, or one that is missing.
    """
    function = lookup(DATASETS, name, "dataset")
    if not callable(function):
        raise UserError(f"dataset {name!r} must be a callable that returns a Dataset, found {type(function).__name__}")
    check_arguments(function, settings, f"dataset {name!r}", [KEEP] if _keeps(function) else [])
    return function


def _keeps(function: Callable[..., Dataset]) -> bool:
    """Whether a dataset of ours can lie in a file."""
    return function in DATASETS.values() and KEEP in inspect.signature(function).parameters


def load(name: str, *, keep: Keep | None = None, **settings: Any) -> Dataset:
    """The dataset `name`, read with `settings`; see `check` for both.

    With `keep` the decoded images of folders and tables of files are kept there, and mapped into memory.

    Raises:
        UserError: as `check`, or whatever is wrong with the data, in one line.
    """
    function = check(name, **settings)
    try:
        dataset = function(**settings, **({KEEP: keep} if _keeps(function) else {}))
    except UserError:
        raise
    except FAILURES as error:
        if name in DATASETS:
            raise
        raise UserError(f"dataset {name!r}: {fault(error, name) or in_words(error)}") from error
    if not isinstance(dataset, Dataset):
        raise UserError(f"dataset {name!r} must return a Dataset, found {type(dataset).__name__}")
    return dataset


def load_for_plan(name: str, *, keep: Keep | None = None, **settings: Any) -> Dataset:
    """`load`, except that nothing is downloaded: a set that is not there yet is replaced by its sizes.

    Raises:
        UserError: as `load`.
    """
    if name not in SIZES:
        return load(name, keep=keep, **settings)
    try:
        return load(name, **settings | {"download": False})
    except UserError:
        return outline(name, **settings)
