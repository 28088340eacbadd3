"""Divide one parquet file of images, with a column that says whose each is, into training and test set by person.

    python examples/persons.py ../shared/data/mnist_test_writers.parquet build/persons --largest 30

No person is in both: the test set shows what the model makes of people whom it never saw. Every third person is for
testing, counted from those with most images to those with fewest.
"""

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def divided(table: pa.Table, column: str, largest: int | None) -> dict[str, pa.Table]:
    """`train` and `test`, of the `largest` persons alone where that is given; rows keep their order."""
    counts = table.column(column).value_counts().to_pylist()
    persons = [one["values"] for one in sorted(counts, key=lambda one: (-one["counts"], str(one["values"])))][:largest]
    parts = {"train": [one for place, one in enumerate(persons) if place % 3 != 2], "test": persons[2::3]}
    return {part: table.filter(pc.is_in(table.column(column), pa.array(chosen))) for part, chosen in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path, help="where train.parquet and test.parquet go")
    parser.add_argument("--column", default="person")
    parser.add_argument("--largest", type=int, metavar="N", help="only the N persons with most images")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for part, table in divided(pq.read_table(options.source), options.column, options.largest).items():
        pq.write_table(table, options.folder / f"{part}.parquet")
        print(f"{options.folder / part}.parquet: {len(table)} images of "
              f"{pc.count_distinct(table.column(options.column)).as_py()} persons")


if __name__ == "__main__":
    main()
