import gzip

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from views import TEXT_VIEWS

from amun_ray.base.errors import UserError
from amun_ray.data import indices
from amun_ray.data.indices import COLUMNS, read_indices


@pytest.fixture
def request_file(tmp_path):
    """Write a request; its path."""

    def request_file(content, name="request.csv"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return request_file


@pytest.mark.parametrize(("text", "column"), [
    ("3\n1\n2\n", None),
    ("index\n3\n1\n2\n", "index"),
    ("row\r\n3\r\n1\r\n2", "row"),
    ("Idx\r3\r1\r2\r", "Idx"),
    ("\ufeffindex\n3\n\n1\n2\n", "index"),
    ("name,index\na,3\nb,1\nc,2\n", "index"),
    ("label_1,row\na,3\nb,1\nc,2\n", "row"),
    ('"index"\n" 3"\n"1"\n"2"\n', "index"),
    ("\n \nindex,,\n3,,\n1\n2,\n", "index"),  # empty cells at the end say nothing
    ("name;index\na;3\nb,b;1\nc;2\n", "index"),
    ("index\tname\n3\ta\n1\tb\n2\tc\n", "index"),
    ("3.0\n1.0\n+2.\n", None),
    ('name,index\n"two\nlines",3\nb,1\nc,2\n', "index"),
])
def test_text_requests(request_file, text, column):
    found = read_indices(request_file(text), 4)
    np.testing.assert_array_equal(found.rows, [1, 2, 3])
    assert found.rows.dtype == np.int64
    assert found.column == column


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["request.txt", "request.csv", "request"])
def test_a_request_is_told_by_its_content_and_not_by_its_name(request_file, encoding, name):
    content = "index\n3\n1\n2\n".encode(encoding)
    for written in (content, gzip.compress(content)):
        np.testing.assert_array_equal(read_indices(request_file(written, name), 4).rows, [1, 2, 3])


@pytest.mark.parametrize("name", ["request.parquet", "request.pq", "REQUEST.PARQUET", "request.csv"])
@pytest.mark.parametrize(("table", "column"), [
    ({"row": [3, 1, 2]}, "row"),
    ({"index": pa.array([3, 1, 2], pa.uint8()), "why": ["a", "b", "c"]}, "index"),
    ({"index": [3.0, 1.0, 2.0]}, "index"),
    ({"index": pa.array([3, 1, 2]).dictionary_encode()}, "index"),
    *[({"index": pa.array(["3", "1", "2"], kind)}, "index") for kind in TEXT_VIEWS],
])
def test_parquet_requests(tmp_path, table, column, name):
    path = tmp_path / name
    pq.write_table(pa.table(table), path)
    found = read_indices(path, 4)
    np.testing.assert_array_equal(found.rows, [1, 2, 3])
    assert found.column == column
    np.testing.assert_array_equal(read_indices(path.as_uri(), 4).rows, [1, 2, 3])


@pytest.mark.parametrize("kind", ["<i8", ">i4", "u1", "u8"])
def test_array_requests(tmp_path, kind):
    np.save(tmp_path / "rows.npy", np.array([3, 1, 2], kind))
    found = read_indices(tmp_path / "rows.npy", 4)
    np.testing.assert_array_equal(found.rows, [1, 2, 3])
    assert found.column is None


def test_every_training_row_may_be_listed_and_no_line_beyond_is_left_unread(tmp_path, request_file):
    np.save(tmp_path / "rows.npy", np.arange(4))
    pq.write_table(pa.table({"row": np.arange(4)}), tmp_path / "rows.parquet")
    for path in (tmp_path / "rows.npy", tmp_path / "rows.parquet", request_file("row\n0\n1\n2\n3\n")):
        assert read_indices(path, 4).rows.tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match="line 6: row number 3 is named twice, first in line 5"):
        read_indices(request_file("row\n0\n1\n2\n3\n3\n"), 4)


def test_bytes_behind_an_array_are_none_of_its_rows(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.array([3, 1]))
    path.write_bytes(path.read_bytes() + np.array([2]).tobytes())
    assert read_indices(path, 4).rows.tolist() == [1, 3]


def test_an_index_that_pandas_kept_by_name_stands_beside_the_rows(tmp_path):
    frame = pd.DataFrame({"row": [3, 1, 2]}, index=pd.Index(["a", "b", "c"], name="case"))
    frame.to_parquet(tmp_path / "request.parquet")
    assert read_indices(tmp_path / "request.parquet", 4).rows.tolist() == [1, 2, 3]


def test_a_list_may_be_as_long_as_the_training_set_allows(request_file, monkeypatch):
    monkeypatch.setattr(indices, "BYTES_AT_LEAST", 4)
    monkeypatch.setattr(indices, "BYTES_PER_ROW", 2)
    assert read_indices(request_file("3\n1\n2\n0\n"), 4).rows.tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match="for a training set of 4 rows; keep the column of row numbers alone"):
        read_indices(request_file("index\n0\n1\n2\n3\n"), 4)


