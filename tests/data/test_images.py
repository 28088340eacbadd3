"""What becomes of encoded images: orientation, formats, memory."""

import io

import numpy as np
import pytest
from PIL import EpsImagePlugin, ExifTags, Image, ImageOps, PngImagePlugin

from amun_ray.base.errors import UserError
from amun_ray.data import images as module
from amun_ray.data.images import FORMATS, ImageStack

UPRIGHT = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)


def decoded(*encoded):
    with ImageStack(len(encoded), "test") as stack:
        stack.fill(0, encoded, "row {}".format)
        return stack.pixels


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tagged(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


# What a camera stores so that the picture is UPRIGHT when it is turned as its EXIF orientation says.
STORED = {1: UPRIGHT, 2: UPRIGHT[:, ::-1], 3: UPRIGHT[::-1, ::-1], 4: UPRIGHT[::-1], 5: UPRIGHT.T,
          6: np.rot90(UPRIGHT), 7: UPRIGHT[::-1, ::-1].T, 8: np.rot90(UPRIGHT, -1)}


@pytest.mark.parametrize("kind", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_an_image_is_set_upright(orientation, kind):
    stored = Image.fromarray(STORED[orientation])
    content = saved(stored.convert("RGB") if kind == "webp" else stored, kind, exif=tagged(orientation),
                    **({"lossless": True} if kind == "webp" else {}))
    assert (decoded(content) == UPRIGHT).all()
    assert (np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("L")) == UPRIGHT).all()


@pytest.mark.parametrize("orientation", STORED)
def test_a_jpeg_is_set_upright_as_pil_does(orientation):
    draw = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    content = saved(Image.fromarray(draw), "jpeg", exif=tagged(orientation))
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    np.testing.assert_array_equal(decoded(content)[0], wanted.transpose(2, 0, 1))


def test_a_turned_image_has_the_size_of_the_upright_one():
    lying, upright = (saved(Image.fromarray(STORED[turn]), "png", exif=tagged(turn)) for turn in (6, 1))
    assert (decoded(lying, upright) == UPRIGHT).all()
    plain = saved(Image.fromarray(STORED[6]), "png")
    with pytest.raises(UserError, match="row 1: image of 2 x 3 pixels, but the first one has 3 x 2"):
        decoded(lying, plain)


def test_orientation_behind_the_pixels_and_in_other_words_counts():
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="3"/>')
    assert (decoded(saved(Image.fromarray(STORED[3]), "png", pnginfo=info)) == UPRIGHT).all()


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_an_orientation_that_does_not_exist_is_none(orientation):
    assert (decoded(saved(Image.fromarray(UPRIGHT), "png", exif=tagged(orientation))) == UPRIGHT).all()


def test_damaged_exif_says_nothing():
    content = saved(Image.fromarray(UPRIGHT), "png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    assert (decoded(content) == UPRIGHT).all()


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "ppm", "gif"])
def test_formats_that_are_read(kind):
    assert (decoded(saved(Image.fromarray(UPRIGHT), kind)) == UPRIGHT).all()


def test_every_format_is_known_to_pil():
    Image.init()
    assert set(FORMATS) <= set(Image.OPEN)


def test_eps_starts_no_interpreter(monkeypatch):
    """PIL hands EPS to Ghostscript, which runs the file as a program."""
    eps = (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 3 2\n%%EndComments\n(run) print\nshowpage\n%%EOF\n")
    assert Image.open(io.BytesIO(eps)).format == "EPS"  # what would be opened
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: started.append("gs"))
    with pytest.raises(UserError, match=r"row 0: the image cannot be decoded: not an image of a format that is read "
                                        r"\(PNG, JPEG, WEBP, GIF, BMP, TIFF, PPM, JPEG2000, AVIF\)"):
        decoded(eps)
    assert started == []


def test_more_than_the_memory_is_not_asked_for(monkeypatch):
    content = saved(Image.fromarray(UPRIGHT), "png")
    monkeypatch.setattr(module, "_memory", lambda: 600)
    with ImageStack(100, "photos") as stack:
        stack.fill(0, [content], "row {}".format)  # 100 grey images of 3 x 2
    with ImageStack(101, "photos") as stack, pytest.raises(UserError, match="photos: 101 images of 3 x 2 pixels need"):
        stack.fill(0, [content], "row {}".format)
    monkeypatch.undo()
    with ImageStack(10**12, "photos") as stack, pytest.raises(UserError, match="need 5,587.9 GiB, and this machine"):
        stack.fill(0, [content], "row {}".format)
