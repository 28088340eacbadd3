import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amun_ray.base.status import Status
from amun_ray.data.shards import COLUMNS, decode, encode, verify
from amun_ray.storage.store import Store, Unit

ORIGIN = {"model": "a" * 64, "dataset": "b" * 64, "indices": "c" * 64, "settings": "d" * 64}


def make_rows(count=5, shape=(3, 4, 6)):
    draw = np.random.default_rng(0)
    rows = {name: draw.integers(0, 100, count).astype(dtype) for name, (dtype, _) in COLUMNS.items()}
    return rows | {"image": draw.random((count, *shape), np.float32), "status": (np.arange(count) % 3).astype(np.int8)}


@pytest.mark.parametrize("count", [0, 1, 5])
def test_rows_come_back_bit_for_bit(count):
    rows = make_rows(count)
    columns, metadata = decode(encode(rows, metadata=ORIGIN))
    assert metadata | ORIGIN == metadata
    assert columns.keys() == rows.keys()
    for name, column in columns.items():
        assert column.dtype == rows[name].dtype
        np.testing.assert_array_equal(column, rows[name])


def test_images_of_several_row_groups_come_back(monkeypatch):
    rows = make_rows(7)
    monkeypatch.setattr(pq, "write_table", lambda *a, write=pq.write_table, **k: write(*a, row_group_size=3, **k))
    np.testing.assert_array_equal(decode(encode(rows, metadata={}))[0]["image"], rows["image"])


def test_equal_rows_are_equal_bytes():
    rows = make_rows()
    turned = dict(reversed(ORIGIN.items()))
    strided = rows | {"image": np.asfortranarray(rows["image"])}
    assert encode(rows, metadata=ORIGIN) == encode(strided, metadata=turned)
    assert encode(rows, metadata=ORIGIN) != encode(rows, metadata=ORIGIN | {"model": "e" * 64})


def test_images_are_read_without_a_copy(tmp_path):
    store, unit, rows = Store(str(tmp_path)), Unit("sets", {}), make_rows(300, (3, 32, 32))
    store.write(unit, "0.parquet", encode(rows, metadata=ORIGIN))
    mapped = store.content(unit, "0.parquet")
    assert verify(mapped, ORIGIN) is None
    columns, _ = decode(mapped)
    assert not columns["image"].flags.owndata
    store.delete(unit, "0.parquet")
    np.testing.assert_array_equal(columns["image"], rows["image"])  # the buffers outlive the file


def test_the_schema_explains_itself():
    schema = pq.read_schema(pa.BufferReader(encode(make_rows(), metadata=ORIGIN)))
    assert schema.names == list(COLUMNS)
    assert all(schema.field(name).metadata[b"meaning"] for name in COLUMNS)
    assert schema.field("l2").metadata[b"meaning"] == b"L2 distance of the image from the clean one, pixels in [0, 1]"
    assert schema.field("status").metadata[b"meaning"] == b"0 flipped; 1 already_wrong; 2 failed"
    assert schema.field("eps").metadata[b"meaning"].startswith(b"radius the search ended with, in the norm of the att")
    assert [status.value for status in Status] == [0, 1, 2]


@pytest.mark.parametrize(("change", "message"), [
    ({"l2": np.zeros(5, np.float64)}, "'l2': expected 5 rows of float32 in 1 dimensions, found float64"),
    ({"label": np.zeros(4, np.int64)}, r"'label': expected 5 rows .* found int64 \(4,\)"),
    ({"image": np.zeros((5, 4, 6), np.float32)}, "'image': .* in 4 dimensions"),
    ({"image": np.full((5, 1, 4, 6), 1.5, np.float32)}, r"must lie in \[0, 1\], found \[1.5, 1.5\]"),
    ({"image": np.full((5, 1, 4, 6), np.nan, np.float32)}, r"must lie in \[0, 1\], found \[nan, nan\]"),
    ({"more": np.zeros(5)}, "a shard has the columns"),
])
def test_rows_that_are_no_shard_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        encode(make_rows() | change, metadata={})


def test_metadata_cannot_replace_the_digest():
    with pytest.raises(ValueError, match="the key 'content' is written by `encode`"):
        encode(make_rows(), metadata={"content": "0"})


def test_verify_accepts_its_own_shard_and_names_a_foreign_one():
    shard, other = encode(make_rows(), metadata=ORIGIN), pa.BufferOutputStream()
    for source in (shard, pa.py_buffer(shard)):
        assert verify(source, ORIGIN) is None
        assert verify(source, {}) is None
        foreign = ORIGIN | {"model": "f" * 64}
        assert verify(source, foreign) == "made from model aaaaaaaaaaaa, this run uses ffffffffffff"
        assert verify(source, {"weather": "rain"}) == "made from weather unknown, this run uses rain"
    pq.write_table(pa.table({"index": [1]}), other)
    assert "not a shard of format" in verify(other.getvalue(), ORIGIN)


def test_verify_finds_every_cut_and_every_changed_value():
    rows = make_rows()
    whole = encode(rows, metadata=ORIGIN)
    for length in range(0, len(whole), 211):
        assert "damaged" in verify(whole[:length], ORIGIN)
    for position in random.Random(0).sample(range(len(whole)), 400):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        if verify(bytes(damaged), ORIGIN) is None:  # a byte that carries no value, e.g. the writer's version
            np.testing.assert_equal(decode(bytes(damaged))[0], rows)
