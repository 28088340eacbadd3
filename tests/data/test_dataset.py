from dataclasses import replace

import numpy as np
import pytest

from amun_ray.base.errors import UserError
from amun_ray.data.dataset import Dataset, permutation, seeded_subset


def make(count=10, train_size=7, classes=3, name="toy", channels=2):
    pixels = np.random.default_rng(0).integers(0, 256, (count, channels, 4, 5), np.uint8)
    return Dataset(name, pixels, np.arange(count, dtype=np.int64) % classes, train_size, classes)


def test_rows_split_the_stack():
    dataset = make()
    assert len(dataset) == 10
    assert dataset.channels == 2
    assert dataset.size == 4
    np.testing.assert_array_equal(np.concatenate([dataset.train_rows, dataset.test_rows]), np.arange(10))
    assert len(dataset.train_rows) == 7
    assert dataset.train_rows.dtype == dataset.test_rows.dtype == np.int64


def test_without_some_rows_the_others_keep_their_pictures_names_and_numbers():
    whole = replace(make(), paths=tuple(f"{row}.png" for row in range(10)))
    once = whole.without(np.array([1, 4]), "two are gone")
    rest = once.without(np.array([2]), "another")  # row 3 of the user's files
    for found, rows in ((once, [0, 2, 3, 5, 6]), (rest, [0, 2, 5, 6])):
        assert found.train_size == len(rows)
        assert found.file_train_size == 7
        assert found.file_numbers.tolist() == [*rows, 0, 1, 2]  # D_T has a file of its own
        assert found.paths == tuple(f"{row}.png" for row in [*rows, 7, 8, 9])
        np.testing.assert_array_equal(found.pixels, whole.pixels[[*rows, 7, 8, 9]])
        np.testing.assert_array_equal(found.labels, whole.labels[[*rows, 7, 8, 9]])
    assert rest.notes == (*whole.notes, "two are gone", "another")


def test_digest_follows_the_contents_and_not_the_name():
    dataset = make()
    assert dataset.digest == make(name="other").digest
    assert len(dataset.digest) == 64
    assert dataset.digest != make(train_size=6).digest
    changed = dataset.pixels.copy()
    changed[9, 1, 3, 4] ^= 1
    assert dataset.digest != Dataset("toy", changed, dataset.labels, 7, 3).digest
    assert dataset.digest != Dataset("toy", dataset.pixels, dataset.labels[::-1].copy(), 7, 3).digest


def test_digest_ignores_the_memory_layout():
    dataset = make()
    strided = np.asfortranarray(dataset.pixels)
    assert Dataset("toy", strided, dataset.labels, 7, 3).digest == dataset.digest


def test_statistics_are_those_of_the_training_rows(monkeypatch):
    monkeypatch.setattr("amun_ray.data.dataset.STATISTICS_PIXELS", 48)  # several blocks, the last one short
    dataset = make()
    mean, std = dataset.statistics
    unit = dataset.pixels[:7].astype(np.float64) / 255
    np.testing.assert_allclose(mean, unit.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, unit.std((0, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize(("change", "message"), [
    ({"pixels": np.full((10, 1, 4, 4), 0.5, np.float32)}, r"found float32 \(10, 1, 4, 4\), values in \[0.5, 0.5\]"),
    ({"pixels": np.zeros((10, 4, 4), np.uint8)}, r"found uint8 \(10, 4, 4\)"),
    ({"labels": np.zeros(9, np.int64)}, r"labels must be int64 of shape \(10,\), found int64 \(9,\)"),
    ({"labels": np.zeros(10, np.int32)}, "found int32"),
    ({"labels": np.array([0, 1, 0, 1, 5, 0, 1, 0, 1, 7])}, r"row 4: label 5 is outside the classes 0..2"),
    ({"labels": np.array([0, 1, 0, -1, 0, 0, 1, 0, 1, 0])}, r"row 3: label -1"),
    ({"train_size": 10}, "train_size=10"),
    ({"train_size": 0}, "train_size=0"),
    ({"train_size": "7"}, "train_size must be a whole number, found '7'"),
    ({"classes": 1}, "at least 2 classes"),
    ({"classes": None}, "classes must be a whole number, found None"),
    ({"pixels": np.zeros((10, 1, 0, 4), np.uint8)}, r"images must be uint8 of shape .*, found uint8 \(10, 1, 0, 4\)"),
    ({"file_rows": list(range(10))}, "file_rows must hold a number for each of 10 rows"),
    ({"labels": [0] * 10}, "labels must be a numpy array, found list"),
    ({"pixels": "pictures"}, "images must be a numpy array, found str"),
    ({"file_rows": np.arange(9)}, "file_rows must hold a number for each of 10 rows, rising among the training rows"),
    ({"file_rows": np.array([0, 2, 1, 3, 4, 5, 6, 0, 1, 2])}, "file_rows must .* rising among the training rows"),
])
def test_wrong_contents_are_refused(change, message):
    whole = {"name": "toy", "pixels": np.zeros((10, 1, 4, 4), np.uint8), "labels": np.zeros(10, np.int64),
             "train_size": 7, "classes": 3}
    with pytest.raises(UserError, match=message):
        Dataset(**(whole | change))


def test_subsets_are_sorted_seeded_and_independent_of_each_other():
    rows = seeded_subset(100, 30, "train_size", 0)
    assert len(rows) == 30
    assert (np.diff(rows) > 0).all()
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(rows, seeded_subset(100, 30, "train_size", 0))
    assert (rows != seeded_subset(100, 30, "train_size", 1)).any()
    assert (rows != seeded_subset(100, 30, "test_size", 0)).any()
    np.testing.assert_array_equal(seeded_subset(4, None, "train_size", 0), np.arange(4))


@pytest.mark.parametrize("wanted", [0, -1, 101])
def test_a_subset_that_does_not_exist_is_refused(wanted):
    with pytest.raises(UserError, match=f"`1 <= train_size <= 100` must hold.*train_size={wanted}"):
        seeded_subset(100, wanted, "train_size", 0)


def test_permutation_has_every_row_once():
    order = permutation(50, 3, "anything")
    np.testing.assert_array_equal(np.sort(order), np.arange(50))
    np.testing.assert_array_equal(order, permutation(50, 3, "anything"))
