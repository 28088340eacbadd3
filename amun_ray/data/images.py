"""Encoded images (JPEG, PNG, ...) decoded by a thread pool, straight into one preallocated uint8 array."""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from amun_ray.base.errors import UserError, first_line

CHUNK = 64  # images per task: large enough that handing out tasks costs nothing
EIGHT_BIT_GREY = ("L", "LA", "1")
WIDE_MODES = ("I", "F")  # 32-bit integers and floats; "I;16" and its kind begin with "I" too
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")  # PIL knows more; EPS runs a program
PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # what may turn a PNG, also behind its pixels
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}  # what sets an image of an EXIF orientation upright


class Opened(NamedTuple):
    """An image of which the header was read."""

    image: Image.Image
    orientation: int  # EXIF's, 1 (upright) to 8

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright image."""
        return self.image.size[::-1] if self.orientation >= 5 else self.image.size


class ImageStack:
    """An array (count, C, H, W) uint8, filled in batches with encoded images of one size.

    C is 1 until the first coloured image comes, from then on 3; grey images are repeated over the channels. An image is
    turned as its EXIF orientation says, as Hugging Face datasets does, and transparency is dropped.

    Args:
        count: number of images that will come.
        name: what a message calls this data.
    """

    def __init__(self, count: int, name: str) -> None:
        self.count = count
        self.name = name
        self.pixels = np.empty((0, 1, 0, 0), np.uint8)  # until the first image is seen
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
                8 bits per channel; or all of them together are larger than the memory of this machine.
        """
        if not encoded:
            return
        spans = [range(low, min(low + CHUNK, len(encoded))) for low in range(0, len(encoded), CHUNK)]
        opened: list[Opened] = []
        for images in self._pool.map(lambda span: [_open(encoded[i], where(i)) for i in span], spans):
            opened += images
        for position, image in enumerate(opened):
            self.size = size = self.size or image.size
            if image.size != size:
                raise UserError(f"{where(position)}: image of {_text(image.size)} pixels, but the first one has "
                                f"{_text(size)}; all images must have one size")
        self._make_room(*opened[0].size, coloured=any(one.image.mode not in EIGHT_BIT_GREY for one in opened))
        pixels = self.pixels

        def decode(span: range) -> None:
            for position in span:
                _decode(opened[position], pixels[start + position], where(position))

        list(self._pool.map(decode, spans))

    def _make_room(self, width: int, height: int, *, coloured: bool) -> None:
        """Allocate the array, or widen a grey one, once the first coloured image is seen."""
        channels = 3 if coloured else 1
        needed, there = self.count * channels * height * width, _memory()
        if needed > there:
            raise UserError(f"{self.name}: {self.count:,} images of {width} x {height} pixels need "
                            f"{needed / 2**30:,.1f} GiB, and this machine has {there / 2**30:,.1f}; take some of them "
                            "(train_size, test_size)")
        if not self.pixels.size:
            self.pixels = np.empty((self.count, channels, height, width), np.uint8)
        elif self.pixels.shape[1] < channels:
            self.pixels = np.repeat(self.pixels, channels, axis=1)


def _open(encoded: bytes | None, where: str) -> Opened:
    """Read the header of one image: size, mode and orientation are known, pixels not yet decoded."""
    if encoded is None:
        raise UserError(f"{where}: the image has no bytes; store the whole image file, not its path")
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except Exception as error:  # of damaged bytes PIL's readers raise nearly anything
        raise _undecodable(error, where) from error
    if image.mode.startswith(WIDE_MODES) or any(";16" in str(tile[3]) for tile in image.tile):
        low, high = _range(image, where)
        raise UserError(f"{where}: the image has more than 8 bits per channel (mode {image.mode}, values "
                        f"[{low:.4g}, {high:.4g}]); store pixels as 8-bit, 0..255")
    return Opened(image, _orientation(image, encoded))


def _orientation(image: Image.Image, encoded: bytes) -> int:
    """EXIF's orientation; 1 where there is none, none that can be read, or where PIL sets the image upright itself."""
    if image.format == "TIFF" or (image.format == "PNG" and not any(mark in encoded for mark in PNG_EXIF)):
        return 1
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # EXIF that is damaged says nothing
        return 1
    return found if found in TURNS else 1


def _decode(opened: Opened, out: np.ndarray, where: str) -> None:
    """Decode an image into `out` (C, H, W)."""
    try:
        image = opened.image
        if opened.orientation != 1:
            image = image.transpose(TURNS[opened.orientation])
        out[:] = _pixels(image, "L" if len(out) == 1 else "RGB")
    except Exception as error:
        raise _undecodable(error, where) from error


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
    except Exception as error:
        raise _undecodable(error, where) from error
    return float(values.min()), float(values.max())


def _undecodable(error: Exception, where: str) -> UserError:
    known = f"not an image of a format that is read ({', '.join(FORMATS)})"
    why = known if isinstance(error, UnidentifiedImageError) else first_line(error)
    return UserError(f"{where}: the image cannot be decoded: {why}")


def _memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _threads() -> int:
    """Processors that this process may use; decoding leaves the interpreter's lock for its larger part."""
    available = getattr(os, "sched_getaffinity", None)
    return len(available(0)) if available else os.cpu_count() or 1


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
