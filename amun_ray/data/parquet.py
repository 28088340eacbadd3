"""Image classification data from parquet: a column of encoded images and a column of labels, streamed and decoded."""

import os
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from amun_ray.base.errors import UserError
from amun_ray.data.columns import list_files, open_parquet, read_column, whole_numbers
from amun_ray.data.dataset import Dataset, seeded_subset
from amun_ray.data.images import ImageStack

BATCH_ROWS = 1024  # encoded images held in memory at a time


class Table(NamedTuple):
    """One parquet file of a data set, of which the labels are in memory and the images are not."""

    path: str
    file: pq.ParquetFile
    image: str          # name of the image column
    labels: np.ndarray  # (rows,) int64


def load_parquet(
    *, train: str | os.PathLike, test: str | os.PathLike, image_column: str | None = None, label_column: str = "label",
    classes: int | None = None, train_size: int | None = None, test_size: int | None = None, seed: int = 0,
) -> Dataset:
    """Training and test set from parquet files.

    Labels are read and checked first. The images are then streamed in batches and decoded into one array, so that
    memory beyond that array is bounded by `BATCH_ROWS` encoded images and one row group.

    Args:
        train, test: a parquet file, or a folder of them (read in the order of their names); local path or URI.
        image_column: column of images, binary or a struct with the field `bytes` (a whole JPEG, PNG, ... file each);
            None takes the only column of such a type.
        label_column: column of integers.
        classes: number of classes; None takes the largest training label + 1.
        train_size, test_size: so many random rows of each (`seed` decides which), in file order; None takes all.
        seed: decides the subsets.

    Returns:
        Dataset with pixels (N, 1, H, W) if every image is grey, otherwise (N, 3, H, W).

    Raises:
        UserError: a file that is missing or no parquet; no image or label column (the columns are listed); a label
            that is no integer or outside the classes; an image that cannot be decoded, has another size than the
            others or more than 8 bits per channel (file and row are named, rows count from 0).
    """
    tables = {"train": _open(train, image_column, label_column), "test": _open(test, image_column, label_column)}
    classes = _check_labels(tables, classes)
    rows = {part: seeded_subset(sum(len(table.labels) for table in tables[part]), size, f"{part}_size", seed)
            for part, size in (("train", train_size), ("test", test_size))}
    labels = np.concatenate([np.concatenate([table.labels for table in tables[part]])[rows[part]] for part in tables])
    with ImageStack(len(labels), "parquet") as stack:
        filled = 0
        for part in tables:
            filled = _fill(stack, filled, tables[part], rows[part])
    return Dataset("parquet", stack.pixels, labels, len(rows["train"]), classes)


def _open(source: str | os.PathLike, image_column: str | None, label_column: str) -> list[Table]:
    """The files at `source` with their labels; UserError unless they hold rows and the two columns."""
    system, paths = list_files(source)
    tables = [_open_file(system, path, image_column, label_column) for path in paths]
    if not any(len(table.labels) for table in tables):
        raise UserError(f"{source}: no rows")
    return tables


def _open_file(system: fs.FileSystem, path: str, image_column: str | None, label_column: str) -> Table:
    file = open_parquet(system, path)
    schema = file.schema_arrow
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema) or "none"
    image = _image_column(schema, path, image_column, columns)
    if label_column not in schema.names:
        raise UserError(f"{path}: no label column {label_column!r}; columns: {columns}")
    return Table(path, file, image, whole_numbers(read_column(file, path, label_column), path, "label"))


def _image_column(schema: pa.Schema, path: str, wanted: str | None, columns: str) -> str:
    """The image column: `wanted` if it is one, else the only one there is."""
    candidates = [field.name for field in schema if _holds_images(field.type)]
    if wanted is not None:
        if wanted not in candidates:
            raise UserError(f"{path}: no image column {wanted!r} (binary, or a struct with `bytes`); "
                            f"columns: {columns}")
        return wanted
    if len(candidates) != 1:
        found = f"{len(candidates)} image columns, name one as image_column" if candidates else "no image column"
        raise UserError(f"{path}: {found} (binary, or a struct with `bytes`); columns: {columns}")
    return candidates[0]


def _holds_images(kind: pa.DataType) -> bool:
    """Whether a column type can hold encoded images: binary, or a struct with a binary field `bytes`."""
    if pa.types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and _is_binary(kind.field(position).type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _check_labels(tables: dict[str, list[Table]], classes: int | None) -> int:
    """The number of classes; UserError for a label outside them, with its file and row."""
    if classes is None:
        classes = 1 + max(int(table.labels.max()) for table in tables["train"] if len(table.labels))
    for table in (*tables["train"], *tables["test"]):
        outside = np.flatnonzero((table.labels < 0) | (table.labels >= classes))
        if outside.size:
            raise UserError(f"{table.path}: row {outside[0]}: label {table.labels[outside[0]]} is outside the classes "
                            f"0..{classes - 1}")
    return classes


def _fill(stack: ImageStack, filled: int, tables: list[Table], rows: np.ndarray) -> int:
    """Decode the images of `rows` (sorted, counted over all `tables`) into the stack from row `filled` on."""
    before = 0  # rows of earlier files
    for table in tables:
        after = before + len(table.labels)
        low, high = np.searchsorted(rows, (before, after))
        filled = _fill_from(stack, filled, table, rows[low:high] - before)
        before = after
    return filled


def _fill_from(stack: ImageStack, filled: int, table: Table, rows: np.ndarray) -> int:
    """Decode the images of `rows` (sorted, of this file) into the stack from row `filled` on; the next free row."""
    if not rows.size:
        return filled
    start = 0  # row of the file at which a batch begins
    try:
        for batch in table.file.iter_batches(BATCH_ROWS, columns=[table.image], use_threads=False):
            low, high = np.searchsorted(rows, (start, start + len(batch)))
            chosen = rows[low:high]
            if chosen.size:
                column = batch.column(0).take(pa.array(chosen - start))
                encoded = (column.field("bytes") if pa.types.is_struct(column.type) else column).to_pylist()
                stack.fill(filled, encoded, lambda position, chosen=chosen: f"{table.path}: row {chosen[position]}")
                filled += len(chosen)
            start += len(batch)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{table.path}: row {start} or later cannot be read: {error}") from error
    return filled
