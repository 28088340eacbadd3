"""Image classification data from parquet: a column of encoded images and a column of labels, streamed and decoded."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from amun_ray.base.errors import UserError, first_line
from amun_ray.data.columns import BROKEN, compact, listed, open_parquet, read_column
from amun_ray.data.dataset import Dataset, seeded_subset
from amun_ray.data.files import File, Source, find_files
from amun_ray.data.images import ImageStack
from amun_ray.data.labels import Column, number_labels

BATCH_ROWS, BATCH_BYTES = 1024, 2**26  # encoded images held in memory at a time
BYTES_AT_LEAST, REPEATED = 2**30, 100  # of images that a file may stand for, and as a multiple of its size
ROWS_AT_LEAST = 10**6  # a file of fewer bytes than rows holds no images, unless they are few
FILES_SHOWN = 40  # lines of a plan


class Table(NamedTuple):
    """One parquet file of a data set, of which the labels are in memory and the images are not."""

    file: File
    opened: pq.ParquetFile
    image: str  # name of the image column
    labels: pa.ChunkedArray

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The image files, BATCH_ROWS at a time, each batch a column of a dictionary, or of a struct of one.

        One row group after another: pyarrow cannot put the dictionaries of two into one struct.
        """
        struct = pa.types.is_struct(self.opened.schema_arrow.field(self.image).type)
        leaf = f"{self.image}.bytes" if struct else self.image
        reader = compact(self.opened, self.file, leaf)
        for group in range(reader.metadata.num_row_groups):
            yield from reader.iter_batches(BATCH_ROWS, row_groups=[group], columns=[leaf], use_threads=False)


def load_parquet(
    *, train: Source, test: Source, image_column: str | None = None, label_column: str = "label",
    classes: int | None = None, train_size: int | None = None, test_size: int | None = None, seed: int = 0,
) -> Dataset:
    """Training and test set from parquet files.

    Labels are read and checked first. The images are then streamed in batches and decoded into one array, so that
    memory beyond that array is bounded by `BATCH_ROWS` encoded images and one row group.

    Args:
        train, test: a parquet file, a folder of them, a glob, or a list of these, as `files.find_files` takes them;
            local paths or URIs. Rows count over the files in their order.
        image_column: column of images, binary or a struct with the field `bytes` (a whole JPEG, PNG, ... file each);
            None takes the only column of such a type.
        label_column: column of integers, or of names of classes, which are numbered in sorted order.
        classes: number of classes; None takes the largest training label + 1.
        train_size, test_size: so many random rows of each (`seed` decides which), in file order; None takes all.
        seed: decides the subsets.

    Returns:
        Dataset with pixels (N, 1, H, W) if every image is grey, otherwise (N, 3, H, W).

    Raises:
        UserError: files that are missing, incomplete or no parquet; no image or label column (the columns are listed);
            labels as `labels.number_labels`; an image that cannot be decoded, has another size than the others or more
            than 8 bits per channel (file and row are named, rows count from 0).
    """
    notes: list[str] = []
    tables = {part: _open(source, image_column, label_column, notes)
              for part, source in (("train", train), ("test", test))}
    columns = {part: [Column(table.file, table.labels) for table in tables[part]] for part in tables}
    numbered = number_labels(columns["train"], columns["test"], classes)
    available = {part: sum(map(len, tables[part])) for part in tables}
    rows = {part: seeded_subset(available[part], size, f"{part}_size", seed)
            for part, size in (("train", train_size), ("test", test_size))}
    labels = np.concatenate([np.concatenate(numbers)[rows[part]]
                             for part, numbers in (("train", numbered.train), ("test", numbered.test))])
    with ImageStack(len(labels), "parquet") as stack:
        filled = 0
        for part in tables:
            filled = _fill(stack, filled, tables[part], rows[part])
    said = [line for part, what in (("train", "training"), ("test", "test"))
            for line in _described(what, tables[part], rows[part], f"{part}_size")]
    return Dataset("parquet", stack.pixels, labels, len(rows["train"]), numbered.classes,
                   notes=(*said, *notes, *numbered.notes), file_rows=np.concatenate([*rows.values()]),
                   file_train_size=available["train"], class_names=numbered.names)


def read_further(source: Source, column: str) -> pa.ChunkedArray:
    """A further column of the files at `source`, over all their rows; nothing else of them is read.

    Raises:
        UserError: files as `load_parquet`; no such column, or one of another type in one of the files.
    """
    read: list[pa.ChunkedArray] = []
    files, _ = find_files(source)
    for file in files:
        found = read_column(open_parquet(file), file, column, "value")
        if pa.types.is_dictionary(found.type):
            found = found.cast(found.type.value_type)
        if read and found.type != read[0].type:
            raise UserError(f"{file}: column {column!r} is of {found.type}, in {files[0]} of {read[0].type}")
        read.append(found)
    return pa.chunked_array([chunk for one in read for chunk in one.chunks], read[0].type)


def _open(source: Source, image_column: str | None, label_column: str, notes: list[str]) -> list[Table]:
    """The files at `source` with their labels; UserError unless they hold rows and the two columns."""
    files, said = find_files(source)
    notes += said
    tables = [_open_file(file, image_column, label_column) for file in files]
    if not any(map(len, tables)):
        raise UserError(f"{source}: no rows")
    return tables


