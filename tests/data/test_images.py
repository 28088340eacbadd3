"""Decoding: orientation, formats, memory."""

import io
import re
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import EpsImagePlugin, ExifTags, Image, ImageOps, PngImagePlugin, features

from amun_ray.base.errors import UserError
from amun_ray.data import images as module
from amun_ray.data.images import ImageStack
from amun_ray.data.picture import FORMATS, Reading, Undecodable, known_formats, picture

UPRIGHT = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)


def decoded(*encoded):
    with ImageStack(len(encoded), "test") as stack:
        stack.fill(0, encoded, "row {}".format)
        return stack.pixels


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def deep_png(value):
    """A PNG of 6 x 5 RGB pixels with 16 bits per channel, which PIL cannot write."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 6, 5, 16, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + struct.pack(">H", value) * 18) * 5)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


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


def test_formats_that_pillow_lacks_are_not_asked_for():
    assert known_formats() == (FORMATS if features.check("avif") else FORMATS[:-1])


def test_eps_starts_no_interpreter(monkeypatch):
    """PIL hands EPS to Ghostscript, which runs the file as a program."""
    eps = (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 3 2\n%%EndComments\n(run) print\nshowpage\n%%EOF\n")
    assert Image.open(io.BytesIO(eps)).format == "EPS"  # what would be opened
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: started.append("gs"))
    with pytest.raises(UserError, match=r"row 0: the image cannot be decoded: not an image of a format that is read "
                                        r"\(PNG, JPEG, WEBP, GIF, BMP, TIFF, PPM, JPEG2000(, AVIF)?\)"):
        decoded(eps)
    assert started == []


def test_grey_coloured_and_damaged_images_each_come_to_their_row():
    draw = np.random.default_rng(0)
    images = [draw.integers(0, 256, (5, 4) if number < 40 or number % 3 == 0 else (5, 4, 3), np.uint8)
              for number in range(200)]  # 40 grey ones, then both kinds, over many tasks
    files = [saved(Image.fromarray(image), "png") for image in images]
    for damaged in (7, 50, 51, 199):
        files[damaged] = b"no image"
    with ImageStack(200, "toy", Reading(on_error="skip")) as stack:
        for start, stop in ((0, 20), (20, 90), (90, 200)):
            stack.fill(start, files[start:stop], "row {}".format)
    assert stack.left_out == [7, 50, 51, 199]
    wanted = [np.broadcast_to(image if image.ndim == 2 else image.transpose(2, 0, 1), (3, 5, 4))
              for number, image in enumerate(images) if number not in stack.left_out]
    assert (stack.pixels == np.array(wanted)).all()


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


@pytest.mark.parametrize("value", [0, 255, 256, 32_768, 40_000, 65_535])
def test_of_sixteen_bits_the_upper_eight_are_taken(value):
    grey = Image.fromarray(np.full((5, 6), value, np.uint16))
    ppm = b"P5 6 5 65535\n" + value.to_bytes(2, "big") * grey.width * grey.height
    for content in (saved(grey, "png"), saved(grey, "tiff"), ppm, deep_png(value)):
        assert (decoded(content) == value // 256).all()


@pytest.mark.parametrize("kind", ["tiff"])
@pytest.mark.parametrize("pixels", [np.full((5, 6), 70_000, np.int32), np.full((5, 6), 0.25, np.float32)])
def test_more_than_sixteen_bits_are_refused(pixels, kind):
    with pytest.raises(UserError, match="the image has more than 16 bits per channel"):
        decoded(saved(Image.fromarray(pixels), kind))


RED = np.full((5, 6, 3), (200, 30, 60), np.uint8)


@pytest.mark.parametrize(("mode", "kind", "wanted"), [
    ("L", "png", 84), ("LA", "png", 84), ("1", "png", 255), ("RGB", "png", (200, 30, 60)),
    ("RGBA", "png", (200, 30, 60)), ("P", "png", (200, 30, 60)), ("P", "gif", (200, 30, 60)),
    ("CMYK", "tiff", (200, 30, 60)), ("RGB", "bmp", (200, 30, 60)), ("RGB", "ppm", (200, 30, 60)),
    ("RGBA", "webp", (200, 30, 60)),
])
def test_every_mode_becomes_grey_or_rgb(mode, kind, wanted):
    image = Image.fromarray(RED)
    if mode == "P":
        image = image.quantize(4)
    elif mode == "1":
        image = Image.new("1", image.size, 1)
    else:
        image = image.convert(mode)
    if mode.endswith("A"):
        image.putalpha(7)  # nearly transparent: the colour stays
    found = decoded(saved(image, kind, **({"lossless": True, "exact": True} if kind == "webp" else {})))[0]
    assert len(found) == np.size(wanted)
    assert (found == np.reshape(wanted, (-1, 1, 1))).all()


def test_cmyk_of_a_jpeg_is_what_pil_makes_of_it():
    content = saved(Image.fromarray(RED).convert("CMYK"), "jpeg")
    wanted = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).transpose(2, 0, 1)
    np.testing.assert_array_equal(decoded(content)[0], wanted)
    assert abs(wanted[:, 0, 0].astype(int) - RED[0, 0]).max() < 12


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(40, 31), (31, 40), (16, 16), (9, 50), (20, 17), (99, 197), (99, 200), (250, 99)])
@pytest.mark.parametrize(("resize", "crop"), [(16, 13), (13, 12), (64, 56)])  # PIL's boxes are exact for powers of two
@pytest.mark.parametrize("grey", [False, True])
def test_scaling_and_cutting_are_torchvisions(size, interpolation, resize, crop, grey):
    from torchvision.transforms import InterpolationMode, v2
    draw = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = Image.fromarray(draw[..., 0] if grey else draw)
    made = v2.Compose([v2.Resize(resize, InterpolationMode(interpolation)), v2.CenterCrop(crop)])
    wanted = np.atleast_3d(np.asarray(made(image))).transpose(2, 0, 1)
    np.testing.assert_array_equal(picture(saved(image, "png"), Reading(resize, crop, interpolation)), wanted)


def test_a_thread_never_decodes_far_ahead(monkeypatch):
    """Decoding stays a few chunks ahead of its consumer, and does not run through all of them."""
    made, taken = [], []
    with ThreadPoolExecutor(2) as pool:
        for one in module._in_order(pool, lambda item: made.append(item) or item, range(1000)):
            taken.append(one)
            assert len(made) <= len(taken) + module.AHEAD * module.threads()
    assert taken == list(range(1000))


def test_a_line_of_pixels_does_not_become_a_gigabyte():
    content = saved(Image.new("L", (30_000, 1)), "png")
    with pytest.raises(Undecodable, match="would become one of 7,680,000 x 256"):
        picture(content, Reading(256, 224))


@pytest.mark.parametrize(("broken", "end"), [(10, "row 9"), (12, "row 9; and 2 more")])
def test_ten_pictures_that_cannot_be_decoded_are_named_and_the_others_counted(broken, end):
    stack = ImageStack(broken, "toy")
    stack.fill(0, [b"no image"] * broken, "row {}".format)
    said = re.sub(": the image cannot be decoded: [^;]*", "", stack.problems)
    assert said == "; ".join(f"row {number}" for number in range(9)) + f"; {end}"
