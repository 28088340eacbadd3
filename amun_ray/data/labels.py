"""What the labels of a data set are: numbers, or names of classes; and how many classes they stand for."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from amun_ray.base.errors import UserError
from amun_ray.base.names import suggestion
from amun_ray.data.columns import TEXTS, listed, quoted, value_type, whole_numbers
from amun_ray.data.files import File

CLASSES_SHOWN = 20
MOST_CLASSES = 100_000  # that a config may say
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")


class Column(NamedTuple):
    """The label column of one file."""

    file: File
    values: pa.ChunkedArray


class Labels(NamedTuple):
    """The labels of all files, one array each, and what a plan must say of them."""

    train: list[np.ndarray]  # each (rows,) int64 in [0, classes)
    test: list[np.ndarray]
    classes: int
    notes: list[str]
    names: tuple[str, ...] = ()  # of the classes, where the labels are names


def number_labels(train: Sequence[Column], test: Sequence[Column], classes: int | None) -> Labels:
    """The labels as numbers: as they are or, where all of `train` are names, by the sorted order of these.

    Args:
        classes: number of classes; None takes the largest training label + 1, or the number of names.

    Raises:
        UserError: a label that is missing, no integer, no name of the training set or outside the classes (its file and
            row are named); labels that leave most of the classes implied by the largest one without an image.
    """
    names = _names(train)
    notes: list[str] = []
    if names is None:
        numbers = [[whole_numbers(column.values, column.file, "label") for column in part] for part in (train, test)]
        if classes is None:
            classes, notes = _implied(train, numbers[0])
    else:
        numbers = [[_positions(column, names) for column in part] for part in (train, test)]
        classes = len(names) if classes is None else classes
        notes = [f"classes     {listed([f'{number} {name}' for number, name in enumerate(names)], CLASSES_SHOWN)}"]
    for column, labels in zip((*train, *test), (*numbers[0], *numbers[1]), strict=True):
        outside = np.flatnonzero((labels < 0) | (labels >= classes))
        if outside.size:
            raise UserError(f"{column.file}: row {outside[0]}: label {labels[outside[0]]} is outside the classes "
                            f"0..{classes - 1}")
    return Labels(numbers[0], numbers[1], classes, notes, tuple(names or ()))


def _names(train: Sequence[Column]) -> list[str] | None:
    """The sorted names of the classes; None where the labels are, or are meant to be, numbers."""
    if not all(any(holds(value_type(column.values)) for holds in TEXTS) for column in train):
        return None
    found = {name for column in train for name in pc.unique(column.values.cast(pa.string())).to_pylist()}
    if any(NUMBER.fullmatch(name or "") for name in found):
        return None
    return sorted(found - {None, ""})


def _positions(column: Column, names: list[str]) -> np.ndarray:
    """(rows,) int64: where the label of each row stands among `names`."""
    if not any(holds(value_type(column.values)) for holds in TEXTS):
        raise UserError(f"{column.file}: label: a column of {value_type(column.values)}, but the training labels are "
                        f"names: {listed(names)}")
    texts = column.values.cast(pa.string())
    found = pc.index_in(texts, value_set=pa.array(names, pa.string()))
    if found.null_count:
        row = int(found.is_null().to_numpy().argmax())
        name = texts[row].as_py()
        raise UserError(f"{column.file}: row {row}: label is missing" if not name else
                        f"{column.file}: row {row}: label {quoted(name)} is no class of the training set"
                        f"{suggestion(name, names)} Classes: {listed(names)}")
    return found.to_numpy().astype(np.int64)


def _implied(train: Sequence[Column], numbers: Sequence[np.ndarray]) -> tuple[int, list[str]]:
    """The number of classes up to the largest label, and a warning of those that no training image has."""
    present = np.unique(np.concatenate([np.unique(labels) for labels in numbers]))
    if not present.size or present[0] < 0:
        return 1 + int(present.max(initial=0)), []  # no label at all, or a negative one, which is refused as such
    classes = 1 + int(present[-1])
    empty = classes - len(present)
    if 2 * empty > classes:
        at = next(file for file, labels in enumerate(numbers) if labels.size and labels.max() == present[-1])
        meant = f", or say data.classes: {classes} if it is meant" if classes <= MOST_CLASSES else ""
        raise UserError(f"{train[at].file}: row {numbers[at].argmax()}: label {present[-1]} implies {classes:,} "
                        f"classes, of which {empty:,} have no training image; number the labels from 0 without gaps or "
                        f"remove such rows{meant}")
    if not empty:
        return classes, []
    absent = np.setdiff1d(np.arange(classes), present)
    shown = ", ".join(map(str, absent[:5])) + (", ..." if empty > 5 else "")
    hint = "if the labels count from 1, subtract 1; " if absent[0] == 0 else ""
    return classes, [f"warning: no training image has label {shown} of 0..{classes - 1}: {empty} class(es) for nobody; "
                     f"{hint}data.classes: {classes} says that it is meant"]
