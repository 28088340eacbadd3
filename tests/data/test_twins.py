"""The same picture twice: in D_F and D_R, in training and test."""

import numpy as np
import pytest

from amun_ray.data.dataset import Dataset
from amun_ray.data.twins import forgotten_twins, twins, unseen_twins


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
        "warning: 2 of 5 test images are training images, pixel by pixel (training row = test row: 3 = 0, 9 = 4); what")


def test_the_numbers_are_those_of_the_users_files(dataset):
    numbers = np.concatenate([np.arange(10) * 10, np.arange(5) * 7])
    found = dataset((3, 9), (3, 14), file_rows=numbers, file_train_size=100)
    assert "30 = 90" in forgotten_twins(found, rows(3))
    assert "30 = 28" in unseen_twins(found)
