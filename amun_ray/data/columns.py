"""How files and integer columns of users are opened and read, with errors that name the file and the row."""

import os
from collections.abc import Sequence

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from amun_ray.base.errors import UserError


def locate(source: str | os.PathLike) -> tuple[fs.FileSystem, str]:
    """The file system of a local path or a URI (file://, s3://, gs://, or any that fsspec knows) and the path on it.

    Raises:
        UserError: a malformed URI, or one that nothing installed can open.
    """
    source = os.fspath(source)
    if "://" not in source:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(source))
    try:
        return fs.FileSystem.from_uri(source)
    except pa.ArrowInvalid:
        pass  # a scheme that pyarrow does not have; fsspec has more
    except OSError as error:
        raise UserError(f"{source}: cannot be reached: {error}") from error
    try:
        system, path = fsspec.url_to_fs(source)
    except (ImportError, ValueError, OSError) as error:
        raise UserError(f"{source}: cannot be opened: {error}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path


def list_files(source: str | os.PathLike, suffix: str = ".parquet") -> tuple[fs.FileSystem, list[str]]:
    """The file at `source`, or the files directly in that folder whose names end in `suffix`, sorted by name.

    Raises:
        UserError: there is no such file, or no such file in that folder.
    """
    system, path = locate(source)
    try:
        found = system.get_file_info(path)
        if found.type == fs.FileType.File:
            return system, [path]
        if found.type == fs.FileType.Directory:
            inside = system.get_file_info(fs.FileSelector(path))
            paths = sorted(entry.path for entry in inside if entry.is_file and entry.path.endswith(suffix))
            if paths:
                return system, paths
            raise UserError(f"{source}: no {suffix} file in this folder")
    except OSError as error:
        raise UserError(f"{source}: cannot be read: {error}") from error
    raise UserError(f"{source}: no such file")


def open_parquet(system: fs.FileSystem, path: str) -> pq.ParquetFile:
    """An open parquet file, of which only the footer was read.

    Raises:
        UserError: the file cannot be read, or is no parquet file.
    """
    try:
        return pq.ParquetFile(system.open_input_file(path))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: cannot be read as parquet: {error}") from error


def read_column(file: pq.ParquetFile, path: str, column: str) -> pa.ChunkedArray:
    """One whole column, which must exist.

    Raises:
        UserError: the column cannot be decoded.
    """
    try:
        return file.read(columns=[column]).column(column)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: column {column!r} cannot be read: {error}") from error


def whole_numbers(column: pa.ChunkedArray, path: str, what: str) -> np.ndarray:
    """(N,) int64: the values of a column of integers, or of other numbers and texts that all stand for integers.

    Raises:
        UserError: the first row that is empty or no integer, by its number from 0.
    """
    try:
        numbers = column.cast(pa.int64())
    except pa.ArrowException:
        row, value = first_offender(column.to_pylist())
        raise UserError(f"{path}: row {row}: {what} {value!r} is not an integer") from None
    if numbers.null_count:
        row = numbers.is_null().to_numpy().argmax()
        raise UserError(f"{path}: row {row}: {what} is missing")
    return numbers.to_numpy().astype(np.int64, copy=False)


def first_offender(values: Sequence[object]) -> tuple[int, object]:
    """The first of `values` that does not become an int64 by a safe cast, and its position."""
    for row, value in enumerate(values):
        try:
            pa.array([value]).cast(pa.int64())
        except pa.ArrowException:
            return row, value
    raise AssertionError("the column as a whole was refused, so one of its values must be")
