"""Decoded pixels kept in a file and mapped into memory: decoded once, for every sweep and every process of a machine.

An entry is a folder named by a digest of everything that it was made from: the bytes of the files, which rows of them,
their labels, how they are read, and the version of the decoder. It appears by one rename; if two processes decode the
same images at the same time, the later one uses the entry of the earlier. Nothing holds the pixels in memory: the
system reads pages when they are used, and drops them again.
"""

import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from PIL import features

from amun_ray.base.errors import StorageError, UserError, first_line
from amun_ray.base.files import make_private
from amun_ray.base.log import say
from amun_ray.data.dataset import Dataset
from amun_ray.data.files import File
from amun_ray.data.images import threads

FORMAT = 1  # part of every digest
KEPT_FROM = 64 * 2**20  # bytes of pixels; fewer are decoded again in about a second, and stay in memory
AT_ONCE = 64  # files whose digests are one task: handing out a task takes as long as reading a small picture
PIXELS, ALIKE, FACTS = "pixels.u8", "first_alike.npy", "facts.json"


class Left(NamedTuple):
    """What was left out of the images of an entry."""

    rows: list[int]
    problems: str


class Kept(NamedTuple):
    """An entry: pixels (N, C, H, W) uint8, mapped read-only, and what is known about their data set."""

    pixels: np.ndarray
    left: Left
    digest: str
    known: dict[str, Any]  # cached properties of the Dataset
    trusted: bool  # whether the pixels are known to be what was written; otherwise their digest must be checked