def test_what_pandas_writes_is_read_where_it_can_mean_one_thing(tmp_path):
    frame = pd.DataFrame({"label": range(200)})
    chosen = frame[frame.label.isin([12, 15, 20])]
    chosen.reset_index().to_csv(tmp_path / "request.csv", index=False)
    pd.DataFrame({"index": chosen.index}).to_parquet(tmp_path / "request.parquet")
    for name in ("request.csv", "request.parquet"):
        np.testing.assert_array_equal(read_indices(tmp_path / name, 200).rows, [12, 15, 20])


def test_what_pandas_writes_is_refused_where_it_can_mean_two_things(tmp_path):
    frame = pd.DataFrame({"label": range(200), "index": range(200)})
    rows, chosen = pd.Series([12, 15, 20]), frame[["label"]][frame.label.isin([5, 20, 21])]
    for name, write, message in [
        ("labels.parquet", frame[["label"]].iloc[10:14].to_parquet, "'label': no header that means row numbers"),
        ("slice.parquet", frame[["index"]].iloc[10:14].to_parquet, r"pandas kept the index 10\.\.14 of a slice"),
        ("filtered.parquet", chosen.to_parquet, "label, __index_level_0__: no header"),
        ("filtered.csv", chosen.to_csv, "line 1: '', label: no header"),
        ("series.csv", lambda path: rows.to_csv(path, index=False), "line 1: '0' may be row 0, or the header"),
        ("numbered.csv", rows.to_csv, "line 1: '', 0: no header"),
    ]:
        write(tmp_path / name)
        with pytest.raises(UserError, match=f"{name}: {message}"):
            read_indices(tmp_path / name, 200)


@pytest.mark.parametrize(("text", "message"), [
    ("", "no row numbers"),
    ("index\n", "no row numbers"),
    ("index\n1\nabc\n-4\n", "line 3: 'abc' is not a row number"),
    ("1\n2\n2.5\n", "line 3: '2.5' is not a row number"),
    ("1\n1e0\n", "line 2: '1e0' is not a row number"),
    ("1\n\u0663\n", "line 2: '\u0663' is not a row number"),  # a digit to Python, a letter to a reader
    ("1\n99999999999999999999\n", "line 2: '99999999999999999999' is not a row number"),
    ("index\n1\n-1\n-2\n", "line 3: row number -1 is negative"),
    ("1\n\n10\n-1", "line 3: row number 10 is beyond the training set, whose rows are 0..9"),
    ("5\n1\n5\n1\n99\n", "line 3: row number 5 is named twice, first in line 1"),
    ("0\n5\n", "line 1: '0' may be row 0, or the header that pandas gives a column without a name"),
    # the first line is a header of a known name, or a number: never dropped
    ("nan\n2\n", "line 1: 'nan': no header that means row numbers"),
    ("17  # case 4711\n20\n44\n", "line 1: '17  # case 4711': no header .*write one row number"),
    ("1 17\n20\n", "line 1: '1 17': no header"),
    ("\u200b17\n20\n", r"line 1: '\\u200b17': no header"),
    ("1;2\n3;4\n", "line 1: 1, 2: no header that means row numbers"),
    ("a,b\n1,2\n", "line 1: a, b: no header that means row numbers"),
    ("label\n1\n", "line 1: 'label': no header"),
    ("row1\n1\n", "line 1: 'row1': no header"),
    ("index,row\n1,2\n", "line 1: several columns may hold the row numbers: index, row"),
    ("index,index\n1,2\n", "line 1: several columns may hold the row numbers: index, index"),
    ("index,a;b\n1,2\n", "line 1: 'index,a;b' has several kinds of separator: comma and semicolon"),
    # every line has as many cells as the first one: none is cut off
    ("index\n12,15,20\n", "line 2: '12,15,20' has 3 cells, the first line has 1; write one row number"),
    ("12\n15,20\n", "line 2: '15,20' has 2 cells, the first line has 1"),
    ("index,name\n1\n", "line 2: '1' has 1 cells, the first line has 2"),
    ("name,index\na,1\nb\n", "line 3: 'b' has 1 cells, the first line has 2"),
    ("name,index\na,1,9\n", "line 2: 'a,1,9' has 3 cells, the first line has 2"),
    ("name,index\na,\n", "line 2: '' is not a row number"),
    ('index\n"1\n', "line 2: cannot be read as csv"),
    ("\udce4", "cannot be read as csv, parquet or .npy"),
    ("i\0n\0d\0", "cannot be read as csv: NUL characters"),
    (",".join(map(str, range(10**5))), "line 1: longer than 65,536 characters"),
    (",".join(f"c{number}" for number in range(10**4)) + "\n1", "c7 and 9,992 more: no header"),
])
def test_bad_text_requests_name_the_first_offending_line(request_file, text, message):
    with pytest.raises(UserError, match=f"request.csv: .*{message}") as error:
        read_indices(request_file(text.encode("utf-8", "surrogateescape")), 10)
    assert len(str(error.value)) < 600
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("values", "message"), [
    (pa.array([], pa.int64()), "no row numbers"),
    (["a", "b"], "row 0: row number 'a' is not an integer"),
    ([1, None], "row 1: row number is missing"),
    (pa.array([None, None]), "row 0: row number is missing"),
    ([1.0, 2.5], "row 1: row number 2.5 is not an integer"),
    ([4, 4], "row 1: row number 4 is named twice, first in row 0"),
    ([4, -4], "row 1: row number -4 is negative"),
    ([10], "row 0: row number 10 is beyond"),
    (pa.array([1, 2**63 + 5], pa.uint64()), "row 1: row number 9223372036854775813 is beyond 64 bits"),
    ([True, False], "column 'index' is a mask; write the numbers of its rows"),
    (pa.array([1, 2], pa.timestamp("ns")), r"row number: integers are needed, found a column of timestamp\[ns\]"),
    ([[1], [2]], "row number: integers are needed, found a column of list"),
    (list(range(11)), "11 rows, but the training set has 10"),
])
def test_bad_parquet_requests_name_the_first_offending_row(tmp_path, values, message):
    path = tmp_path / "request.parquet"
    pq.write_table(pa.table({"index": values}), path)
    with pytest.raises(UserError, match=f"request.parquet: {message}"):
        read_indices(path, 10)


