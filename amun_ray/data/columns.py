"""How columns of users' parquet files are found and read, with errors that name the file, the column and the row."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from amun_ray.base.errors import UserError, first_line
from amun_ray.base.files import pretender
from amun_ray.data.files import File

NAMES_SHOWN = 8  # of a file's columns in a message
VALUE_SHOWN = 60  # characters of a value in a message
VALUE = "value"  # what a message calls one of a further column
LONGEST = 256  # bytes of a text that is a label or a row number
STEP = 1024  # rows searched at a time for the first bad one
NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_null)
TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
BROKEN = (OSError, ValueError, KeyError, MemoryError, pa.ArrowException)  # what a damaged file makes pyarrow raise


class Readable(Protocol):
    """An open file: a parquet file, or one that behaves like it."""

    schema_arrow: pa.Schema
    metadata: Any

    def read(self, columns: list[str]) -> pa.Table: ...


def open_parquet(file: File) -> pq.ParquetFile:
    """An open parquet file; only its footer has been read.

    Raises:
        UserError: the file cannot be read, or is no parquet file.
    """
    try:
        opened = file.system.open_input_file(file.path)
        other = pretender(opened)
    except BROKEN as error:
        raise UserError(f"{file}: cannot be read: {first_line(error)}") from error
    if other is not None:
        raise UserError(f"{file}: {other}")
    try:
        return pq.ParquetFile(opened)
    except BROKEN as error:
        raise UserError(f"{file}: cannot be read as parquet: {first_line(error)}") from error


def compact(opened: pq.ParquetFile, file: File, leaf: str) -> pq.ParquetFile:
    """The same file, opened to read the texts or binaries at `leaf` as a dictionary: each value once, then numbers.

    So memory follows the size of the file: otherwise a few bytes could repeat a megabyte a million times.
    """
    return pq.ParquetFile(file.system.open_input_file(file.path), metadata=opened.metadata, read_dictionary=[leaf])


def read_column(opened: Readable, file: File, column: str, what: str) -> pa.ChunkedArray:
    """One whole column of numbers or short texts; `what` is the word for one of its values in messages.

    Raises:
        UserError: there is no such column, or several, or it cannot be decoded; a type that holds no numbers and no
            texts, or a text of more than LONGEST bytes.
    """
    names = opened.schema_arrow.names
    if names.count(column) != 1:
        raise UserError(f"{file}: {'no' if column not in names else 'several'} columns called {column!r}; columns: "
                        f"{listed(names)}")
    kind = opened.schema_arrow.field(column).type
    _check_type(kind, file, what)
    try:
        values = (compact(opened, file, column) if isinstance(opened, pq.ParquetFile) else opened).read(
            columns=[column]).column(column)
        if not _holds(value_type(values), TEXTS):
            return values
        values = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
        longest = max((pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0 for chunk in values.chunks), default=0)
        if longest <= LONGEST:
            return values.cast(pa.string())
    except BROKEN as error:
        raise UserError(f"{file}: column {column!r} cannot be read: {first_line(error)}") from error
    raise UserError(f"{file}: column {column!r}: a text of {longest:,} bytes, but a {what} has at most {LONGEST}")


def whole_numbers(column: pa.ChunkedArray, file: object, what: str) -> np.ndarray:
    """(N,) int64: the values of a column of integers, or of other numbers and texts that all stand for integers.

    Raises:
        UserError: the first row that is empty or no integer, by its number from 0; a type that holds no numbers.
    """
    _check_type(column.type, file, what)
    try:
        numbers = column.cast(pa.int64())
    except pa.ArrowException:
        row, value = first_offender(column)
        wrong = "is beyond 64 bits" if isinstance(value, int) else "is not an integer"
        raise UserError(f"{file}: row {row}: {what} {quoted(value)} {wrong}") from None
    if numbers.null_count:
        row = numbers.is_null().to_numpy().argmax()
        raise UserError(f"{file}: row {row}: {what} is missing")
    return numbers.to_numpy().astype(np.int64, copy=False)


def _check_type(kind: pa.DataType, file: object, what: str) -> None:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not _holds(kind, (*NUMBERS, *TEXTS)):
        needed = "integers, texts or truth values" if what == VALUE else "integers"
        raise UserError(f"{file}: {what}: {needed} are needed, found a column of {kind}")


def _holds(kind: pa.DataType, kinds: Sequence[Callable[[pa.DataType], bool]]) -> bool:
    return any(holds(kind) for holds in kinds)


def first_offender(column: pa.ChunkedArray) -> tuple[int, object]:
    """The first row of `column` that does not become an int64 by a safe cast, and its value."""
    for start in range(0, len(column), STEP):
        if _is_whole(column.slice(start, STEP)):
            continue
        for row in range(start, len(column)):
            if not _is_whole(column.slice(row, 1)):
                return row, column[row].as_py()
    raise AssertionError("the column as a whole was refused, so one of its values must be")


def value_type(column: pa.ChunkedArray) -> pa.DataType:
    """The type of the values, also of a column that is stored as a dictionary (pandas calls it categorical)."""
    return column.type.value_type if pa.types.is_dictionary(column.type) else column.type


def listed(names: Sequence[str], shown: int = NAMES_SHOWN) -> str:
    """The names of columns, the first few of them, as one short line."""
    short = [name if name.isprintable() and 0 < len(name) <= VALUE_SHOWN else quoted(name) for name in names[:shown]]
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(short) + more or "none"


def quoted(value: object) -> str:
    """A value as Python writes it, on one line, and cut if it is long."""
    text = repr(value[:VALUE_SHOWN + 1] if isinstance(value, str | bytes) else value)
    return text if len(text) <= VALUE_SHOWN + 2 else f"{text[:VALUE_SHOWN]}..."


def _is_whole(column: pa.ChunkedArray) -> bool:
    try:
        column.cast(pa.int64())
    except pa.ArrowException:
        return False
    return True
