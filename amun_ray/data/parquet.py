"""Image classification data from parquet: a column of encoded images and a column of labels, streamed and decoded."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from amun_ray.base.errors import UserError, first_line
from amun_ray.data.arrow import ArrowFile, class_labels, open_table
from amun_ray.data.assemble import Assembly, Classes, Images, listing
from amun_ray.data.columns import BROKEN, VALUE, Readable, compact, listed, read_column
from amun_ray.data.dataset import ALL, Dataset, Subset
from amun_ray.data.files import File, Source, find_files
from amun_ray.data.images import ImageStack
from amun_ray.data.keep import Keep
from amun_ray.data.labels import Column, number_labels
from amun_ray.data.picture import AS_STORED, Reading

BATCH_ROWS, BATCH_BYTES = 1024, 2**26  # encoded images held in memory at a time
BYTES_AT_LEAST, REPEATED = 2**30, 100  # bytes of images in a file, and in multiples of its size
LABEL = "label"
ROWS_AT_LEAST = 10**6  # a file with fewer bytes than rows holds no images, unless there are few rows


class DataFile(NamedTuple):
    """One file of a data set; its labels are in memory, its images are not."""

    file: File
    opened: Readable
    image: str  # name of the image column
    labels: pa.ChunkedArray
    names: tuple[str, ...]  # of the classes, if the file has them

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The image files, BATCH_ROWS at a time, each batch a column of a dictionary, or of a struct of one.

        One row group after another: pyarrow cannot put the dictionaries of two into one struct.
        """
        struct = pa.types.is_struct(self.opened.schema_arrow.field(self.image).type)
        if isinstance(self.opened, ArrowFile):  # mapped, as large as what it holds
            for batch in self.opened.iter_batches(BATCH_ROWS, [self.image]):
                images = pc.struct_field(batch.column(0), "bytes") if struct else batch.column(0)
                yield pa.record_batch([images.dictionary_encode()], [self.image])
            return
        leaf = f"{self.image}.bytes" if struct else self.image
        reader = compact(self.opened, self.file, leaf)
        for group in range(reader.metadata.num_row_groups):
            yield from reader.iter_batches(BATCH_ROWS, row_groups=[group], columns=[leaf], use_threads=False)


class Columns(NamedTuple):
    """Which columns hold images and labels.

    Attributes:
        image_column: column of images, binary or a struct with the field `bytes` (a whole JPEG, PNG, ... file each);
            None takes the only column of such a type.
        label_column: column of integers, or of names of classes, see `labels.number_labels`; None takes the only one
            with Hugging Face's feature ClassLabel, which has the names of the classes, otherwise `label`.
        classes: number of classes; None takes the number of names, or of different labels.
    """

    image_column: str | None = None
    label_column: str | None = None
    classes: int | None = None


FOUND = Columns()


def load_parquet(
    *, train: Source, test: Source, columns: Columns = FOUND, reading: Reading = AS_STORED, subset: Subset = ALL,
    keep: Keep | None = None,
) -> Dataset:
    """Training and test set from parquet files.

    Labels are read and checked first. The images are then streamed in batches and decoded into one array, so that
    memory beyond that array is bounded by `BATCH_ROWS` encoded images and one row group.

    Args:
        train, test: a parquet file, a folder of them, a glob, or a list of these, as for `files.find_files`; local
            paths or URIs. Rows count over the files in their order.
        columns: which columns are used.
        reading: how each image is read.
        subset: which rows are taken.
        keep: where decoded pixels are kept, mapped into memory; None decodes into memory.

    Returns:
        Dataset with pixels (N, 1, H, W) if every image is grey, otherwise (N, 3, H, W).

    Raises:
        UserError: files that are missing, incomplete or no parquet; no image or label column (the columns are listed);
            labels as `labels.number_labels`; images that cannot be decoded, or have several sizes (file and row are
            named, rows count from 0).
    """
    listings = [find_files(source) for source in (train, test)]
    wanted = Selection(columns, reading, subset, keep)
    return from_files("parquet", [files for files, _ in listings], wanted, [*listings[0][1], *listings[1][1]])


class Selection(NamedTuple):
    """Which part of some files makes a data set; the values are those of `load_parquet`."""

    columns: Columns
    reading: Reading
    subset: Subset
    keep: Keep | None