def test_the_first_bad_row_is_found_far_down_a_column(tmp_path):
    path = tmp_path / "request.parquet"
    pq.write_table(pa.table({"index": [*map(str, range(2500)), "x", "y"]}), path, row_group_size=700)
    with pytest.raises(UserError, match="row 2500: row number 'x' is not an integer"):
        read_indices(path, 10_000)


def test_two_columns_of_one_name_are_refused(tmp_path):
    path = tmp_path / "request.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["index", "index"]), path)
    with pytest.raises(UserError, match="several columns may hold the row numbers: index, index"):
        read_indices(path, 10)


@pytest.mark.parametrize(("array", "message"), [
    (np.array([[1, 2]]), r"a one-dimensional array of at most 10 integers is needed, found int64 of shape \(1, 2\)"),
    (np.array([1.0]), "found float64"),
    (np.array([True]), r"found bool of shape \(1,\); for a mask, save numpy.flatnonzero\(mask\)"),
    (np.array([{}]), "found object"),
    (np.array([2**64 - 1], np.uint64), "row 0: row number 18446744073709551615 is beyond 64 bits"),
    (np.array([3, 3]), "element 1: row number 3 is named twice, first in element 0"),
])
def test_bad_array_requests_are_named(tmp_path, array, message):
    np.save(tmp_path / "rows.npy", array)
    with pytest.raises(UserError, match=f"rows.npy: .*{message}"):
        read_indices(tmp_path / "rows.npy", 10)


def test_an_array_that_claims_more_than_it_holds_is_refused(request_file):
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (9,), }"
    content = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + b"\1"
    for cut in (content, content[:30], content[:7]):
        with pytest.raises(UserError, match="request.npy: cannot be read as a numpy array"):
            read_indices(request_file(cut, "request.npy"), 10)


@pytest.mark.parametrize(("content", "message"), [
    (b"PK\x03\x04rest of a workbook", "an Excel workbook; save its one column as csv"),
    (b"BZh91AY", "compressed by bzip2"),
    (b"\x80\x04\x95pickle", "a pickle"),
    (gzip.compress(b"1\n2\n")[:-6], "cannot be read: "),
    (gzip.compress(bytes(10**7)), "more than 1 MB for a training set of 10 rows"),
    (b"PAR1 but no footer", "cannot be read as parquet"),
    (b"1\n" * 10**6, "more than 1 MB"),
])
def test_other_files_are_refused_by_name(request_file, content, message):
    with pytest.raises(UserError, match=f"request.csv: .*{message}"):
        read_indices(request_file(content), 10)


def test_no_more_lines_are_read_than_can_be_right(request_file):
    """The eleventh of ten rows is wrong whatever follows; what follows is not looked at."""
    with pytest.raises(UserError, match="line 11: row number 0 is named twice, first in line 2"):
        read_indices(request_file("index\n" + "".join(f"{row % 9}\n" for row in range(20)) + "no number"), 10)


@pytest.mark.parametrize("name", ["absent.csv", "absent.parquet", "folder", "absent"])
def test_a_request_that_is_not_there_is_named(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        read_indices(tmp_path / name, 10)


def test_rows_that_a_subset_leaves_out_are_refused(request_file):
    taken = np.array([1, 4, 5, 8])
    np.testing.assert_array_equal(read_indices(request_file("index\n8\n4\n"), 10, taken).rows, [4, 8])
    with pytest.raises(UserError, match="line 3: row number 3 is not among the 4 of 10 training rows that data.train_"):
        read_indices(request_file("index\n8\n3\n"), 10, taken)
    with pytest.raises(UserError, match="line 2: row number 10 is beyond the training set, whose rows are 0..9"):
        read_indices(request_file("index\n10\n3\n"), 10, taken)


def test_the_names_that_mean_row_numbers_have_no_digits():
    assert all(name.replace("_", "").isalpha() for name in COLUMNS)
