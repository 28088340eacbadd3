"""Encoded images (JPEG, PNG, ...) decoded by a thread pool, straight into one preallocated uint8 array."""

import io
import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from amun_ray.base.errors import UserError

CHUNK = 64  # images per task: large enough that handing out tasks costs nothing
EIGHT_BIT_GREY = ("L", "LA", "1")
WIDE_MODES = ("I", "F")  # 32-bit integers and floats; "I;16" and its kind begin with "I" too
DECODE_ERRORS = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)  # what PIL raises


class ImageStack:
    """An array (count, C, H, W) uint8, filled in batches with encoded images of one size.

    C is 1 until the first coloured image comes, from then on 3; grey images are repeated over the channels. EXIF
    orientation is ignored and transparency dropped, as image loaders for training do.

    Args:
        count: number of images that will come.
        name: what a message calls this data.
    """

    def __init__(self, count: int, name: str) -> None:
        self.count = count
        self.name = name
        self.pixels: np.ndarray | None = None
        self.size: tuple[int, int] | None = None  # (width, height) of the first image
        self._pool = ThreadPoolExecutor(_threads())

    def __enter__(self) -> "ImageStack":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def fill(self, start: int, encoded: Sequence[bytes | None], where: Callable[[int], str]) -> None:
        """Decode `encoded` into the rows from `start` on.

        Args:
            start: row of the first image.
            encoded: whole image files.
            where: file and row of the image at a position of `encoded`, for messages.

        Raises:
            UserError: an image that is missing, cannot be decoded, has another size than the first one, or more than
                8 bits per channel.
        """
        spans = [range(low, min(low + CHUNK, len(encoded))) for low in range(0, len(encoded), CHUNK)]
        opened: list[Image.Image] = []
        for images in self._pool.map(lambda span: [_open(encoded[i], where(i)) for i in span], spans):
            opened += images
        for position, image in enumerate(opened):
            self.size = self.size or image.size
            if image.size != self.size:
                raise UserError(f"{where(position)}: image of {_text(image.size)} pixels, but the first one has "
                                f"{_text(self.size)}; all images must have one size")
        self._make_room(coloured=any(image.mode not in EIGHT_BIT_GREY for image in opened))
        pixels = self.pixels

        def decode(span: range) -> None:
            for position in span:
                _decode(opened[position], pixels[start + position], where(position))

        list(self._pool.map(decode, spans))

    def _make_room(self, *, coloured: bool) -> None:
        """Allocate the array, or widen a grey one, once the first coloured image is seen."""
        width, height = self.size
        channels = 3 if coloured else 1
        if self.pixels is None:
            self.pixels = np.empty((self.count, channels, height, width), np.uint8)
        elif self.pixels.shape[1] < channels:
            self.pixels = np.repeat(self.pixels, channels, axis=1)


def _open(encoded: bytes | None, where: str) -> Image.Image:
    """Read the header of one image: size and mode are known, pixels not yet decoded."""
    if encoded is None:
        raise UserError(f"{where}: the image has no bytes")
    try:
        image = Image.open(io.BytesIO(encoded))
    except DECODE_ERRORS as error:
        raise UserError(f"{where}: the image cannot be decoded: {_reason(error)}") from error
    if image.mode.startswith(WIDE_MODES) or any(";16" in str(tile[3]) for tile in image.tile):
        low, high = _range(image, where)
        raise UserError(f"{where}: the image has more than 8 bits per channel (mode {image.mode}, values "
                        f"[{low:.4g}, {high:.4g}]); store pixels as 8-bit, 0..255")
    return image


def _decode(image: Image.Image, out: np.ndarray, where: str) -> None:
    """Decode `image` into `out` (C, H, W)."""
    try:
        out[:] = _pixels(image, "L" if len(out) == 1 else "RGB")
    except DECODE_ERRORS as error:
        raise UserError(f"{where}: the image cannot be decoded: {_reason(error)}") from error


def _pixels(image: Image.Image, mode: str) -> np.ndarray:
    """(C, H, W) uint8, or (H, W) for grey, of an image converted to `mode`."""
    if image.mode != mode:
        image = image.convert(mode)
    array = np.asarray(image)
    return array if array.ndim == 2 else array.transpose(2, 0, 1)


def _range(image: Image.Image, where: str) -> tuple[float, float]:
    """Smallest and largest value of an image whose depth is wrong."""
    try:
        values = np.asarray(image)
    except DECODE_ERRORS as error:
        raise UserError(f"{where}: the image cannot be decoded: {_reason(error)}") from error
    return float(values.min()), float(values.max())


def _threads() -> int:
    """Processors that this process may use; decoding leaves the interpreter's lock for its larger part."""
    available = getattr(os, "sched_getaffinity", None)
    return len(available(0)) if available else os.cpu_count() or 1


def _reason(error: Exception) -> str:
    return "not an image of a known format" if isinstance(error, Image.UnidentifiedImageError) else str(error)


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
