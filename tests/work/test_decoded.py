"""Decoded pixels that a purge deletes: all that may hold a forgotten picture, wherever they lie, and nothing else."""

import tempfile

import numpy as np
import pytest

from amun_ray.data import keep as keeping
from amun_ray.data.dataset import Dataset
from amun_ray.data.keep import Left
from amun_ray.storage.pixels import copies_of_node, keep_in
from amun_ray.storage.store import Store
from amun_ray.work import decoded
from amun_ray.work.copies import Forgotten

ROWS = np.array([2, 5], np.int64)


@pytest.fixture(autouse=True)
def _places(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "KEPT_FROM", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))
    (tmp_path / "node").mkdir()


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def drawn(seed: int, side: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (12, 1, side, side), np.uint8)


def kept(store: Store, key: str, pixels: np.ndarray) -> Dataset:
    """An entry with these pixels, as a sweep makes it."""
    keep = keep_in(store)
    room = keep.room(pixels.shape)
    room[:] = pixels
    keep.put(key, dataset_of(room), Left([], ""))
    return dataset_of(keep.find(key).pixels)


def dataset_of(pixels: np.ndarray) -> Dataset:
    return Dataset("made", pixels, np.arange(len(pixels), dtype=np.int64) % 2, 8, 2)


def test_an_entry_goes_unless_it_is_known_to_hold_none_of_the_pictures(store):
    pixels, other, near = drawn(0), drawn(1), drawn(2)
    near[7] = np.clip(pixels[5].astype(int) + 1, 0, 255)
    wanted = Forgotten(kept(store, "mine", pixels), ROWS, 0.1)
    for key, content in (("near", near), ("other", other), ("size", drawn(3, 5)), ("damaged", drawn(4))):
        kept(store, key, content)
    folder = decoded.Path(store.locate("pixels"))
    (folder / "damaged" / "facts.json").write_text("{")
    found = {decoded.Path(one.name).name: one for one in decoded.found([store], wanted)}
    assert found.keys() == {"mine", "near", "size", "damaged"}
    assert "of this dataset" in found["mine"].why
    assert "picture 7 is within 0.0157 of forgotten row 5" in found["near"].why  # 4 pixels x (1 / 255)^2, rooted
    assert found["mine"].bytes == sum(file.stat().st_size for file in (folder / "mine").iterdir())
    for one in found.values():
        decoded.delete(one)
        decoded.delete(one)  # what is gone is well
    assert [path.name for path in folder.iterdir()] == ["other"]
    np.testing.assert_array_equal(wanted.dataset.pixels, pixels)  # mapped: still to be searched with
    assert not list(decoded.found([store], wanted))


def test_copies_of_this_node_and_what_killed_sweeps_left_go_and_living_ones_stay(store, tmp_path):
    wanted = Forgotten(dataset_of(drawn(0)), ROWS, 0.1)
    copies_of_node().mkdir()
    assert copies_of_node().parent == tmp_path / "node"
    for name in ("a" * 64, "b.partial", "a.lock"):
        (copies_of_node() / name).write_bytes(b"123")
    store.put("scratch/elsewhere:12345678:1:abcdefgh/pixels-1/pixels.u8", b"12345")
    store.put(f"scratch/{store.owner}/pixels-2/pixels.u8", b"mine")
    found = list(decoded.found([store], wanted))
    assert [(one.room, one.bytes) for one in found] == [("pixels", 5), ("pixels", 3), ("pixels", 3)]
    for one in found:
        decoded.delete(one)
    assert [path.name for path in copies_of_node().iterdir()] == ["a.lock"]
    assert list(store.sizes("scratch")) == [f"scratch/{store.owner}/pixels-2/pixels.u8"]
