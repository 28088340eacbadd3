"""Encoded images (JPEG, PNG, ...) decoded by a thread pool into one uint8 array, all of one size."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np

from amun_ray.base.errors import UserError
from amun_ray.data.picture import AS_STORED, Reading, TooSmall, Undecodable, picture, size_text
from amun_ray.data.rows import Rows

CHUNK = 16  # images per task: large enough that handing out tasks costs nothing
AHEAD = 3  # tasks per thread that are handed out before their results are wanted
ERRORS_SHOWN = 10

Encoded = bytes | str | None  # a whole image file, or its path
Room = Callable[[tuple[int, int, int, int]], np.ndarray]
T = TypeVar("T")
U = TypeVar("U")


class ImageStack:
    """An array (count, C, H, W) uint8, filled in batches with encoded images that have one size once they are read.

    C is 1 until the first coloured image comes, and 3 from then on; grey images are repeated over the channels. When
    the context ends, images that could not be decoded are an error or, if `reading` allows it, left out: `left_out` has
    their rows, and `pixels` has the others in their order.

    Args:
        count: number of images that will come.
        name: what a message calls this data.
        reading: how a file becomes an image.
        room: makes the array, given its shape; in memory if not given.
        told: called with the number of images that have just been decoded.

    Raises:
        UserError: at the end, images that cannot be decoded: their number, and the first ten of them.
    """

    def __init__(self, count: int, name: str, reading: Reading = AS_STORED, room: Room | None = None,
                 told: Callable[[int], object] = bool) -> None:
        self.count = count
        self.name = name
        self.reading = reading
        self.left_out: list[int] = []
        self._rows: Rows | None = None
        self._errors: list[str] = []  # the first few
        self._room = room or self._memory
        self._told = told
        self._pool = ThreadPoolExecutor(threads())

    def __enter__(self) -> "ImageStack":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        if self._rows is not None:
            self._rows.close()
        if kind is None and self.left_out:
            self._close_ranks()

    @property
    def pixels(self) -> np.ndarray | None:
        """All rows, those that are not filled yet too; None before the first image. Once the context has ended: the
        images that are not left out."""
        return None if self._rows is None else self._rows.pixels

    @property
    def problems(self) -> str:
        """The first images that could not be decoded, in words."""
        more = len(self.left_out) - len(self._errors)
        return "; ".join(self._errors) + (f"; and {more:,} more" if more else "")

    def fill(self, start: int, encoded: Sequence[Encoded], where: Callable[[int], str]) -> None:
        """Decode `encoded` into the rows from `start` on.

        Args:
            start: row of the first image.
            encoded: whole image files, or their paths.
            where: file and row of the image at a position of `encoded`, for messages.

        Raises:
            UserError: an image of another size than the first one, or smaller than the crop; or all of them together
                are larger than the memory or the disk of this machine.
        """
        def read(span: range) -> list[np.ndarray | Undecodable | None]:
            images = ((start + position, _read(encoded[position], self.reading)) for position in span)
            return [None if self._placed(row, image) else image for row, image in images]

        spans = (range(low, min(low + CHUNK, len(encoded))) for low in range(0, len(encoded), CHUNK))
        position = 0
        for chunk in _in_order(self._pool, read, spans):
            for image in chunk:
                if image is not None:
                    self._place(start + position, image, where(position))
                position += 1
            self._told(len(chunk))

    def _placed(self, row: int, image: np.ndarray | Undecodable) -> bool:
        """Copy an image to its row, in any thread, if it brings nothing new; coloured pixels are never moved again."""
        rows = self._rows
        if rows is None or isinstance(image, Undecodable) or len(image) == 1 or image.shape != rows.pixels.shape[1:]:
            return False
        rows[row] = image
        return True

    def _place(self, row: int, image: np.ndarray | Undecodable, where: str) -> None:
        if isinstance(image, TooSmall):
            raise UserError(f"{where}: {image}")
        if isinstance(image, Undecodable):
            self.left_out.append(row)
            if len(self._errors) < ERRORS_SHOWN:
                self._errors.append(f"{where}: {image}")
            return
        if self._rows is None:
            self._rows = Rows(self._room((self.count, *image.shape)))
        channels, *size = self._rows.pixels.shape[1:]
        if image.shape[1:] != tuple(size):
            raise UserError(f"{where}: image of {size_text(image)} pixels, but the first one has "
                            f"{size_text(self._rows.pixels)}; all images must have one size: {self.reading.cure}")
        if len(image) > channels:
            grey, self._rows = self._rows, Rows(self._room((self.count, len(image), *size)))
            grey.close()
            for before in range(row):
                self._rows[before] = grey.pixels[before]
        self._rows[row] = image

    def _close_ranks(self) -> None:
        """Close the gaps of missing images, or refuse if none may be missing."""
        if not self.reading.skip or self._rows is None:
            count = len(self.left_out)
            hint = "" if self._rows is None else "; data.on_error: skip leaves out what cannot be decoded"
            raise UserError(self.problems + hint if count == 1 else
                            f"{self.name}: {count:,} of {self.count:,} images cannot be decoded{hint}: {self.problems}")
        kept = np.delete(np.arange(self.count), self.left_out)
        pixels = self._rows.pixels
        for to, row in enumerate(kept):
            if to != row:
                pixels[to] = pixels[row]
        self._rows.pixels = pixels[:len(kept)]

    def _memory(self, shape: tuple[int, int, int, int]) -> np.ndarray:
        needed, there = int(np.prod(shape)), _memory()
        if needed > there:
            raise UserError(f"{self.name}: {shape[0]:,} images of {shape[3]} x {shape[2]} pixels need "
                            f"{needed / 2**30:,.1f} GiB, and this machine has {there / 2**30:,.1f}; use fewer "
                            "(train_size, test_size)")
        return np.empty(shape, np.uint8)


def _read(encoded: Encoded, reading: Reading) -> np.ndarray | Undecodable:
    """An image, or why there is none."""
    try:
        if isinstance(encoded, str):
            with open(encoded, "rb") as file:
                encoded = file.read()
        return picture(encoded, reading)
    except OSError as error:
        return Undecodable(f"the image cannot be read: {error.strerror or error}")
    except Undecodable as error:
        return error


def _in_order(pool: ThreadPoolExecutor, function: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """`map` in a pool that is never far ahead of its consumer, so that results do not pile up."""
    source = iter(items)
    running = deque(pool.submit(function, item) for item in islice(source, AHEAD * threads()))
    while running:
        yield running.popleft().result()
        running.extend(pool.submit(function, item) for item in islice(source, 1))


def _memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def threads() -> int:
    """Processors that this process may use; most of decoding runs without the interpreter's lock."""
    available = getattr(os, "sched_getaffinity", None)
    return len(available(0)) if available else os.cpu_count() or 1
