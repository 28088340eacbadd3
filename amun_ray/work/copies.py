"""Whether a stored file holds a copy or near-copy of a forgotten picture: a search by content, not by digest or name.

A picture counts as a copy of a forgotten one if its L2 distance to it is at most `radius` and no remaining picture of
the dataset is as near. Radius and distance are in pixel units, for images in [0, 1].

Cost: (stored pictures) x (forgotten pictures) distances, one matrix product per block; pictures within the radius are
compared with the whole dataset. Memory: one stored file and a block of the dataset.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from amun_ray.base.errors import UserError
from amun_ray.data import shards
from amun_ray.data.dataset import Dataset

BLOCK_ROWS = 1024
TIE = 1e-6  # tolerance for rounding when two distances are equal
ENDINGS = (".parquet", ".npy", ".npz", ".safetensors", ".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif",
           ".tiff")
SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "U8": "|u1", "I8": "|i1", "I16": "<i2", "I32": "<i4",
               "I64": "<i8"}
UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, pa.ArrowException)


class Copy(NamedTuple):
    """A stored picture that is a copy or near-copy of a forgotten one."""

    place: str  # the array within the file, and the number of the picture there
    row: int    # of the forgotten picture in the dataset
    l2: float


@dataclass(frozen=True, eq=False)
class Forgotten:
    """The pictures that must not be found: rows of `dataset`, and the radius within which a picture is a copy."""

    dataset: Dataset
    rows: np.ndarray  # (count,) int64, sorted
    radius: float

    @cached_property
    def pictures(self) -> np.ndarray:
        """(count, C H W) float32 in [0, 1]."""
        return self._flat(self.rows)

    def copies(self, name: str, data: bytes) -> tuple[int, list[Copy]]:
        """How many pictures of the dataset's size the file `name` has, and which of them are copies.

        Raises:
            UserError: the file cannot be read, so that nothing is known about it.
        """
        seen = 0
        copies: list[Copy] = []
        try:
            for place, images in pictures_in(name, data, self.dataset.pixels.shape[1:], self.dataset):
                seen += len(images)
                copies += self._near(place, images)
        except UNREADABLE as error:
            raise UserError(f"{name}: cannot be searched: {' '.join(str(error).split())[:200]}") from error
        return seen, copies

    def seen_in(self, place: str, pixels: np.ndarray) -> str | None:
        """Which of `pixels` (n, C, H, W) is the first copy, as a phrase that begins with `place`; None without one."""
        first = next(self._near(place, pixels.reshape(len(pixels), -1)), None)
        return None if first is None else f"{first.place} is within {first.l2:.3g} of forgotten row {first.row}"

    def _near(self, place: str, images: np.ndarray) -> Iterator[Copy]:
        for start in range(0, len(images), BLOCK_ROWS):
            block = scaled(images[start:start + BLOCK_ROWS])
            which, nearest = _nearest(block, self.pictures)
            for at in np.flatnonzero(nearest <= self.radius):
                if nearest[at] + TIE < self._nearest_remaining(block[at:at + 1]):
                    yield Copy(f"{place}, picture {start + at}", int(self.rows[which[at]]), float(nearest[at]))

    def _nearest_remaining(self, image: np.ndarray) -> float:
        """The distance of one picture to the nearest picture of the dataset that is not forgotten."""
        rest = np.setdiff1d(np.arange(len(self.dataset)), self.rows)
        return min((float(_nearest(image, self._flat(rest[start:start + BLOCK_ROWS]))[1][0])
                    for start in range(0, len(rest), BLOCK_ROWS)), default=float("inf"))

    def _flat(self, rows: np.ndarray) -> np.ndarray:
        return scaled(self.dataset.pixels[rows].reshape(len(rows), -1))


def scaled(images: np.ndarray) -> np.ndarray:
    """(n, P) float32 in [0, 1]: integers, and floats above 1, are values up to 255; non-finite values are 0."""
    pixels = np.nan_to_num(images.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    return pixels / 255 if images.dtype.kind in "iu" or pixels.max(initial=0) > 1.5 else pixels


def pictures_in(name: str, data: bytes, shape: tuple[int, int, int],
                dataset: Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """Every array of a file that may be pictures of `shape` (C, H, W), as `(name, (n, C H W))`."""
    size, ending = int(np.prod(shape)), name[name.rfind("."):].lower()
    if ending == ".parquet":
        yield from _of_parquet(data, shape, dataset)
    elif ending == ".safetensors":
        yield from _as_pictures(_of_safetensors(data), size)
    elif ending == ".npy":
        yield from _as_pictures([("array", np.lib.format.read_array(io.BytesIO(data), allow_pickle=False))], size)
    elif ending == ".npz":
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            yield from _as_pictures(arrays.items(), size)
    elif ending in ENDINGS:
        yield from _as_pictures([("image", _decoded(data, shape))], size)


def _as_pictures(arrays: Any, size: int) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays that may be pictures, by shape: (n, P), (n, C, H, W), (n, H, W, C), (P,)."""
    for name, array in arrays:
        wanted = [axis for axis in range(array.ndim) if np.prod(array.shape[axis:], dtype=int) == size]
        if wanted and array.dtype.kind in "fiu" and array.size:
            flat = array.reshape(-1, *array.shape[wanted[0]:])
            yield name, flat.reshape(len(flat), size)
            if flat.ndim == 4 and flat.shape[-1] == 3:  # channels last: the same pixels in another order
                yield f"{name} (channels last)", flat.transpose(0, 3, 1, 2).reshape(len(flat), size)


