"""What a request names - row numbers, classes, values of a column - as rows of the training set, each checked."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from amun_ray.base.errors import UserError
from amun_ray.base.names import suggestion
from amun_ray.data.columns import TEXTS, listed, quoted
from amun_ray.data.csv_lines import csv_lines, file_content
from amun_ray.data.dataset import Dataset
from amun_ray.data.indices import NUMBER, read_indices
from amun_ray.data.splits import Groups, forgotten_classes

BYTES_PER_ROW, BYTES_AT_LEAST = 1024, 2**20  # of a list, for each row of the training set
SHOWN = 8  # classes in a message
CLASSES_SHOWN = 20  # in a plan
NAMES_COMPARED = 20_000  # values searched for a near one
Value = int | str | bool
KINDS = {int: "a number", str: "a text", bool: "a truth value"}
HOLDS = {int: "integers", str: "texts", bool: "truth values"}
CURES = {int: "write it without quotes", str: "write it in quotes", bool: "write true or false"}


class Request(NamedTuple):
    """What is asked to be forgotten."""

    what: str
    rows: np.ndarray  # (count,) int64, rising, unique: rows of the user's training files
    groups: Groups | None = None  # if whole groups are asked for; None for single images

    def __str__(self) -> str:
        rows = [str(row) for row in (self.rows if len(self.rows) <= 4 else self.rows[:3])]
        last = [f"... {self.rows[-1]}"] if len(self.rows) > 4 else []
        return f"{len(self.rows)} row{'s' * (len(self.rows) != 1)} of {self.what}: {', '.join(rows + last)}"


def of_indices(dataset: Dataset, path: str) -> Request:
    """The rows that a file lists; UserError as `read_indices`."""
    taken = None if dataset.file_rows is None else dataset.file_rows[:dataset.train_size]
    request = read_indices(path, dataset.file_train_size or dataset.train_size, taken)
    return Request(f"{request.source}, {f'column {request.column!r}' if request.column else 'no header'}", request.rows)


def of_classes(dataset: Dataset, asked: Sequence[int | str]) -> Request:
    """All rows of D of the classes `asked`, by number or by name.

    Raises:
        UserError: no such class, one without a training image, one that is named twice, or a number that is also the
            name of another class.
    """
    numbers = [_class(dataset, name) for name in asked]
    labels = dataset.labels[:dataset.train_size]
    for place, number in enumerate(numbers):
        if number in numbers[:place]:
            raise UserError(f"forget.classes: class {class_title(dataset, number)} is named twice")
        if number not in labels:
            near = sorted(set(labels.tolist()), key=lambda other: (abs(other - number), other))[:SHOWN]
            raise UserError(f"forget.classes: no training image is of class {class_title(dataset, number)}; the "
                            f"nearest that have any: {', '.join(class_title(dataset, name) for name in sorted(near))}")
    titles = ", ".join(class_title(dataset, number) for number in numbers)
    return Request(f"class{'es' * (len(numbers) > 1)} {titles}",
                   dataset.file_numbers[np.flatnonzero(np.isin(labels, numbers))])


def class_title(dataset: Dataset, number: int) -> str:
    """A class as messages call it: `cat (3)`, or `3` where it has no name."""
    return f"{dataset.class_names[number]} ({number})" if number < len(dataset.class_names) else str(number)


def _class(dataset: Dataset, name: int | str) -> int:
    names = dataset.class_names
    if isinstance(name, str):
        if name in names:
            return names.index(name)
        if not names:
            raise UserError(f"forget.classes: the classes of {dataset.name} have numbers alone, "
                            f"0..{dataset.classes - 1}, but got {name!r}")
        raise UserError(f"forget.classes: no class is called {name!r}{suggestion(name, names)} "
                        f"Classes: {listed(names)}")
    if not 0 <= name < dataset.classes:
        raise UserError(f"forget.classes: {name} is no class; they are 0..{dataset.classes - 1}"
                        + (f": {listed(names)}" if names else ""))
    if str(name) in names and names[name] != str(name):
        raise UserError(f"forget.classes: {name} may be the class that is called {str(name)!r} or class number {name}, "
                        f"{names[name]!r}; write the name of the one you mean, in quotes")
    return name


def class_groups(dataset: Dataset, rows: np.ndarray) -> Groups | None:
    """The classes that have test images, where `rows` of D are whole ones of them (see `forgotten_classes`)."""
    if not forgotten_classes(dataset.labels, rows, dataset.train_size).size:
        return None
    labels = dataset.labels[:dataset.train_size]
    measured = np.isin(labels, dataset.labels[dataset.train_size:])
    return Groups("class", [class_title(dataset, number) for number in range(dataset.classes)],
                  np.where(measured, labels, -1))


def by_class(dataset: Dataset, rows: np.ndarray) -> str:
    """How many of `rows` of D are in each class, of how many: `cat (3) 40 of 500, dog (5) 2 of 490`."""
    labels = dataset.labels[:dataset.train_size]
    counts, sizes = (np.bincount(some, minlength=dataset.classes) for some in (labels[rows], labels))
    return listed([f"{class_title(dataset, number)}: {counts[number]} of {sizes[number]}"
                   for number in np.flatnonzero(counts).tolist()], CLASSES_SHOWN)


def of_values(dataset: Dataset, column: str, values: pa.ChunkedArray, asked: Sequence[Value] | str, *,
              subset: bool = False) -> Request:
    """The rows of the training files whose cell in `column` is one of `asked`; an empty cell is none of them.

    Args:
        values: that column, over all rows of the training files.
        asked: values of the column's own type, or the file that lists them, one a line or below the column's name.
        subset: whether rows that `dataset` lacks were left out by choice, not because their images cannot be decoded.

    Raises:
        UserError: a column that holds neither integers, texts nor truth values; a value that has another type, is not
            in the column, or is named twice; a row that a subset leaves out; or no row that is used.
    """
    values, kind = _comparable(column, values)
    encoded = values.dictionary_encode().unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = pa.concat_arrays(encoded.chunks)
    known = encoded.dictionary.to_pylist()
    code_of = {value: code for code, value in enumerate(known)}
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    limit = BYTES_AT_LEAST + BYTES_PER_ROW * len(codes)
    wanted = _wanted(column, kind, code_of, _read_values(asked, column, kind, limit) if isinstance(asked, str) else [
        (value, "forget.values") for value in asked])
    if not wanted:
        raise UserError(f"{asked}: no values; a forget set needs at least one")
    rows = np.flatnonzero(np.isin(codes, [code_of[value] for value in wanted]))
    taken = dataset.file_numbers[:dataset.train_size]
    used = np.isin(rows, taken)
    if subset and not used.all():
        outside = rows[~used]
        raise UserError(f"forget.values: row {outside[0]}, whose {column!r} is {quoted(known[codes[outside[0]]])}, "
                        f"is not among the {len(taken)} of {len(codes)} training rows that data.train_size takes, so "
                        "no model would learn it; leave train_size out, or the value")
    if not used.any():
        raise UserError(f"forget.values: none of the {len(rows)} images can be decoded, so no model learns them")
    undecodable = f" ({len(rows) - used.sum()} more cannot be decoded)" if not used.all() else ""
    return Request(f"{column} {listed([str(value) for value in wanted])}{undecodable}", rows[used],
                   Groups(column, [str(value) for value in known], codes[taken]))


def _wanted(column: str, kind: type, known: Mapping[Any, int], asked: Sequence[tuple[Any, str]]) -> list[Any]:
    """The values asked for, each with its place; UserError for the first that is not in the column."""
    wanted: list[Any] = []
    for value, place in asked:
        if type(value) is not kind:
            raise UserError(f"{place}: {value!r} is {KINDS[type(value)]}, but column {column!r} holds {HOLDS[kind]}: "
                            f"{some([*known])}; {CURES[kind]}")
        if value not in known:
            raise UserError(f"{place}: column {column!r} does not hold {quoted(value)}"
                            + (nearest(value, [*known]) or f"; it holds {some([*known])}"))
        if value in wanted:
            raise UserError(f"{place}: {quoted(value)} is named twice")
        wanted.append(value)
    return wanted


def _comparable(column: str, values: pa.ChunkedArray) -> tuple[pa.ChunkedArray, type]:
    """The column with values that can be asked for, and their type; whole numbers of any kind count as integers."""
    kind = values.type
    if any(holds(kind) for holds in TEXTS):
        return values.cast(pa.string()), str
    if pa.types.is_boolean(kind):
        return values, bool
    if pa.types.is_floating(kind):  # pandas turns integers into floats if a cell is empty
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, kind), values)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        try:
            return values.cast(pa.int64()), int
        except pa.ArrowException:
            pass
    raise UserError(f"forget.column: {column!r} is a column of {kind}; integers, texts and truth values can be "
                    "asked for")


def _read_values(path: str, column: str, kind: type, limit: int) -> list[tuple[Any, str]]:
    """The values that a text file lists, in the column's type, each with its place."""
    content = file_content(path, limit)
    if len(content) > limit:
        raise UserError(f"{path}: more than {limit / 1e6:.0f} MB; keep the values alone")
    values, at = [], 0
    for number, (line, cells) in enumerate(csv_lines(path, content)):
        place = f"{path}: line {line}"
        if number == 0:
            width = len(cells)
            if column in cells:
                at = cells.index(column)
                continue
            if width > 1:
                raise UserError(f"{place}: {listed(cells)}: several columns, and none is called {column!r}; write one "
                                "value a line, or the column's name above its values")
        if len(cells) < width or any(cells[width:]):
            raise UserError(f"{place}: {len(cells)} cells, the first line has {width}")
        values.append((_value(cells[at], kind, place), place))
    return values


def _value(cell: str, kind: type, place: str) -> Value:
    """A cell of a text file in the type of the column."""
    if kind is int and NUMBER.fullmatch(cell):
        return int(cell.partition(".")[0])
    if kind is bool and cell.lower() in ("true", "false"):
        return cell.lower() == "true"
    if kind is str and cell:
        return cell
    raise UserError(f"{place}: {quoted(cell)} is none of the {HOLDS[kind]} that the column holds")


def nearest(value: object, known: Sequence[Any]) -> str:
    """`; the nearest: ...`, or nothing where none is near."""
    if isinstance(value, str):
        near = [repr(candidate) for candidate in get_close_matches(value, known[:NAMES_COMPARED])]
    else:
        near = [str(candidate) for candidate in sorted(sorted(known, key=lambda candidate: abs(candidate - value))[:3])]
    return f"; the nearest: {', '.join(near)}" if near else ""


def some(values: Sequence[Any]) -> str:
    shown = ", ".join(repr(value) for value in values[:3])
    return f"{shown}, ..." if len(values) > 3 else shown or "nothing"
