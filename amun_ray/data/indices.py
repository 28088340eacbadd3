"""Which training rows a real request names: a list of row numbers, read strictly and checked one by one."""

import io
import itertools
import json
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from amun_ray.base.errors import UserError, first_line
from amun_ray.data.columns import BROKEN, listed, open_parquet, quoted, read_column, value_type, whole_numbers
from amun_ray.data.csv_lines import PARQUET, csv_lines, file_content
from amun_ray.data.files import File, locate

COLUMNS = ("index", "indices", "idx", "row", "rows", "row_index", "row_number")  # names that mean row numbers
CURE = "write one row number of the training data on each line, below the header `index`"
NUMBER = re.compile(r"[+-]?([0-9]{1,18})(\.0*)?")  # 18 digits always fit int64
BYTES_PER_ROW, BYTES_AT_LEAST = 256, 2**20  # of a text file, for each row of the training set


class IndexList(NamedTuple):
    """The row numbers that a file lists."""

    source: str
    column: str | None  # None: a list without a header
    rows: np.ndarray    # (count,) int64, rising, unique: rows of the user's training files


class Cells(NamedTuple):
    """The row numbers of a file before they are checked, and what messages call the place of each."""

    column: str | None
    rows: np.ndarray  # (n,) int64 in the order of the file
    places: list[str]


def read_indices(path: str | os.PathLike[str], train_size: int, taken: np.ndarray | None = None) -> IndexList:
    """The training rows that a request file names.

    Args:
        path: local path or URI of a csv or text file (utf-8 or utf-16; comma, semicolon or tab; also gzipped), a
            parquet file or a .npy array. The row numbers, counted from 0, are in its only column, or in the only one
            whose name is in COLUMNS. A text file of one column needs no header.
        train_size: number of rows of the training files.
        taken: (n,) int64, rising: the rows of these files that are used; None for all of them.

    Raises:
        UserError: the file is missing, cannot be read, or is empty; no column, or several, may be meant; a line has
            another number of cells than the first one; a row is no integer, negative, beyond the training set, not
            among those `taken`, or named twice. The message names the first such row of the file: its line (from 1)
            in a text file, its row (from 0) in any other.
    """
    cells = _read(path, train_size)
    if not cells.rows.size:
        raise UserError(f"{path}: no row numbers; a forget set needs at least one")
    _check_rows(path, cells, train_size, taken)
    return IndexList(os.fspath(path), cells.column, np.sort(cells.rows))


def _check_rows(path: str | os.PathLike[str], cells: Cells, train_size: int, taken: np.ndarray | None) -> None:
    """UserError for the first value that is no row number, or that appears for the second time."""
    rows = cells.rows
    wrong = np.ones(len(rows), bool)
    wrong[np.unique(rows, return_index=True)[1]] = False
    wrong |= (rows < 0) | (rows >= train_size)
    if taken is not None:
        wrong |= ~np.isin(rows, taken)
    if not wrong.any():
        return
    at = int(wrong.argmax())
    place, row = f"{path}: {cells.places[at]}", rows[at]
    if row < 0:
        raise UserError(f"{place}: row number {row} is negative; rows count from 0")
    if row >= train_size:
        raise UserError(f"{place}: row number {row} is beyond the training set, whose rows are 0..{train_size - 1}")
    if taken is not None and row not in taken:
        raise UserError(f"{place}: row number {row} is not among the {len(taken)} of {train_size} training rows that "
                        "data.train_size takes, so no model would learn it; leave train_size out, or the row")
    raise UserError(f"{place}: row number {row} is named twice, first in {cells.places[np.argmax(rows == row)]}")


def _read(path: str | os.PathLike[str], train_size: int) -> Cells:
    """The row numbers of a file, whose kind its first bytes tell, whatever its name is."""
    limit = BYTES_AT_LEAST + BYTES_PER_ROW * train_size
    content = file_content(path, limit)
    if content.startswith(PARQUET):
        return _read_parquet(path, File(*locate(path)), train_size)
    if len(content) > limit:
        raise UserError(f"{path}: more than {limit / 1e6:.0f} MB for a training set of {train_size} rows; keep the "
                        "column of row numbers alone")
    read = _read_array if content.startswith(b"\x93NUMPY") else _read_text
    return read(path, content, train_size)


