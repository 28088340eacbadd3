"""CIFAR by name, against small files in torchvision's own layout; no test asks the network."""

import pickle
import sys
from urllib.error import URLError

import numpy as np
import pytest

from amun_ray import data
from amun_ray.base.errors import UserError
from amun_ray.data import load
from amun_ray.data.dataset import seeded_subset

datasets = pytest.importorskip("torchvision.datasets", exc_type=(ImportError, RuntimeError))


@pytest.fixture
def accept_any_checksum(monkeypatch):
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)


def write_cifar(root, kind, names, labels_key, classes):
    """Four random images in each file `names` of the CIFAR archive `kind`; all pixels in order."""
    folder = root / kind.base_folder
    folder.mkdir()
    draw = np.random.default_rng(0)
    pixels = []
    for name in names:
        data = draw.integers(0, 256, (4, 3072), np.uint8)
        pixels.append(data.reshape(4, 3, 32, 32))
        (folder / name).write_bytes(pickle.dumps({"data": data, labels_key: list(range(4))}))
    meta = {kind.meta["key"]: [f"class {number}" for number in range(classes)]}
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps(meta))
    return np.concatenate(pixels)


@pytest.mark.parametrize(("name", "classes", "labels_key"), [
    ("cifar10", 10, "labels"), ("cifar100", 100, "fine_labels"),
])
def test_both_parts_come_in_one_stack(tmp_path, accept_any_checksum, name, classes, labels_key):
    kind = getattr(datasets, name.upper())
    files = [entry[0] for entry in (*kind.train_list, *kind.test_list)]
    pixels = write_cifar(tmp_path, kind, files, labels_key, classes)
    dataset = load(name, root=tmp_path, download=False)
    np.testing.assert_array_equal(dataset.pixels, pixels)
    assert dataset.train_size == len(pixels) - 4
    assert dataset.classes == classes
    np.testing.assert_array_equal(dataset.labels, np.tile(np.arange(4), len(files)))
    small = load(name, root=tmp_path, download=False, train_size=2, test_size=3)
    assert len(small) == 5
    assert small.train_size == 2
    assert small.pixels.flags.c_contiguous
    np.testing.assert_array_equal(small.pixels[:2], pixels[small.file_rows[:2]])
    np.testing.assert_array_equal(small.pixels[2:], pixels[dataset.train_size:][small.file_rows[2:]])
    assert small.file_train_size == dataset.train_size


def test_a_missing_set_is_said(tmp_path):
    with pytest.raises(UserError, match=f"cifar10: not in '{tmp_path}', and cannot be downloaded: Dataset not found"):
        load("cifar10", root=tmp_path, download=False)


def test_no_network_is_said(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr(datasets.CIFAR100, "download", unreachable)
    with pytest.raises(UserError, match="cifar100: not in .* Name or service not known.*use the dataset 'parquet'"):
        load("cifar100", root=tmp_path)


def test_no_torchvision_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UserError, match="cifar10 needs a torchvision that fits this torch"):
        load("cifar10", root=tmp_path)


def test_a_plan_knows_the_sizes_of_a_set_that_is_not_there(tmp_path):
    whole = data.load_for_plan("cifar100", root=str(tmp_path))
    assert (whole.train_size, len(whole), whole.classes, whole.pixels.shape[1:]) == (50_000, 60_000, 100, (3, 32, 32))
    part = data.load_for_plan("cifar10", root=str(tmp_path), train_size=100, test_size=20)
    assert (part.train_size, len(part), part.file_train_size) == (100, 120, 50_000)
    np.testing.assert_array_equal(part.file_rows[:100], seeded_subset(50_000, 100, "train_size", 0))
    np.testing.assert_array_equal(whole.first_alike, np.arange(60_000))  # no picture is there twice
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="train_size"):
        data.load_for_plan("cifar10", root=str(tmp_path), train_size=50_001)
