"""The same picture twice: in D_F and D_R, in training and test."""

import io

import numpy as np
import pytest
from PIL import Image

from amun_ray.data import load
from amun_ray.data.dataset import Dataset
from amun_ray.data.twins import forgotten_near_copies, forgotten_twins, near_copies, twins, unseen_twins


@pytest.fixture
def dataset():
    """Ten training and five test images, no two alike."""

    def dataset(*alike, **more):
        pixels = np.random.default_rng(0).integers(0, 256, (15, 1, 3, 4), np.uint8)
        for row, other in alike:
            pixels[other] = pixels[row]
        return Dataset("toy", pixels, np.arange(15) % 3, 10, 3, **more)

    return dataset


def rows(*numbers):
    return np.array(numbers, np.int64)


def test_images_of_their_own_have_no_twin(dataset):
    assert forgotten_twins(dataset(), rows(3, 7)) is None
    assert unseen_twins(dataset()) is None
    np.testing.assert_array_equal(dataset().first_alike, np.arange(15))


@pytest.mark.parametrize("shape", [(1, 3, 4), (3, 4, 4), (1, 3, 5)])
def test_only_the_same_pixels_in_the_same_places_are_alike(shape):
    """Also where the same bytes in other places have the same sum, which is looked at first."""
    one = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    shifted, last = np.roll(one.reshape(-1), 8).reshape(shape), one.copy()
    last[-1, -1, -1] ^= 1
    pixels = np.stack([shifted, one, last, one, shifted, np.full_like(one, 9)])
    found = Dataset("toy", pixels, np.arange(6) % 3, 5, 3)
    np.testing.assert_array_equal(found.first_alike, [0, 1, 2, 1, 0, 5])


def test_one_pixel_makes_another_picture(dataset):
    found = dataset((3, 9))
    found.pixels[9, 0, 2, 3] ^= 1
    assert forgotten_twins(found, rows(3)) is None


def test_a_forgotten_picture_among_the_remaining_ones_is_named(dataset):
    found = dataset((3, 9), (3, 5), (1, 2))
    assert twins(found, rows(3, 7), rows(0, 1, 2, 4, 5, 6, 8, 9)) == [(3, 5), (3, 9)]
    assert forgotten_twins(found, rows(3, 7)).startswith(
        "warning: 2 of the remaining training images show what is to be forgotten, pixel by pixel (forgotten row = "
        "remaining row: 3 = 5, 3 = 9); unless")
    assert "9 = 3, 9 = 5" in forgotten_twins(found, rows(9))
    assert forgotten_twins(found, rows(3, 5, 9)) is None  # all of them are forgotten
    assert forgotten_twins(found, rows(0, 7)) is None  # the twins both remain


def test_many_pairs_are_cut(dataset):
    assert "(forgotten row = remaining row: 0 = 1, 0 = 2, 0 = 3, 0 = 4, 0 = 5, ...)" in forgotten_twins(
        dataset(*((0, other) for other in range(1, 10))), rows(0))


def test_test_images_that_are_training_images_are_named(dataset):
    assert unseen_twins(dataset((3, 10), (9, 14))).startswith(
        "warning: 2 of 5 test images are training images, pixel by pixel (training row = test row: 3 = 0, 9 = 4); ")


def test_the_numbers_are_those_of_the_users_files(dataset):
    numbers = np.concatenate([np.arange(10) * 10, np.arange(5) * 7])
    found = dataset((3, 9), (3, 14), file_rows=numbers, file_train_size=100)
    assert "30 = 90" in forgotten_twins(found, rows(3))
    assert "30 = 28" in unseen_twins(found)


