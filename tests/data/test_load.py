"""DATASETS: every row loads, and a user's mistake is one line."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.datasets

from amun_ray.base.errors import UserError
from amun_ray.base.names import allow
from amun_ray.data import DATASETS, check, further, load
from amun_ray.data.dataset import Dataset, permutation

allow([__name__, "no_such_module"])


def own_dataset(*, rows, **anything):
    """What a user's module may hold."""
    assert not anything or anything == {"colour": "blue"}
    return Dataset("own", np.zeros((rows, 1, 4, 4), np.uint8), np.zeros(rows, np.int64), 2, 2)


def no_dataset():
    return "a path"


def test_digits_are_the_whole_set_in_bytes():
    digits = load("digits")
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    order = permutation(1797, 0, "digits")
    assert np.array_equal(digits.pixels.reshape(1797, 64), np.rint(images[order] * 255 / 16))
    assert np.array_equal(digits.labels, labels[order])
    assert digits.pixels.shape == (1797, 1, 8, 8)
    assert digits.train_size == 700
    assert digits.classes == 10
    assert digits.pixels.min() == 0
    assert digits.pixels.max() == 255
    assert np.bincount(digits.labels[:700]).min() > 40  # the set is balanced, so a shuffled part nearly is
    levels = np.unique(digits.pixels)
    np.testing.assert_array_equal(levels, np.rint(np.arange(17) * 255 / 16))


def test_digits_depend_on_the_seed_alone():
    assert load("digits").digest == load("digits", seed=0).digest
    assert load("digits").digest != load("digits", seed=1).digest
    assert load("digits", train_size=500).train_size == 500


@pytest.mark.parametrize("train_size", [0, 1797])
def test_digits_need_rows_on_both_sides(train_size):
    with pytest.raises(UserError, match=f"digits: .*train_size={train_size}"):
        load("digits", train_size=train_size)


def test_a_users_own_dataset_is_called_by_its_name():
    assert load(f"{__name__}:own_dataset", rows=5, colour="blue").name == "own"


def broken_dataset():
    raise FileNotFoundError("no photos here\nnor there")


def missing_file():
    return np.load("nowhere.npy")  # the error comes out of a file of numpy's


def leaves():
    raise SystemExit(3)


def lists():
    return Dataset("own", np.zeros((4, 1, 4, 4), np.uint8), [0, 1, 0, 1], 2, 2)


@pytest.mark.parametrize(("name", "settings", "message"), [
    (f"{__name__}:broken_dataset", {}, r"FileNotFoundError: no photos here \(.*test_load.py, line \d+\)$"),
    (f"{__name__}:missing_file", {}, r"FileNotFoundError: .*'nowhere.npy' \(.*test_load.py, line \d+\)$"),
    (f"{__name__}:leaves", {}, r"SystemExit: 3 \(.*test_load.py, line \d+\)$"),
    (f"{__name__}:lists", {}, "own: labels must be a numpy array, found list"),
    ("digit", {}, "unknown dataset 'digit'; did you mean 'digits'"),
    ("digits", {"train_sise": 5}, "dataset 'digits' has no setting 'train_sise'; did you mean 'train_size'"),
    ("parquet", {"train": "a"}, "dataset 'parquet' needs the setting 'test'"),
    ("cifar10", {}, "dataset 'cifar10' needs the setting 'root'"),
    ("no_such_module:data", {}, "module 'no_such_module' cannot be imported"),
    (f"{__name__}:DATASETS", {}, "must be a callable"),
    (f"{__name__}:no_dataset", {}, "must return a Dataset, found str"),
])
def test_mistakes_are_named(name, settings, message):
    with pytest.raises(UserError, match=message):
        load(name, **settings)


@pytest.mark.parametrize("name", DATASETS)
def test_check_reads_nothing(name):
    settings = {"digits": {}, "folder": {"train": "nowhere"}, "huggingface": {"path": "nowhere"},
                "parquet": {"train": "nowhere", "test": "nowhere"}}.get(name, {"root": "nowhere"})
    assert check(name, **settings) is DATASETS[name]


def test_a_further_column_counts_over_the_files_in_their_order(tmp_path):
    for name, column in (("b", pa.array(["x", "y"]).dictionary_encode()), ("a", pa.array(["z"])), ("c", pa.array([7]))):
        pq.write_table(pa.table({"person": column}), tmp_path / f"{name}.parquet")
    one, two, other = (str(tmp_path / f"{name}.parquet") for name in "bac")
    assert further("parquet", "person", train=one, test="nowhere").to_pylist() == ["x", "y"]
    assert further("parquet", "person", train=[one, two]).to_pylist() == ["x", "y", "z"]
    with pytest.raises(UserError, match="c.parquet: column 'person' is of int64, in .*b.parquet of string"):
        further("parquet", "person", train=[one, other])
    with pytest.raises(UserError, match="only data.name: huggingface and parquet have further columns, not digits"):
        further("digits", "person")
