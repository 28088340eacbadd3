"""Tables of encoded images in arrow files, read like parquet files; and what Hugging Face says about their columns."""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from amun_ray.base.errors import UserError, first_line
from amun_ray.data.columns import BROKEN, Readable, open_parquet
from amun_ray.data.files import File

ARROW = ".arrow"
RANDOM_ACCESS = b"ARROW1"  # how the file format begins; that of a stream does not


class Metadata(NamedTuple):
    """The part of a parquet file's metadata that is used here."""

    num_rows: int


class ArrowFile:
    """An arrow file, mapped into memory, with the methods of `pq.ParquetFile` that are used here."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.schema_arrow = table.schema
        self.metadata = Metadata(table.num_rows)

    def read(self, columns: Sequence[str]) -> pa.Table:
        """The table of some columns."""
        return self._table.select(list(columns))

    def iter_batches(self, batch_size: int, columns: Sequence[str], **_: object) -> Iterator[pa.RecordBatch]:
        """The rows of some columns, at most `batch_size` at a time."""
        yield from self.read(columns).to_batches(max_chunksize=batch_size)


def open_table(file: File) -> Readable:
    """An open file: arrow by its ending, else parquet.

    Raises:
        UserError: it cannot be read, or is neither.
    """
    if not file.path.endswith(ARROW):
        return open_parquet(file)
    try:
        mapped = pa.memory_map(file.path)
        random = mapped.read(len(RANDOM_ACCESS)) == RANDOM_ACCESS
        mapped.seek(0)
        return ArrowFile((pa.ipc.open_file if random else pa.ipc.open_stream)(mapped).read_all())
    except BROKEN as error:
        raise UserError(f"{file}: cannot be read as arrow: {first_line(error)}") from error


def class_labels(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Column -> names of its classes, for each with the feature ClassLabel in the metadata that Hugging Face writes."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: tuple(map(str, feature["names"])) for name, feature in features.items()
                if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
                and name in schema.names}
    except (KeyError, ValueError, TypeError, AttributeError):  # no such metadata, or of an unknown form
        return {}
