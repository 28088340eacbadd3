"""Made-up forget lists and parquet files: read to the last row, or refused in one short line."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fuzzing import FUZZ
from hypothesis import given
from hypothesis import strategies as st
from views import BINARY_VIEWS, TEXT_VIEWS

from amun_ray.base.errors import UserError
from amun_ray.data import load
from amun_ray.data.indices import COLUMNS, read_indices

TRAIN_SIZE = 30
PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
                    "0000000a49444154789c636000000002000148afa4710000000049454e44ae426082")  # one black pixel

cells = st.one_of(st.integers(-2, 40).map(str), st.text(max_size=6),
                  st.sampled_from([*COLUMNS, "", " ", "12.0", '"', "a\nb", "#", "\0", "\u200b1"]))
lines = st.lists(st.tuples(st.lists(cells, min_size=1, max_size=3), st.sampled_from([",", ";", "\t", " "])).map(
    lambda line: line[1].join(line[0])), max_size=8)
texts = st.tuples(lines, st.sampled_from(["\n", "\r\n", "\r"]), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])).map(
    lambda made: made[1].join(made[0]).encode(made[2], "surrogatepass"))
HEADS = st.sampled_from([b"", b"PAR1", b"\x93NUMPY\1\0", b"\x1f\x8b", b"PK\3\4", b"\xff\xfe"])
contents = st.one_of(texts, st.tuples(HEADS, st.binary(max_size=60)).map(b"".join))

integers = st.lists(st.one_of(st.none(), st.integers(-1, 5)), min_size=3, max_size=3)
COLUMN = st.one_of(
    st.tuples(integers, st.sampled_from([pa.int64(), pa.int8(), pa.float32(), pa.string(), pa.decimal128(9, 2)])),
    st.tuples(st.just([0, 1, 2]), st.sampled_from([pa.timestamp("ns"), pa.duration("s"), pa.uint64(), pa.date32()])),
    st.tuples(st.lists(st.integers(2**63 - 2, 2**64 - 1), min_size=3, max_size=3), st.just(pa.uint64())),
    st.tuples(st.lists(st.text(max_size=4), min_size=3, max_size=3), st.sampled_from([pa.string(), *TEXT_VIEWS])),
    st.tuples(st.lists(st.booleans(), min_size=3, max_size=3), st.just(pa.bool_())),
    st.tuples(st.lists(st.one_of(st.none(), st.just(PNG), st.binary(max_size=80)), min_size=3, max_size=3),
              st.sampled_from([pa.binary(), *BINARY_VIEWS, pa.large_binary()])),
    st.tuples(st.lists(st.sampled_from([None, {"bytes": PNG}, {"path": "a.png"}]), min_size=3, max_size=3),
              st.just(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))),
)
NAMES = st.sampled_from(["image", "label", "index", "row", "0", "", "a\nb", "x.y"])


def refused_in_one_line(error: UserError) -> None:
    text = str(error)
    assert text
    assert len(text.splitlines()) == 1
    assert len(text) < 1500



def array(values, kind):
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, TypeError):
        return pa.array([None] * len(values), kind)


@FUZZ
@given(contents)
def test_a_forget_list_is_read_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "request.csv")
        path.write_bytes(content)
        try:
            found = read_indices(path, TRAIN_SIZE)
        except UserError as error:
            refused_in_one_line(error)
            return
    assert 1 <= len(found.rows) <= TRAIN_SIZE
    assert (np.diff(found.rows) > 0).all()
    assert found.rows[0] >= 0
    assert found.rows[-1] < TRAIN_SIZE


@FUZZ
@given(st.sets(st.integers(0, TRAIN_SIZE - 1), min_size=1), st.sampled_from([None, *COLUMNS]),
       st.sampled_from([",", ";", "\t"]), st.integers(0, 2), st.integers(0, 2),
       st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]), st.randoms(use_true_random=False))
def test_a_sound_list_is_read_to_the_last_row(wanted, header, separator, before, after, encoding, random):
    """Whatever stands beside the column; nothing is dropped and nothing is added."""
    rows = random.sample(sorted(wanted), len(wanted))
    if header is None:
        before = after = 0
        rows.sort(key=lambda row: row == 0)  # a bare 0 may not come first
        if rows == [0]:
            return
    table = ([[*["other"] * before, header, *["more"] * after]] if header else []) + [
        [*["x"] * before, str(row), *["y"] * after] for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "request.csv")
        path.write_bytes("\n".join(separator.join(line) for line in table).encode(encoding))
        assert read_indices(path, TRAIN_SIZE).rows.tolist() == sorted(wanted)


@FUZZ
@given(st.lists(st.tuples(NAMES, COLUMN), min_size=1, max_size=3), st.integers(0, 2), st.data())
def test_a_parquet_file_is_read_or_refused(columns, damage, draw):
    """As a list and as images; whole, with one byte changed, or cut."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.parquet")
        arrays = [array(values, kind) for _, (values, kind) in columns]
        pq.write_table(pa.Table.from_arrays(arrays, [name for name, _ in columns]), path)
        content = bytearray(path.read_bytes())
        if damage == 1:
            content[draw.draw(st.integers(0, len(content) - 1))] ^= draw.draw(st.integers(1, 255))
        path.write_bytes(content[:draw.draw(st.integers(0, len(content)))] if damage == 2 else content)
        try:
            found = read_indices(path, TRAIN_SIZE)
            assert len(np.unique(found.rows)) == len(found.rows) > 0
        except UserError as error:
            refused_in_one_line(error)
        try:
            dataset = load("parquet", train=path, test=path)
            assert dataset.labels.max() < dataset.classes
        except UserError as error:
            refused_in_one_line(error)
