"""What the labels of a data set are, numbers or names of classes, and how many classes there are."""

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

MOST_CLASSES = 100_000
CLASSES_SHOWN = 20
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")


class Column(NamedTuple):
    """The label column of one file."""

    file: File
    values: pa.ChunkedArray


class Labels(NamedTuple):
    """The labels of all files, one array each, and what a plan must say about them."""

    train: list[np.ndarray]  # each (rows,) int64 in [0, classes)
    test: list[np.ndarray]
    classes: int
    notes: list[str]
    names: tuple[str, ...] = ()  # of the classes, where the labels are names


def number_labels(train: Sequence[Column], test: Sequence[Column], classes: int | None,
                  names: Sequence[str] = ()) -> Labels:
    """The labels as numbers of classes.

    Numbers stay as they are if they count from 0 without gaps, or if `classes` or `names` say what they count. Other
    numbers are mapped by size, and names of classes by their sorted order: the n-th of them is class n.

    Args:
        classes: number of classes; None takes the number of names, or of different training labels.
        names: of the classes, if the files say what their numbers stand for.

    Raises:
        UserError: a label that is missing, is no integer, is not in the training set, or is outside the classes (its
            file and row are named).
    """
    written = None if names else _names(train)
    notes: list[str] = []
    if written is None:
        numbers = [[whole_numbers(column.values, column.file, "label") for column in part] for part in (train, test)]
        if classes is None and not names:
            classes, names, notes = _mapped(numbers, test)
    else:
        numbers, names = [[_positions(column, written) for column in part] for part in (train, test)], written
    classes = len(names) if classes is None else classes
    for column, labels in zip((*train, *test), (*numbers[0], *numbers[1]), strict=True):
        outside = np.flatnonzero((labels < 0) | (labels >= classes))
        if outside.size:
            raise UserError(f"{column.file}: row {outside[0]}: label {labels[outside[0]]} is outside the classes "
                            f"0..{classes - 1}")
    remarks = [class_list(names)] if names else []
    return Labels(numbers[0], numbers[1], classes, remarks + notes + _empty(numbers[0], classes), tuple(names))


def class_list(names: Sequence[str]) -> str:
    """The line of a plan about the names of the classes."""
    return f"classes     {listed([f'{number} {name}' for number, name in enumerate(names)], CLASSES_SHOWN)}"


def _empty(train: Sequence[np.ndarray], classes: int) -> list[str]:
    """A warning where classes have no training image."""
    empty = np.setdiff1d(np.arange(classes), np.concatenate(train))
    if not empty.size:
        return []
    cure = "; if the labels count from 1, subtract 1" if empty.tolist() == [0] else ""
    return [f"warning: no training image has the label {listed(list(map(str, empty)))} of 0..{classes - 1}{cure}"]


def _names(train: Sequence[Column]) -> list[str] | None:
    """The sorted names of the classes; None if the labels are, or are meant to be, numbers."""
    if not all(any(holds(value_type(column.values)) for holds in TEXTS) for column in train):
        return None
    names = {name for column in train for name in pc.unique(column.values.cast(pa.string())).to_pylist()}
    if any(NUMBER.fullmatch(name or "") for name in names):
        return None
    return sorted(names - {None, ""})


def _positions(column: Column, names: list[str]) -> np.ndarray:
    """(rows,) int64: the place of each row's label in `names`."""
    if not any(holds(value_type(column.values)) for holds in TEXTS):
        raise UserError(f"{column.file}: label: a column of {value_type(column.values)}, but the training labels are "
                        f"names: {listed(names)}; write names in both")
    texts = column.values.cast(pa.string())
    positions = pc.index_in(texts, value_set=pa.array(names, pa.string()))
    if positions.null_count:
        row = int(positions.is_null().to_numpy().argmax())
        name = texts[row].as_py()
        raise UserError(f"{column.file}: row {row}: label is missing" if not name else
                        f"{column.file}: row {row}: label {quoted(name)} is no class of the training set"
                        f"{suggestion(name, names)} Classes: {listed(names)}")
    return positions.to_numpy().astype(np.int64)


def _mapped(numbers: list[list[np.ndarray]], test: Sequence[Column]) -> tuple[int, list[str], list[str]]:
    """The number of classes, their names, and the lines of a plan about them; labels with gaps in `numbers` are mapped
    in place.

    If any label changes its number, the names are the labels as they were.
    """
    values, counts = np.unique(np.concatenate(numbers[0]), return_counts=True)
    if not values.size or values[0] < 0 or values[-1] == len(values) - 1:
        return 1 + int(values.max(initial=0)), [], []  # a negative label is refused as such
    for column, labels in zip(test, numbers[1], strict=True):
        unknown = np.flatnonzero(~np.isin(labels, values))
        if unknown.size:
            raise UserError(f"{column.file}: row {unknown[0]}: no training image has the label {labels[unknown[0]]}, "
                            f"they have {listed(list(map(str, values)))}; correct the labels, or say data.classes if "
                            "it is meant")
    for part in numbers:
        part[:] = [np.searchsorted(values, labels).astype(np.int64) for labels in part]
    kept = f"; data.classes: {1 + values[-1]} would leave them as they are" if values[-1] < MOST_CLASSES else ""
    notes = ["labels      have gaps: the classes are numbered by the size of the labels, each called by its label"
             f"{kept}"]
    if single := values[counts == 1].tolist():
        notes.append(f"warning: one training image alone has the label {listed([str(name) for name in single])}; is it "
                     "a mistake?")
    return len(values), [str(value) for value in values], notes
