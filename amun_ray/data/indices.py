"""Which training rows a real request names: a csv or parquet file of row numbers, checked row by row."""

import csv
import io
import os
import re

import numpy as np

from amun_ray.base.errors import UserError
from amun_ray.data.columns import locate, open_parquet, read_column, whole_numbers

INDEX_COLUMN = "index"  # how the column of row numbers is called where a file has several


def read_indices(path: str | os.PathLike, train_size: int) -> np.ndarray:
    """(count,) int64 sorted: the training rows that a request file names.

    Args:
        path: local path or URI of a csv file (with or without a header line) or a parquet file; row numbers, counted
            from 0, stand in its only column or in the column `index`.
        train_size: rows must lie in [0, train_size).

    Raises:
        UserError: the file is missing, cannot be read, is empty, has several columns and none is `index`, or has a
            row that is no integer, negative, beyond the training set or named twice. The first such row of the file
            is named: its line (from 1) in a csv file, its row (from 0) in a parquet file.
    """
    rows, places = _read_parquet(path) if str(path).endswith(".parquet") else _read_csv(path)
    if not rows.size:
        raise UserError(f"{path}: no row numbers; a forget set needs at least one")
    first = np.zeros(len(rows), bool)
    first[np.unique(rows, return_index=True)[1]] = True
    offending = np.flatnonzero((rows < 0) | (rows >= train_size) | ~first)
    if offending.size:
        at = offending[0]
        place, row = places[at], rows[at]
        if row < 0:
            raise UserError(f"{path}: {place}: row number {row} is negative; rows count from 0")
        if row >= train_size:
            raise UserError(f"{path}: {place}: row number {row} is beyond the training set, whose rows are "
                            f"0..{train_size - 1}")
        raise UserError(f"{path}: {place}: row number {row} is named twice, first in "
                        f"{places[np.flatnonzero(rows == row)[0]]}")
    return np.sort(rows)


def _read_parquet(path: str | os.PathLike) -> tuple[np.ndarray, list[str]]:
    """The row numbers of a parquet file, and how messages call the place of each."""
    file = open_parquet(*locate(path))
    names = file.schema_arrow.names
    column = read_column(file, str(path), names[_index_column(names, path)])
    rows = whole_numbers(column, str(path), "row number")
    return rows, [f"row {row}" for row in range(len(rows))]


def _read_csv(path: str | os.PathLike) -> tuple[np.ndarray, list[str]]:
    """The row numbers of a csv file, and how messages call the place of each."""
    system, found = locate(path)
    try:
        with system.open_input_stream(found) as stream:
            text = stream.read().decode("utf-8-sig")  # spreadsheets put a byte order mark first
        reader = csv.reader(io.StringIO(text), strict=True)
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as csv: {error}") from error
    if not lines:
        return np.empty(0, np.int64), []
    column = _index_column(lines[0][1], path)
    if not _is_number(lines[0][1][column]):
        lines = lines[1:]  # the header
    rows = []
    for line, cells in lines:
        value = cells[column] if column < len(cells) else ""
        if not re.fullmatch(r"[+-]?\d{1,18}", value):  # 18 digits always fit int64
            raise UserError(f"{path}: line {line}: {value!r} is not a row number")
        rows.append(int(value))
    return np.array(rows, np.int64), [f"line {line}" for line, _ in lines]


def _index_column(names: list[str], path: str | os.PathLike) -> int:
    """The position of the column of row numbers among `names`; UserError when that cannot be told."""
    if len(names) == 1:
        return 0
    if INDEX_COLUMN not in names:
        raise UserError(f"{path}: a file of several columns needs one called {INDEX_COLUMN!r}; "
                        f"columns: {', '.join(names) or 'none'}")
    return names.index(INDEX_COLUMN)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
