"""Rows of an array, in memory or in a mapped file, written by many threads."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from amun_ray.base.errors import StorageError
from amun_ray.data.rows import Rows

SHAPE = (40, 3, 5, 7)


@pytest.fixture
def mapped(tmp_path):
    return np.memmap(tmp_path / "pixels.u8", np.uint8, "w+", shape=SHAPE)


@pytest.mark.parametrize("place", ["memory", "file"])
def test_rows_written_by_many_threads_are_where_they_belong(mapped, place):
    images = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    pixels = mapped if place == "file" else np.empty(SHAPE, np.uint8)
    rows = Rows(pixels)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda row: rows.__setitem__(row, images[row]), reversed(range(len(images)))))
    rows.close()
    assert (rows.pixels == images).all()
    if place == "file":
        assert (np.fromfile(mapped.filename, np.uint8) == images.ravel()).all()


def test_a_grey_row_is_repeated_over_the_channels(mapped):
    rows = Rows(mapped)
    rows[7] = np.arange(35, dtype=np.uint8).reshape(1, 5, 7)
    rows.close()
    assert (mapped[7] == np.arange(35).reshape(5, 7)).all()
    assert not mapped[[6, 8]].any()


def test_a_system_call_that_writes_a_part_is_followed_by_another(mapped, monkeypatch):
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, place: write(file, content[:10], place))
    rows = Rows(mapped)
    rows[3] = np.arange(105, dtype=np.uint8).reshape(3, 5, 7)
    assert (mapped[3].ravel() == np.arange(105)).all()


def test_a_full_disk_is_an_error_that_names_the_file(mapped, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StorageError, match=f"{mapped.filename}: decoded images cannot be kept here: .*No space left"):
        Rows(mapped)[0] = np.zeros(SHAPE[1:], np.uint8)
