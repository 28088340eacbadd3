"""The lines of a user's csv or text file, parsed strictly: nothing is cut off, nothing is repaired."""

import csv
import gzip
import io
import os
import zlib
from collections.abc import Iterator

import pyarrow as pa

from amun_ray.base.errors import UserError, first_line
from amun_ray.data.columns import quoted
from amun_ray.data.files import locate

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
LONGEST = 2**16  # characters of a line
PARQUET = b"PAR1"
FOREIGN = {b"PK\x03\x04": "a zip archive or an Excel workbook; save its one column as csv",
           b"\xd0\xcf\x11\xe0": "an Excel workbook; save its one column as csv",
           b"BZh": "compressed by bzip2; unpack it", b"\xfd7zXZ": "compressed by xz; unpack it",
           b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it", b"\x80\x02": "a pickle; save it as csv",
           b"\x80\x04": "a pickle; save it as csv", b"\x80\x05": "a pickle; save it as csv"}


def file_content(path: str | os.PathLike[str], limit: int) -> bytes:
    """The first `limit` + 1 bytes of a file, unpacked if it is gzipped; of a parquet file only its first bytes.

    Raises:
        UserError: the file cannot be read, or is an archive, a workbook or a pickle.
    """
    system, place = locate(path)
    try:
        with system.open_input_stream(place, compression=None) as stream:
            start = stream.read(8)
            if start.startswith(PARQUET):
                return start
            content = start + stream.read(limit + 1 - len(start))
        if start.startswith(b"\x1f\x8b"):
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(limit + 1)
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read: {first_line(error)}") from error
    for head, what in FOREIGN.items():
        if content.startswith(head):
            raise UserError(f"{path}: {what}")
    return content


def text_lines(path: str | os.PathLike[str], content: bytes) -> Iterator[tuple[int, str]]:
    """`(number of the line, from 1, and its text without the space around it)` of every line that is not blank.

    Raises:
        UserError: bytes that are no text, or a line that is too long.
    """
    for number, line in enumerate(_short_lines(path, _text(path, content)), 1):
        if line.strip():
            yield number, line.strip()


def csv_lines(path: str | os.PathLike[str], content: bytes) -> Iterator[tuple[int, list[str]]]:
    """`(number of the line, from 1, and its cells without the space around them)` of every line that is not blank.

    Separators are commas, semicolons or tabs, whichever is in the first line; empty cells at its end are dropped.

    Args:
        content: utf-8, or utf-16 with a byte order mark.

    Raises:
        UserError: bytes that are no text; a first line with several kinds of separator; a line that is too long, or
            whose quotes do not close.
    """
    lines = _short_lines(path, _text(path, content))
    first = next(lines, "")
    skipped = 0
    while not first.strip() and (first := next(lines, "")):
        skipped += 1
    separator = _separator(path, skipped + 1, first)

    def rest() -> Iterator[str]:
        yield first
        yield from lines

    reader, at_start = csv.reader(rest(), delimiter=separator, strict=True), True
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if not any(cells):
                continue
            while at_start and not cells[-1]:
                del cells[-1]
            at_start = False
            yield skipped + reader.line_num, cells
    except csv.Error as error:
        raise UserError(f"{path}: line {skipped + reader.line_num}: cannot be read as csv: "
                        f"{first_line(error)}") from None


def _text(path: str | os.PathLike[str], content: bytes) -> str:
    try:
        text = content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read as csv, parquet or .npy: {first_line(error)}") from None
    if "\0" in text:
        raise UserError(f"{path}: cannot be read as csv: NUL characters; save it as utf-8")
    return text


def _short_lines(path: str | os.PathLike[str], text: str) -> Iterator[str]:
    stream = io.StringIO(text, newline="")
    for number in range(1, len(text) + 2):
        line = stream.readline(LONGEST + 1)
        if not line:
            return
        if len(line) > LONGEST:
            raise UserError(f"{path}: line {number}: longer than {LONGEST:,} characters; write one entry a line")
        yield line


def _separator(path: str | os.PathLike[str], number: int, line: str) -> str:
    """The separator of a first line; a comma if it has none."""
    splitting = [separator for separator in SEPARATORS if _cells(line, separator) > 1]
    if len(splitting) > 1:
        kinds = " and ".join(SEPARATORS[separator] for separator in splitting)
        raise UserError(f"{path}: line {number}: {quoted(line.strip())} has several kinds of separator: {kinds}; "
                        "use one")
    return splitting[0] if splitting else ","


def _cells(line: str, separator: str) -> int:
    """How many cells a line has; 0 if its quotes do not fit this separator."""
    try:
        return len(next(csv.reader([line], delimiter=separator, strict=True), []))
    except csv.Error:
        return 0
