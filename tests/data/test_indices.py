import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amun_ray.base.errors import UserError
from amun_ray.data.indices import read_indices


@pytest.mark.parametrize("text", [
    "3\n1\n2\n", "index\n3\n1\n2\n", "row\r\n3\r\n1\r\n2", "\ufeffindex\n3\n\n1\n2\n", "name,index\na,3\nb,1\nc,2\n",
    '"index"\n" 3"\n"1"\n"2"\n',
])
def test_csv_requests(tmp_path, text):
    path = tmp_path / "request.csv"
    path.write_bytes(text.encode())
    rows = read_indices(path, 4)
    np.testing.assert_array_equal(rows, [1, 2, 3])
    assert rows.dtype == np.int64


@pytest.mark.parametrize("table", [
    {"any": [3, 1, 2]}, {"index": pa.array([3, 1, 2], pa.uint8()), "why": ["a", "b", "c"]}, {"index": [3.0, 1.0, 2.0]},
])
def test_parquet_requests(tmp_path, table):
    path = tmp_path / "request.parquet"
    pq.write_table(pa.table(table), path)
    np.testing.assert_array_equal(read_indices(path, 4), [1, 2, 3])
    np.testing.assert_array_equal(read_indices(path.as_uri(), 4), [1, 2, 3])


@pytest.mark.parametrize(("text", "message"), [
    ("", "no row numbers"),
    ("index\n", "no row numbers"),
    ("index\n1\nabc\n-4\n", "line 3: 'abc' is not a row number"),
    ("1\n2\n2.5\n", "line 3: '2.5' is not a row number"),
    ("nan\n2\n", "line 1: 'nan' is not a row number"),
    ("1\n99999999999999999999\n", "line 2: '99999999999999999999' is not a row number"),
    ("index\n1\n-1\n-2\n", "line 3: row number -1 is negative"),
    ("1\n\n10\n-1", "line 3: row number 10 is beyond the training set, whose rows are 0..9"),
    ("5\n1\n5\n1\n99\n", "line 3: row number 5 is named twice, first in line 1"),
    ("a,b\n1,2\n", "needs one called 'index'; columns: a, b"),
    ("name,index\na,1\nb\n", "line 3: '' is not a row number"),
    ("\udce4", "cannot be read as csv"),
])
def test_bad_csv_requests_name_the_first_offending_line(tmp_path, text, message):
    path = tmp_path / "request.csv"
    path.write_bytes(text.encode("latin-1", "surrogateescape"))
    with pytest.raises(UserError, match=f"request.csv: .*{message}"):
        read_indices(path, 10)


@pytest.mark.parametrize(("values", "message"), [
    (pa.array([], pa.int64()), "no row numbers"),
    (["a", "b"], "row 0: row number 'a' is not an integer"),
    ([1, None], "row 1: row number is missing"),
    ([1.0, 2.5], "row 1: row number 2.5 is not an integer"),
    ([4, 4], "row 1: row number 4 is named twice, first in row 0"),
    ([4, -4], "row 1: row number -4 is negative"),
    ([10], "row 0: row number 10 is beyond"),
])
def test_bad_parquet_requests_name_the_first_offending_row(tmp_path, values, message):
    path = tmp_path / "request.parquet"
    pq.write_table(pa.table({"index": values}), path)
    with pytest.raises(UserError, match=f"request.parquet: {message}"):
        read_indices(path, 10)


@pytest.mark.parametrize("name", ["absent.csv", "absent.parquet", "folder", "absent"])
def test_a_request_that_is_not_there_is_named(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"{name}: cannot be read"):
        read_indices(tmp_path / name, 10)
