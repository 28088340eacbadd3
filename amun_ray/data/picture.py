"""One encoded image as an array: which formats are read, and what happens to its orientation, mode and size.

The rules, in this order: the image is rotated as its EXIF orientation says; channels of 16 bits keep their upper 8; a
palette is looked up, CMYK is converted, transparency is dropped; the shorter side becomes `resize` pixels, antialiased,
and the middle is cut out. Except for the rotation these are the rules of torchvision's ImageFolder with Resize and
CenterCrop, so a model sees what it was trained on. Grey images stay grey if all images of the set are grey.
"""

import io
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from amun_ray.base.errors import UserError, first_line

EIGHT_BIT_GREY = ("L", "LA", "1")
WIDE = "I"  # PIL's 32-bit integers, and with ";16" its 16-bit ones
SIXTEEN_BIT = ("PNG", "PPM")  # formats whose 16-bit integers PIL returns as 32-bit ones
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")  # PIL has more; EPS runs a program
PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # where a PNG may have its orientation
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
         5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
         8: Image.Transpose.ROTATE_90}  # EXIF orientation -> what sets the image upright
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
EXACT = 2**24  # PIL's boxes are float32: multiples of 1 / 2**k up to this many of them are exact
MUCH_HIGHER = 2  # times as high as wide
LARGEST = 2 * 89_478_485  # pixels of an image once it is resized; PIL's own limit for one that is opened


class Undecodable(Exception):
    """Why an encoded image is no picture, as a phrase."""


class TooSmall(Undecodable):
    """A sound picture that is smaller than the crop."""