class Keep:
    """A folder of entries.

    Args:
        folder: where finished entries are, on a file system of this machine.
        scratch: where they are written, on the same file system.
        close, open_: write facts as bytes that vouch for themselves, and read them; ValueError if they were changed.
        trusting: whether an entry with the size and time that were written is used without reading it.
        lasting: whether new entries are made. If not, pixels are in a temporary file.
    """

    def __init__(self, folder: Path, scratch: Path, *, close: Callable[[dict[str, Any]], bytes],
                 open_: Callable[[bytes], dict[str, Any]], trusting: bool = True, lasting: bool = True) -> None:
        self.folder, self.scratch, self.trusting, self.lasting = folder, scratch, trusting, lasting
        self._close, self._open = close, open_
        self._made: list[Path] = []

    def passing(self) -> "Keep":
        """The same folder, for reading: its entries are used, and no new ones are made."""
        return Keep(self.folder, self.scratch, close=self._close, open_=self._open, trusting=self.trusting,
                    lasting=False)

    def room(self, shape: tuple[int, int, int, int]) -> np.ndarray:
        """An array for pixels: in a file or, if there are few, in memory."""
        needed = int(np.prod([int(length) for length in shape], dtype=object))
        if needed < KEPT_FROM:
            return np.empty(shape, np.uint8)
        try:
            make_private(self.scratch)
            make_private(self.folder)
            there = shutil.disk_usage(self.scratch).free
        except OSError as error:
            raise StorageError(f"{self.folder}: decoded images cannot be kept here: {first_line(error)}") from error
        if needed > there:
            raise UserError(f"{self.scratch}: {shape[0]:,} images of {shape[3]} x {shape[2]} pixels need "
                            f"{needed / 2**30:,.1f} GiB, and this disk has {there / 2**30:,.1f} left; use fewer "
                            "(train_size, test_size), or another place (storage)")
        self._made.append(self.scratch / f"pixels-{uuid.uuid4().hex}")
        self._made[-1].mkdir()
        return np.memmap(self._made[-1] / PIXELS, np.uint8, "w+", shape=shape)

    def tidy(self) -> None:
        """Remove what `room` made and `put` did not use; what is still mapped stays until its array is gone."""
        for path in self._made:
            shutil.rmtree(path, ignore_errors=True)
        self._made.clear()

    def find(self, key: str) -> Kept | None:
        """The entry of a key; None if there is none, or if it is damaged, which is reported."""
        folder = self.folder / key
        try:
            facts = self._open((folder / FACTS).read_bytes())
            alike = (folder / ALIKE).read_bytes()
            if hashlib.sha256(alike).hexdigest() != facts["first_alike"]:
                raise ValueError(f"{ALIKE} is damaged")
            stat = (folder / PIXELS).stat()
            if stat.st_size != np.prod(facts["shape"]):
                raise ValueError(f"{PIXELS} has {stat.st_size:,} bytes")
            pixels = np.memmap(folder / PIXELS, np.uint8, "r", shape=tuple(facts["shape"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            say(f"  {folder}: {first_line(error)}; the images are decoded again")
            return None
        known = {"digest": facts["digest"], "first_alike": np.load(io.BytesIO(alike), allow_pickle=False),
                 "statistics": tuple(tuple(each) for each in facts["statistics"])}
        return Kept(pixels, Left(facts["left_out"], facts["problems"]), facts["digest"], known,
                    self.trusting and stat.st_mtime_ns == facts["written"])

    def put(self, key: str, dataset: Dataset, left: Left) -> Kept | None:
        """Make an entry of a dataset whose pixels are in a file made by `room`, and map it; None if they are in memory,
        or if no new entries are made."""
        if (written := dataset.map_path) is None or not self.lasting:
            return None
        folder, pixels = Path(written).parent, dataset.pixels
        assert isinstance(pixels, np.memmap), "as `map_path` says"
        with ThreadPoolExecutor(1 + threads()) as pool:
            on_disk = pool.submit(_to_disk, written)  # the disk writes while the processors read
            list(pool.map(partial(getattr, dataset), ("digest", "statistics", "first_alike")))
        alike = io.BytesIO()
        np.save(alike, dataset.first_alike)
        facts = {"shape": list(pixels.shape), "digest": dataset.digest, "statistics": dataset.statistics,
                 "left_out": left.rows, "problems": left.problems,
                 "first_alike": hashlib.sha256(alike.getvalue()).hexdigest()}
        try:
            on_disk.result()
            os.truncate(written, pixels.size)  # room for images that were left out is at the end
            (folder / ALIKE).write_bytes(alike.getvalue())
            (folder / FACTS).write_bytes(self._close(facts | {"written": os.stat(written).st_mtime_ns}))
            if (there := self.find(key)) is not None and there.trusted:
                return there
            shutil.rmtree(self.folder / key, ignore_errors=True)
            os.rename(folder, self.folder / key)
        except OSError as error:
            raise StorageError(f"{self.folder}: decoded images cannot be kept: {first_line(error)}") from error
        return self.find(key)


def _to_disk(path: str) -> None:
    """Write what was changed in a mapped file; unlike its `flush`, this lets other threads run."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def entry_key(inputs: Mapping[str, Any], sources: Sequence[File | str]) -> str:
    """The name of an entry: a digest of `inputs` (JSON values), of the bytes of all files, and of the decoder."""
    with ThreadPoolExecutor(threads()) as pool:
        spans = (sources[start:start + AT_ONCE] for start in range(0, len(sources), AT_ONCE))
        files = hashlib.sha256(b"".join(pool.map(_digests, spans))).hexdigest()
    decoder = [PIL.__version__, *(features.version(name) or "" for name in ("jpg", "webp", "zlib", "libtiff"))]
    content = {"format": FORMAT, "files": files, "decoder": decoder, **inputs}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


def _digests(sources: Sequence[File | str]) -> bytes:
    return b"".join(map(_digest, sources))


def _digest(source: File | str) -> bytes:
    try:
        if isinstance(source, str):
            with open(source, "rb", buffering=0) as file:
                return hashlib.file_digest(file, "sha256").digest()
        with source.system.open_input_stream(source.path, compression=None) as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:  # it cannot be decoded either, which is reported there
        return hashlib.sha256(f"{source}: {error}".encode()).digest()