def _open_file(file: File, image_column: str | None, label_column: str) -> Table:
    opened = open_parquet(file)
    schema, rows = opened.schema_arrow, opened.metadata.num_rows
    columns = listed([f"{field.name} ({field.type})" for field in schema])
    size = file.system.get_file_info(file.path).size or 0
    if rows > max(size, ROWS_AT_LEAST):
        raise UserError(f"{file}: {rows:,} rows in {size:,} bytes; so many images are not in it")
    image = _image_column(schema, file, image_column, columns)
    if label_column not in schema.names:
        raise UserError(f"{file}: no label column {label_column!r}; columns: {columns}")
    return Table(file, opened, image, read_column(opened, file, label_column, "label"))


def _described(what: str, tables: list[Table], rows: np.ndarray, setting: str) -> list[str]:
    """Each file with its range of rows, as a plan prints them; the middle of a long list is left out."""
    lines, start = [], 0
    for table in tables:
        rows_of_it = f"rows {start}..{start + len(table) - 1}" if len(table) else "no rows"
        lines.append(f"{what:<11} {table.file}: {rows_of_it}")
        start += len(table)
    if len(lines) > FILES_SHOWN:
        half = FILES_SHOWN // 2
        lines[half:-half] = [f"{what:<11} ... {len(lines) - 2 * half} more files ..."]
    if len(rows) < start:
        lines.append(f"{what:<11} {len(rows)} of these {start} rows (data.{setting}); each keeps its number")
    return lines


def _image_column(schema: pa.Schema, file: File, wanted: str | None, columns: str) -> str:
    """The image column: `wanted` if it is one, else the only one there is."""
    candidates = [field.name for field in schema if _holds_images(field.type)]
    if wanted is not None:
        candidates = [name for name in candidates if name == wanted]
    if len(candidates) == 1:
        return candidates[0]
    rule = "(binary, or a struct with `bytes`: whole image files, not paths)"
    if len(set(candidates)) > 1:
        raise UserError(f"{file}: {len(candidates)} image columns, name one as image_column; columns: {columns}")
    if candidates:
        raise UserError(f"{file}: several columns are called {candidates[0]!r}; rename or drop one; columns: {columns}")
    name = "" if wanted is None else f" {wanted!r}"
    raise UserError(f"{file}: no image column{name} {rule}; columns: {columns}")


def _holds_images(kind: pa.DataType) -> bool:
    """Whether a column type can hold encoded images: binary, or a struct with a binary field `bytes`."""
    if pa.types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and _is_binary(kind.field(position).type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _fill(stack: ImageStack, filled: int, tables: list[Table], rows: np.ndarray) -> int:
    """Decode the images of `rows` (sorted, counted over all `tables`) into the stack from row `filled` on."""
    before = 0  # rows of earlier files
    for table in tables:
        after = before + len(table)
        low, high = np.searchsorted(rows, (before, after))
        filled = _fill_from(stack, filled, table, rows[low:high] - before)
        before = after
    return filled


def _fill_from(stack: ImageStack, filled: int, table: Table, rows: np.ndarray) -> int:
    """Decode the images of `rows` (sorted, of this file) into the stack from row `filled` on; the next free row."""
    if not rows.size:
        return filled
    end = filled + len(rows)
    start = 0  # row of the file at which a batch begins
    most = max(BYTES_AT_LEAST, REPEATED * table.file.system.get_file_info(table.file.path).size)
    try:
        for batch in table.batches():
            low, high = np.searchsorted(rows, (start, start + len(batch)))
            chosen, images = rows[low:high], _encoded(batch.column(0)).take(pa.array(rows[low:high] - start))
            sizes = pc.binary_length(images.dictionary).take(images.indices).fill_null(0).to_numpy(zero_copy_only=False)
            if (most := most - int(sizes.sum(dtype=np.int64))) < 0:
                raise UserError(f"{table.file}: the images up to row {start + len(batch) - 1} are more than {REPEATED} "
                                "times as large as the file; one of them must be there very often")
            for part in np.split(np.arange(len(chosen)), _cuts(sizes)):
                stack.fill(filled, images.take(pa.array(part)).cast(pa.large_binary()).to_pylist(),
                           [f"{table.file}: row {row}" for row in chosen[part]].__getitem__)
                filled += len(part)
            start += len(batch)
    except UserError:
        raise
    except BROKEN as error:
        raise UserError(f"{table.file}: row {start} or later cannot be read: {first_line(error)}") from error
    if filled != end:
        raise UserError(f"{table.file}: {start} images, but {len(table)} labels")
    return filled


def _cuts(sizes: np.ndarray) -> np.ndarray:
    """Where images of `sizes` (n,) in bytes are divided, so that each part has BATCH_BYTES, or one image more."""
    return np.flatnonzero(np.diff(np.cumsum(sizes, dtype=np.int64) // BATCH_BYTES)) + 1


def _encoded(column: pa.Array) -> pa.DictionaryArray:
    """The image files of a column, null where a struct is null."""
    return pc.struct_field(column, 0) if pa.types.is_struct(column.type) else column
