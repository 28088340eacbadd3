"""Files of a few bytes that stand for gigabytes, and large ones: refused in a line, in seconds, in little memory."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amun_ray.base.errors import UserError
from amun_ray.data import path_requests
from amun_ray.data.dataset import Dataset

SECONDS, BYTES = 5, 200 * 2**20  # in which each mistake is said, and which saying it may take
READING = """
import json, resource, sys, time
from amun_ray.base.errors import UserError
from amun_ray.data.indices import read_indices
from amun_ray.data import load

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

space = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) * 1024
resource.setrlimit(resource.RLIMIT_AS, (space + 4 * 2**30,) * 2)  # what goes wrong here takes nothing from others
for name in sys.argv[1:]:
    before, start = peak(), time.process_time()
    try:
        read_indices(name, 40) if name.startswith("list") else load("parquet", train=name, test=name)
        said = "nothing"
    except UserError as error:
        said = str(error)
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    print(json.dumps([name, said, time.process_time() - start, peak() - before]))
"""
PNG = bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
                    "0000000a49444154789c636000000002000148afa4710000000049454e44ae426082")  # one black pixel


def repeated(value, count):
    """`count` times the same value, which stands in the file once."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value]))


def write(path, columns):
    table = pa.table(columns)
    plain = pa.schema([field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
                       for field in table.schema])
    with pq.ParquetWriter(path, table.schema, compression="zstd", write_statistics=False, store_schema=False,
                          dictionary_pagesize_limit=2**30) as file:
        file.write_table(table, row_group_size=2**40)
    assert pq.read_schema(path) == plain  # a reader does not know that it is one value
    assert path.stat().st_size < 50_000


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """The error of each file, and the seconds and bytes that it took, in a process of its own."""
    folder = tmp_path_factory.mktemp("attacks")
    many, few = 900_000, 1_000
    write(folder / "labels.parquet", {"image": repeated(PNG, many), "label": repeated("x" * 84_000, many)})
    write(folder / "images.parquet", {"image": repeated(PNG + bytes(2**23), few), "label": np.arange(few) % 2})
    write(folder / "nested.parquet", {"image": [PNG], "label": pa.array([np.zeros(10**7, np.int8)])})
    write(folder / "list_texts.parquet", {"index": repeated("x" * 2 * 10**7, 40)})
    write(folder / "list_binary.parquet", {"index": repeated(bytes(2 * 10**7), 40)})
    write(folder / "list_rows.parquet", {"index": np.zeros(10**7, np.int8)})
    write(folder / "list_nested.parquet", {"index": pa.array([np.zeros(10**7, np.int8)])})
    (folder / "list_long.csv").write_bytes(b"index\n" + b"1\n" * 10**7)
    (folder / "list_wide.csv").write_bytes(b"index" + b",a" * 10**7)
    (folder / "list_blank.csv").write_bytes(b"\n" * 10**6)
    (folder / "list_columns.csv").write_text(",".join(f"c{number}" for number in range(10_000)))
    with gzip.open(folder / "list_packed.csv.gz", "wb", compresslevel=1) as file:
        for _ in range(25):
            file.write(b"1\n" * (5 * 10**6))
    names = sorted(path.name for path in folder.iterdir())
    run = subprocess.run([sys.executable, "-c", READING, *names], cwd=folder, stdout=subprocess.PIPE, check=True)
    return {name: rest for name, *rest in map(json.loads, run.stdout.splitlines())}


@pytest.mark.parametrize(("name", "line"), [
    ("labels.parquet", "column 'label': a text of 84,000 bytes, but a label has at most 256"),
    ("images.parquet", "the images up to row 999 are more than 100 times as large as the file; one of them must be "
                       "repeated very often"),
    ("nested.parquet", "label: integers are needed, found a column of list<element: int8>"),
    ("list_texts.parquet", "column 'index': a text of 20,000,000 bytes, but a row number has at most 256"),
    ("list_binary.parquet", "row number: integers are needed, found a column of binary"),
    ("list_rows.parquet", "10,000,000 rows, but the training set has 40; no row is named twice"),
    ("list_nested.parquet", "row number: integers are needed, found a column of list<element: int8>"),
    ("list_long.csv", "more than 1 MB for a training set of 40 rows; keep the column of row numbers alone"),
    ("list_wide.csv", "more than 1 MB for a training set of 40 rows; keep the column of row numbers alone"),
    ("list_packed.csv.gz", "more than 1 MB for a training set of 40 rows; keep the column of row numbers alone"),
    ("list_blank.csv", "no row numbers; a forget set needs at least one"),
    ("list_columns.csv", "line 1: c0, c1, c2, c3, c4, c5, c6, c7 and 9,992 more: no header that means row numbers "
                         "(index, indices, idx, row, rows, row_index, row_number); write one row number of the "
                         "training data on each line, below the header `index`"),
])
def test_it_is_said_in_a_line_in_seconds_and_in_little_memory(said, name, line):
    text, seconds, peak = said[name]
    assert text == f"{name}: {line}"
    assert seconds < SECONDS
    assert peak < BYTES


def test_a_list_of_files_may_be_as_long_as_the_training_set_allows(tmp_path, monkeypatch):
    monkeypatch.setattr(path_requests, "BYTES_AT_LEAST", 0)
    dataset = Dataset("toy", np.zeros((4, 1, 2, 2), np.uint8), np.arange(4), 3, 4, paths=tuple("abcd"))
    path, most = tmp_path / "list.txt", 3 * path_requests.BYTES_PER_ROW
    path.write_text("b".ljust(most, "\n"))
    assert path_requests.of_files(dataset, str(path)).rows.tolist() == [1]
    path.write_text("b".ljust(most + 1, "\n"))
    with pytest.raises(UserError, match="list.txt: more than 0 MB; write one path per line"):
        path_requests.of_files(dataset, str(path))