@dataclass(frozen=True)
class Reading:
    """How a file becomes an image.

    Attributes:
        resize: pixels of the shorter side; None leaves the picture as large as it is.
        center_crop: side, in pixels, of the square that is cut out of the middle; None cuts nothing.
        interpolation: a row of FILTERS.
        on_error: whether an image that cannot be decoded is an error (`stop`) or left out (`skip`).

    Raises:
        UserError: a size below 1, a crop larger than the images, or an unknown word.
    """

    resize: int | None = None
    center_crop: int | None = None
    interpolation: str = "bilinear"
    on_error: str = "stop"

    def __post_init__(self) -> None:
        for key in ("resize", "center_crop"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise UserError(f"data.{key}: must be at least 1, but got {value}")
        if self.resize is not None and self.center_crop is not None and self.center_crop > self.resize:
            raise UserError(f"data.center_crop: must be at most data.resize ({self.resize}), but got "
                            f"{self.center_crop}")
        for key, known in (("interpolation", tuple(FILTERS)), ("on_error", ("stop", "skip"))):
            if (word := getattr(self, key)) not in known:
                raise UserError(f"data.{key}: must be {' or '.join(known)}, but got {word!r}")

    @property
    def skip(self) -> bool:
        """Whether to leave out images that cannot be decoded."""
        return self.on_error == "skip"

    @property
    def cure(self) -> str:
        """The settings that give images of several sizes one size."""
        wanted = [f"data.{key}" for key in ("resize", "center_crop") if getattr(self, key) is None]
        return f"set {' and '.join(wanted)}" if wanted else "this one is an error of ours"


AS_STORED = Reading()


def picture(encoded: bytes | None, reading: Reading = AS_STORED) -> np.ndarray:
    """(C, H, W) uint8 of an image file; C = 1 if it is grey.

    Raises:
        Undecodable: no bytes; a format that is not read; damaged; channels of more than 16 bits.
    """
    if encoded is None:
        raise Undecodable("the image has no bytes; store the whole image file, not its path")
    try:
        image: Image.Image = Image.open(io.BytesIO(encoded), formats=known_formats())
        turn = _orientation(image, encoded)
        image = _eight_bit(image)
        if turn != 1:
            image = image.transpose(TURNS[turn])
        return np.stack([np.asarray(band) for band in _sized(image, reading).split()])
    except Undecodable:
        raise
    except Exception as error:  # PIL's readers raise nearly anything for damaged bytes
        known = f"not an image of a format that is read ({', '.join(known_formats())})"
        why = known if isinstance(error, UnidentifiedImageError) else first_line(error)
        raise Undecodable(f"the image cannot be decoded: {why}") from error


@cache
def known_formats() -> tuple[str, ...]:
    """FORMATS without those that this Pillow lacks: before 11.3 it has no AVIF."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def size_text(pixels: np.ndarray) -> str:
    """`width x height` of (..., H, W)."""
    return f"{pixels.shape[-1]} x {pixels.shape[-2]}"


def _orientation(image: Image.Image, encoded: bytes) -> int:
    """EXIF's orientation; 1 where there is none, none that can be read, or where PIL sets the image upright itself."""
    if image.format == "TIFF" or (image.format == "PNG" and not any(mark in encoded for mark in PNG_EXIF)):
        return 1
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged EXIF is ignored
        return 1
    return orientation if orientation in TURNS else 1


def _eight_bit(image: Image.Image) -> Image.Image:
    """The image in mode L if it is grey, otherwise in RGB."""
    mode, kind = image.mode, image.format
    if mode == "F" or (mode == WIDE and kind not in SIXTEEN_BIT):
        values = np.asarray(image)
        raise Undecodable(f"the image has more than 16 bits per channel (mode {mode}, values "
                          f"[{values.min():.4g}, {values.max():.4g}]); store pixels as 8-bit, 0..255")
    if mode.startswith(WIDE):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    wanted = "L" if mode in EIGHT_BIT_GREY else "RGB"
    return image if mode == wanted else image.convert(wanted)


def _sized(image: Image.Image, reading: Reading) -> Image.Image:
    """The image scaled and cut as torchvision's Resize and CenterCrop do it.

    PIL scales the rows, rounds to 8 bits, and scales the columns; the columns first if the image is much higher than
    wide. What is cut out needs few of either; the others are left out, and the pixels are the same to the bit.
    """
    scaled, scaling = _scaled(image, reading.resize), FILTERS[reading.interpolation]
    if (side := reading.center_crop) is None:
        return image.resize(scaled, scaling)
    if side > min(scaled):
        raise TooSmall(f"the image of {scaled[0]} x {scaled[1]} pixels is smaller than data.center_crop ({side}); set "
                       "data.resize")
    left, top = (round((length - side) / 2) for length in scaled)
    if scaled == image.size or image.height > MUCH_HIGHER * image.width:
        return image.resize(scaled, scaling).crop((left, top, left + side, top + side))
    across = _along(0, image, scaled[0], range(left, left + side), scaling)
    return _along(1, across, scaled[1], range(top, top + side), scaling)


def _scaled(image: Image.Image, short: int | None) -> tuple[int, int]:
    """The size of an image whose shorter side is to have `short` pixels; None leaves it as it is."""
    if short is None or short == min(image.size):
        return image.size
    width, height = (int(short * side / min(image.size)) for side in image.size)
    if width * height > LARGEST:
        raise Undecodable(f"the image of {image.width} x {image.height} pixels would become one of {width:,} x "
                          f"{height:,}")
    return width, height


def _along(axis: int, image: Image.Image, length: int, kept: range, scaling: Image.Resampling) -> Image.Image:
    """The image scaled to `length` pixels along one axis (0: width), and cut to those of `kept`."""
    def size(pixels: int) -> tuple[int, int]:
        return (pixels, image.height) if axis == 0 else (image.width, pixels)

    def box(low: float, high: float, length: int) -> tuple[float, float, float, float]:
        return (low, 0, high, length) if axis == 0 else (0, low, length, high)

    there, across = image.size[axis], image.size[1 - axis]
    if length & (length - 1) or length * there > EXACT:
        return image.resize(size(length), scaling).crop(box(kept.start, kept.stop, across))
    return image.resize(size(len(kept)), scaling, box(kept.start * there / length, kept.stop * there / length, across))