def _read_parquet(path: str | os.PathLike[str], file: File, train_size: int) -> Cells:
    """The row numbers of a parquet file."""
    opened = open_parquet(file)
    names, count = opened.schema_arrow.names, opened.metadata.num_rows
    column = names[_index_column(names, os.fspath(path))]
    _refuse_slices(path, (opened.schema_arrow.metadata or {}).get(b"pandas"))
    if count > train_size:  # counted before they are read: a few bytes may claim any number
        raise UserError(f"{path}: {count:,} rows, but the training set has {train_size:,}; no row is named twice")
    values = read_column(opened, file, column, "row number")
    if pa.types.is_boolean(value_type(values)):
        raise UserError(f"{path}: column {column!r} is a mask; write the numbers of its rows: numpy.flatnonzero(mask)")
    rows = whole_numbers(values, file, "row number")
    return Cells(column, rows, [f"row {row}" for row in range(len(rows))])


def _refuse_slices(path: str | os.PathLike[str], pandas: bytes | None) -> None:
    """UserError if pandas kept the row numbers of a slice beside the column: either may be meant."""
    try:
        kept = json.loads(pandas or b"{}")["index_columns"]
        ranges = [index for index in kept if isinstance(index, dict) and index.get("kind") == "range"]
    except (KeyError, TypeError, ValueError):
        return
    for index in ranges:
        if (index.get("start"), index.get("step")) != (0, 1):
            raise UserError(f"{path}: pandas kept the index {index.get('start')}..{index.get('stop')} of a slice "
                            "beside the column, and both may be meant; write "
                            "`pandas.DataFrame({'index': rows}).to_parquet(path)`")


def _read_array(path: str | os.PathLike[str], content: bytes, train_size: int) -> Cells:
    """The row numbers of a .npy file."""
    try:
        stream = io.BytesIO(content)
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = header(stream)
        if len(shape) != 1 or kind.kind not in "iu" or shape[0] > train_size:
            raise UserError(f"{path}: a one-dimensional array of at most {train_size} integers is needed, found {kind} "
                            f"of shape {shape}" + ("; for a mask, save numpy.flatnonzero(mask)" * (kind.kind == "b")))
        values = np.frombuffer(stream.read(), kind, count=shape[0])
    except UserError:
        raise
    except BROKEN as error:
        raise UserError(f"{path}: cannot be read as a numpy array: {first_line(error)}") from error
    rows = whole_numbers(pa.chunked_array([values.astype(kind.newbyteorder("="))]), path, "row number")
    return Cells(None, rows, [f"element {number}" for number in range(len(rows))])


def _read_text(path: str | os.PathLike[str], content: bytes, train_size: int) -> Cells:
    """The row numbers of a csv or text file; no more lines than can be right are read."""
    lines = csv_lines(path, content)
    start, first = next(lines, (0, []))
    width = len(first)
    bare = width == 1 and NUMBER.fullmatch(first[0]) is not None
    if first == ["0"]:
        raise UserError(f"{path}: line {start}: '0' may be row 0, or the header that pandas gives a column without a "
                        "name; put the line `index` before it or in its place")
    column = 0 if bare or not first else _index_column(first, f"{path}: line {start}")
    rows, places = [], []
    for line, cells in itertools.chain([(start, first)] if bare else [], lines):
        if len(cells) < width or any(cells[width:]):
            raise UserError(f"{path}: line {line}: {quoted(','.join(cells))} has {len(cells)} cells, the first line "
                            f"has {width}; {CURE}")
        if not NUMBER.fullmatch(cells[column]):
            raise UserError(f"{path}: line {line}: {quoted(cells[column])} is not a row number")
        rows.append(int(cells[column].partition(".")[0]))
        places.append(f"line {line}")
        if len(rows) > train_size:  # so many cannot all be different rows of it
            break
    return Cells(None if bare or not first else first[column], np.array(rows, np.int64), places)


def _index_column(names: Sequence[str], where: str) -> int:
    """The position of the column of row numbers among `names`; UserError when that cannot be told."""
    known = [position for position, name in enumerate(names) if name.casefold() in COLUMNS]
    if len(known) == 1:
        return known[0]
    if known:
        raise UserError(f"{where}: several columns may hold the row numbers: {listed([names[at] for at in known])}; "
                        "keep one of them")
    shown = quoted(names[0]) if len(names) == 1 else listed(names)
    raise UserError(f"{where}: {shown}: no header that means row numbers ({', '.join(COLUMNS)}); {CURE}")