@pytest.fixture(scope="module")
def pictures():
    """64 pictures (64, 3, 48, 40) uint8: noise, smoothed to resemble photographs."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 6, 5, 3), np.uint8)
    smooth = [np.asarray(Image.fromarray(one).resize((40, 48), Image.BICUBIC)) for one in noise]
    return np.stack(smooth).transpose(0, 3, 1, 2)


def jpeg(picture, quality=40):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file)


EDITS = {"encoded again": jpeg, "brighter": lambda picture: picture.point(lambda value: min(255, int(value * 1.1))),
         "smaller and back": lambda picture: picture.resize((28, 34)).resize((40, 48)),
         "grey": lambda picture: picture.convert("L").convert("RGB")}
MIRRORED = {"mirrored": lambda picture: picture.transpose(Image.FLIP_LEFT_RIGHT),
            "upside down": lambda picture: picture.transpose(Image.FLIP_TOP_BOTTOM)}


def edited(pictures, edit):
    """The pictures as training rows, an edited row 3 among them as row 60; four test rows."""
    pixels = pictures.copy()
    pixels[59] = np.asarray(edit(Image.fromarray(pixels[3].transpose(1, 2, 0)))).transpose(2, 0, 1)
    return Dataset("toy", pixels, np.arange(64) % 3, 60, 3)


@pytest.mark.parametrize("edit", EDITS)
def test_a_picture_that_was_edited_is_nearly_the_same(pictures, edit):
    found = edited(pictures, EDITS[edit])
    ((row, other, correlation),) = near_copies(found, rows(3, 5, 7), np.setdiff1d(found.train_rows, rows(3, 5, 7)))
    assert (row, other) == (3, 59)
    assert 0.985 <= correlation <= 1.0001
    assert forgotten_near_copies(found, rows(3, 5, 7)).startswith(
        "warning: 1 of the remaining training images nearly show what is to be forgotten (forgotten row = remaining "
        "row: 3 = 59); look at them")
    assert forgotten_near_copies(found, rows(3, 59)) is None


@pytest.mark.parametrize("edit", MIRRORED)
def test_a_mirrored_one_is_not_found(pictures, edit):
    """As the docstring says; a hash would not find it either."""
    assert forgotten_near_copies(edited(pictures, MIRRORED[edit]), rows(3)) is None


def test_the_correlation_is_that_of_numpy(pictures):
    found = edited(pictures, jpeg)
    ((_, _, correlation),) = near_copies(found, rows(3), rows(59))
    halves = np.tensordot(found.pixels[[3, 59]], (0.299, 0.587, 0.114), (1, 0)).reshape(2, 1920)  # pooled to 32 x 32
    assert correlation == pytest.approx(np.corrcoef(halves)[0, 1], abs=0.02)


def test_the_same_pixels_are_said_elsewhere(pictures):
    found = edited(pictures, lambda picture: picture)
    assert forgotten_near_copies(found, rows(3)) is None
    assert "3 = 59" in forgotten_twins(found, rows(3))


def test_pictures_of_one_colour_are_like_none(pictures):
    pixels = pictures.copy()
    for row in (3, 59):
        pixels[row] = row
    assert forgotten_near_copies(Dataset("toy", pixels, np.arange(64) % 3, 60, 3), rows(3)) is None


def test_blocks_change_nothing(pictures, monkeypatch):
    found = edited(pictures, jpeg)
    whole = [*near_copies(found, rows(3, 5), np.setdiff1d(found.train_rows, rows(3, 5)))]
    monkeypatch.setattr("amun_ray.data.twins.BLOCK_PIXELS", 10_000)
    parts = [*near_copies(found, rows(3, 5), np.setdiff1d(found.train_rows, rows(3, 5)))]
    assert [one[:2] for one in parts] == [one[:2] for one in whole] == [(3, 59)]


def test_files_are_called_by_their_names(pictures):
    names = tuple(f"cat/{row}.jpg" for row in range(64))
    found = edited(pictures, jpeg)
    named = Dataset("toy", found.pixels, found.labels, 60, 3, paths=names)
    assert "cat/3.jpg = cat/59.jpg" in forgotten_near_copies(named, rows(3))


def test_no_two_digits_are_taken_for_copies():
    """8 x 8 pixels, where one 1 is much like another."""
    digits = load("digits", train_size=1790)
    half = np.sort(np.random.default_rng(1).choice(1790, 600, replace=False))
    assert forgotten_near_copies(digits, half) is None
