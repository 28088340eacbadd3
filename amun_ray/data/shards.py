"""The schema of an adversarial shard: one parquet file with the rows that an attack made, and where they come from.

A shard is a pure function of its rows and metadata: the same rows give the same bytes on any worker. A digest of both
is in its metadata, so that a damaged or foreign shard is recognised.
"""

import hashlib
import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from amun_ray.base.status import Status

CONTENT = "content"  # metadata key: digest of the columns and of the metadata given, written by `encode`
SHAPE = "image_shape"  # metadata key: [C, H, W] as JSON, written by `encode`
FORMAT = "format"  # metadata key: the version of this schema, written by `encode`
VERSION = "amun_ray adversarial shard 1"
OWN_KEYS = (CONTENT, SHAPE, FORMAT)

Columns = dict[str, np.ndarray]

COLUMNS: dict[str, tuple[type, str]] = {
    "index": (np.int64, "row of the dataset, counted from 0"),
    "image": (np.float32, "adversarial image (C, H, W) in [0, 1], float32 little-endian in C order"),
    "true_label": (np.int64, "class in the dataset"),
    "label": (np.int64, "class that the attacked model gives to the image"),
    "eps": (np.float32, "radius the search ended with, in the norm of the attack, pixels in [0, 1]"),
    "l2": (np.float32, "L2 distance of the image from the clean one, pixels in [0, 1]"),
    "steps": (np.int32, "attack steps spent on this row"),
    "status": (np.int8, "; ".join(f"{status.value} {status.name.lower()}" for status in Status)),
}


def schema(shape: tuple[int, int, int]) -> pa.Schema:
    """The Arrow schema of shards with images of `shape` (C, H, W); each field's metadata says its meaning and unit."""
    fields = []
    for name, (dtype, meaning) in COLUMNS.items():
        # fixed-size binary is read back as one buffer; a list of floats would be rebuilt value by value
        kind = pa.binary(4 * int(np.prod(shape))) if name == "image" else pa.from_numpy_dtype(dtype)
        fields.append(pa.field(name, kind, nullable=False, metadata={"meaning": meaning}))
    return pa.schema(fields)


def encode(rows: Mapping[str, np.ndarray], *, metadata: Mapping[str, str]) -> bytes:
    """The bytes of a shard.

    Args:
        rows: the arrays of COLUMNS, each of n rows and of exactly the dtype there; `image` is (n, C, H, W) in [0, 1].
        metadata: what the rows were made from: at least the digests of model, dataset, indices and settings.

    Raises:
        ValueError: columns, dtypes or lengths that are not those of COLUMNS, pixels outside [0, 1], or metadata that
            uses a key of OWN_KEYS.
    """
    _check_rows(rows)
    reserved = [key for key in OWN_KEYS if key in metadata]
    if reserved:
        raise ValueError(f"shard metadata: the key {reserved[0]!r} is written by `encode`")
    images = rows["image"]
    own = {FORMAT: VERSION, SHAPE: json.dumps(images.shape[1:]), CONTENT: content_digest(rows, metadata)}
    table_schema = schema(images.shape[1:]).with_metadata(dict(sorted({**metadata, **own}.items())))
    arrays = [_image_array(images, field.type) if field.name == "image"
              else pa.array(rows[field.name], field.type) for field in table_schema]
    sink = pa.BufferOutputStream()
    # neither compression nor dictionaries: perturbed floats hardly shrink, and reading stays one copy
    pq.write_table(pa.Table.from_arrays(arrays, schema=table_schema), sink, compression="none", use_dictionary=False,
                   write_statistics=False)
    return sink.getvalue().to_pybytes()


def decode(source: bytes | pa.Buffer) -> tuple[Columns, dict[str, str]]:
    """The columns of a shard and its metadata; the arrays are views of the buffers that were read.

    Raises:
        ValueError, OSError, KeyError, pa.ArrowException: no shard, or one that does not match its digest; `verify`
            turns all of them into a reason.
    """
    table = pq.ParquetFile(pa.BufferReader(source)).read(use_threads=False)
    stored = table.schema.metadata or {}
    metadata = {key.decode(): value.decode() for key, value in stored.items()}
    if metadata.get(FORMAT) != VERSION:
        raise ValueError(f"not a shard of format {VERSION!r}, found {metadata.get(FORMAT)!r}")
    shape = tuple(json.loads(metadata[SHAPE]))
    if not table.schema.equals(schema(shape)):
        raise ValueError(f"columns {table.schema.names} are not those of a shard of images {shape}")
    columns = {name: _to_numpy(table.column(name), shape) for name in COLUMNS}
    digest = content_digest(columns, {key: value for key, value in metadata.items() if key not in OWN_KEYS})
    if digest != metadata[CONTENT]:
        raise ValueError(f"content has digest {digest[:12]}, but {metadata[CONTENT][:12]} was written")
    return columns, metadata


def verify(source: bytes | pa.Buffer, expected: Mapping[str, str]) -> str | None:
    """None if `source` is a whole shard with the metadata `expected`, otherwise the reason why not, in one line.

    Args:
        expected: metadata that must be there with these values; further metadata may be there too.
    """
    try:
        _, metadata = decode(source)
    except (OSError, ValueError, KeyError, MemoryError, pa.ArrowException) as error:  # MemoryError: a damaged size
        return f"damaged, or no shard: {' '.join(str(error).split())}"
    for key, value in sorted(expected.items()):
        if metadata.get(key) != value:
            return f"made from {key} {metadata.get(key, 'unknown')[:12]}, this run uses {value[:12]}"
    return None


def content_digest(rows: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """sha256 (hex) of the metadata, and of the shapes and values of the columns."""
    content = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in COLUMNS:
        column = rows[name]
        content.update(f"{name} {column.dtype.str} {column.shape}".encode())
        content.update(np.ascontiguousarray(column).data)
    return content.hexdigest()


def _check_rows(rows: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless `rows` has the columns of COLUMNS, in their dtypes and of one length."""
    if rows.keys() != COLUMNS.keys():
        raise ValueError(f"a shard has the columns {list(COLUMNS)}, found {list(rows)}")
    count = len(rows["index"])
    for name, (dtype, _) in COLUMNS.items():
        column = rows[name]
        dimensions = 4 if name == "image" else 1
        if column.dtype != dtype or column.ndim != dimensions or len(column) != count:
            raise ValueError(f"shard column {name!r}: expected {count} rows of {np.dtype(dtype)} in {dimensions} "
                             f"dimensions, found {column.dtype} {column.shape}")
    images = rows["image"]
    if images.size and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"shard images must lie in [0, 1], found [{images.min():.4g}, {images.max():.4g}]")


def _image_array(images: np.ndarray, kind: pa.DataType) -> pa.Array:
    """(n, C, H, W) float32 as an Arrow array of n fixed-size byte strings, without a copy where it is contiguous."""
    contiguous = np.ascontiguousarray(images, dtype="<f4")
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(images), [None, pa.py_buffer(contiguous)])


def _to_numpy(column: pa.ChunkedArray, shape: tuple[int, ...]) -> np.ndarray:
    """A column as numpy, images as (n, C, H, W) float32; a view, except where a column came in several chunks."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if column.null_count:
        raise ValueError("a shard has no empty cells")
    if isinstance(array, pa.FixedSizeBinaryArray):
        count = int(np.prod(shape))
        values = np.frombuffer(array.buffers()[1] or b"", "<f4", len(array) * count, 4 * count * array.offset)
        return values.reshape(len(array), *shape)
    return array.to_numpy(zero_copy_only=False)