def from_files(name: str, files: Sequence[Sequence[File]], wanted: Selection, notes: Sequence[str]) -> Dataset:
    """The data set in the tables of D and of D_T; raises as `load_parquet`.

    Args:
        files: of D and of D_T, parquet or arrow.
        notes: what a plan must say about these files.
    """
    tables = [[_open_file(file, wanted.columns) for file in part] for part in files]
    for part in tables:
        if not any(map(len, part)):
            raise UserError(f"{part[0].file}: no rows" + (", and none in the files after it" if part[1:] else ""))
    for table in (*tables[0], *tables[1]):
        if table.names != tables[0][0].names:
            raise UserError(f"{table.file}: its classes are {listed(table.names)}, those of {tables[0][0].file} are "
                            f"{listed(tables[0][0].names)}")
    names, classes = tables[0][0].names, wanted.columns.classes
    names = names if classes in (None, len(names)) else ()
    columns = [[Column(table.file, table.labels) for table in part] for part in tables]
    numbered = number_labels(columns[0], columns[1], classes, names)
    images, remarks = [], []
    for part, labels, what, key in zip(tables, (numbered.train, numbered.test), ("training", "test"),
                                       ("train", "test"), strict=True):
        available = sum(map(len, part))
        rows = wanted.subset.rows(key, available)
        images.append(Images(rows, np.concatenate(labels)[rows], available, partial(_fill, part, rows),
                             [table.file for table in part]))
        remarks += listing(what, [(table.file, len(table)) for table in part], len(rows), available, f"{key}_size")
    return Assembly(name, images[0], images[1], Classes(numbered.classes, numbered.names), wanted.reading,
                    [*remarks, *notes, *numbered.notes],
                    [table.image for part in tables for table in part]).decoded(wanted.keep)


def read_further(files: Sequence[File], column: str) -> pa.ChunkedArray:
    """A further column of parquet or arrow files, over all their rows; nothing else of them is read.

    Raises:
        UserError: a file that cannot be read; no such column, or one of another type in one of the files.
    """
    read: list[pa.ChunkedArray] = []
    for file in files:
        values = read_column(open_table(file), file, column, VALUE)
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if read and values.type != read[0].type:
            raise UserError(f"{file}: column {column!r} is of {values.type}, in {files[0]} of {read[0].type}")
        read.append(values)
    return pa.chunked_array([chunk for part in read for chunk in part.chunks], read[0].type)


def _open_file(file: File, wanted: Columns) -> DataFile:
    """A file with its labels; UserError unless it holds the two columns."""
    opened = open_table(file)
    schema, rows = opened.schema_arrow, opened.metadata.num_rows
    columns = listed([f"{field.name} ({field.type})" for field in schema])
    size = file.system.get_file_info(file.path).size or 0
    if rows > max(size, ROWS_AT_LEAST):
        raise UserError(f"{file}: {rows:,} rows in {size:,} bytes: it cannot hold so many images")
    image = _image_column(schema, file, wanted.image_column, columns)
    named = class_labels(schema)
    label = wanted.label_column or (next(iter(named)) if len(named) == 1 else LABEL)
    if label not in schema.names:
        raise UserError(f"{file}: no label column {label!r}; columns: {columns}")
    return DataFile(file, opened, image, read_column(opened, file, label, "label"), named.get(label, ()))


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


def _fill(tables: list[DataFile], rows: np.ndarray, stack: ImageStack, start: int) -> None:
    """Decode the images of `rows` (rising, counted over all `tables`) into the stack from row `start` on."""
    before = 0  # rows of earlier files
    for table in tables:
        low, high = np.searchsorted(rows, (before, before + len(table)))
        _fill_from(stack, start + int(low), table, rows[low:high] - before)
        before += len(table)


def _fill_from(stack: ImageStack, filled: int, table: DataFile, rows: np.ndarray) -> None:
    """Decode the images of `rows` (rising, of this file) into the stack from row `filled` on."""
    if not rows.size:
        return
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
                                "times as large as the file; one of them must be repeated very often")
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


def _cuts(sizes: np.ndarray) -> np.ndarray:
    """Where to divide images of `sizes` (n,) in bytes, so that each part has BATCH_BYTES, or one image more."""
    return np.flatnonzero(np.diff(np.cumsum(sizes, dtype=np.int64) // BATCH_BYTES)) + 1


def _encoded(column: pa.Array) -> pa.DictionaryArray:
    """The image files of a column, null where a struct is null."""
    return pc.struct_field(column, 0) if pa.types.is_struct(column.type) else column