def _of_safetensors(data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + length])
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] in SAFETENSORS:
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            yield name, np.frombuffer(data[start:end], SAFETENSORS[entry["dtype"]]).reshape(entry["shape"])


def _of_parquet(data: bytes, shape: tuple[int, int, int], dataset: Dataset) -> Iterator[tuple[str, np.ndarray]]:
    file = pq.ParquetFile(pa.BufferReader(data))
    metadata = file.schema_arrow.metadata or {}
    if metadata.get(b"dataset", b"").decode() == dataset.digest:
        yield "image", _unexplained(data, dataset)
        return
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        for column in table.schema.names:
            images = [picture for value in table.column(column).to_pylist()
                      if (picture := _cell(value, shape)) is not None]
            if images:
                yield f"column {column!r}", np.stack(images)


def _unexplained(data: bytes, dataset: Dataset) -> np.ndarray:
    """The images of a shard of this dataset that are not within `l2` of the picture of their own row, as it claims.
    The others belong to that row, which the search by lineage has already judged."""
    columns, _ = shards.decode(data)
    images, rows = columns["image"], columns["index"]
    own = dataset.pixels[rows].astype(np.float32) / 255
    distance = np.sqrt(((images - own) ** 2).reshape(len(images), -1).sum(1))
    return images[distance > columns["l2"] + 1e-3].reshape(-1, int(np.prod(images.shape[1:])))


def _cell(value: Any, shape: tuple[int, int, int]) -> np.ndarray | None:
    """A cell as one picture (C H W,): raw bytes, raw float32, an image file, or numbers; None for anything else."""
    size = int(np.prod(shape))
    if isinstance(value, dict):
        value = value.get("bytes")
    if isinstance(value, bytes):
        if len(value) == size:
            return np.frombuffer(value, np.uint8) / np.float32(255)
        if len(value) == 4 * size:
            return np.frombuffer(value, "<f4")
        try:
            image = _decoded(value, shape)
        except UNREADABLE:
            return None
        return image.ravel() if image.size == size else None
    if isinstance(value, list):
        numbers = np.asarray(value).ravel()
        return scaled(numbers[None])[0] if numbers.size == size and numbers.dtype.kind in "fiu" else None
    return None


def _decoded(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """An image file as (C, H, W) float32 in [0, 1]; empty if it has another size."""
    with Image.open(io.BytesIO(data)) as image:
        if image.size != (shape[2], shape[1]):
            return np.zeros(0, np.float32)
        pixels = np.asarray(image.convert("L" if shape[0] == 1 else "RGB"), np.float32) / 255
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _nearest(images: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of `images` (n, P), the nearest of `others` (m, P) and its L2 distance."""
    if not len(others):
        return np.zeros(len(images), int), np.full(len(images), np.inf)
    wide, far = images.astype(np.float64), others.astype(np.float64)  # for the differences of large squares below
    squares = (wide ** 2).sum(1)[:, None] - 2 * wide @ far.T + (far ** 2).sum(1)
    which = squares.argmin(1)
    return which, np.sqrt(np.maximum(squares[np.arange(len(images)), which], 0))
