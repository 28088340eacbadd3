"""How labels become numbers of classes."""

import numpy as np
import pyarrow as pa
import pytest

from amun_ray.base.errors import UserError
from amun_ray.data.labels import Column, number_labels


def columns(*values):
    return [Column(f"{number}.parquet", pa.chunked_array([one if isinstance(one, pa.Array) else pa.array(one)]))
            for number, one in enumerate(values)]


def numbered(train, test, classes=None):
    return number_labels(columns(*train), columns(test), classes)


def test_integers_stay_what_they_are():
    found = numbered([[0, 2], [1, 2]], [2, 0])
    assert [one.tolist() for one in (*found.train, *found.test)] == [[0, 2], [1, 2], [2, 0]]
    assert all(one.dtype == np.int64 for one in (*found.train, *found.test))
    assert (found.classes, found.notes) == (3, [])


@pytest.mark.parametrize("written", [
    [0.0, 1.0], ["0", "1"], [False, True], pa.array([0, 1], pa.uint64()), pa.array([0, 1]).dictionary_encode(),
    pa.array(["0", "1"], pa.string_view()), pa.array([0, 1], pa.decimal128(3, 0)),
])
def test_other_columns_of_integers(written):
    assert numbered([written], [1]).train[0].tolist() == [0, 1]


@pytest.mark.parametrize("kind", [
    pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_names_are_numbered_in_sorted_order_over_all_files(kind):
    written = [pa.array(one).cast(kind) for one in (["dog", "cat", "ant"], ["Zebra", "cat"])]
    found = numbered(written, pa.array(["cat", "dog"]).cast(kind))
    assert [one.tolist() for one in (*found.train, *found.test)] == [[3, 2, 1], [0, 2], [2, 3]]
    assert found.classes == 4
    assert found.notes == ["classes     0 Zebra, 1 ant, 2 cat, 3 dog"]
    assert numbered(written, ["cat"], classes=6).classes == 6


def test_a_long_list_of_names_is_cut():
    found = numbered([[f"class {chr(97 + number)}" for number in range(25)]], ["class a"])
    assert found.notes[0].endswith("19 class t and 5 more")


@pytest.mark.parametrize(("train", "test", "classes", "message"), [
    ([["cat", "dog"]], ["cat", "dig"], None, "0.parquet: row 1: label 'dig' is no class of the training set; "
                                             "did you mean 'dog'"),
    ([["cat", None]], ["cat"], None, "0.parquet: row 1: label is missing"),
    ([["cat", ""]], ["cat"], None, "0.parquet: row 1: label is missing"),
    ([["cat", "dog"]], [0, 1], None, "0.parquet: label: a column of int64, but the training labels are names: c"),
    ([["cat", "dog"]], ["cat"], 1, "0.parquet: row 1: label 1 is outside the classes 0..0"),
    ([["0", "cat"]], ["0"], None, "0.parquet: row 1: label 'cat' is not an integer"),
    ([[0, 1], ["cat", "dog"]], [0], None, "1.parquet: row 0: label 'cat' is not an integer"),
    ([[0, 1]], ["0", "dog"], None, "0.parquet: row 1: label 'dog' is not an integer"),
    ([[0, 1, -1]], [0], None, "0.parquet: row 2: label -1 is outside the classes 0..1"),
    ([[-1, -1]], [0], None, "0.parquet: row 0: label -1 is outside the classes"),
    ([[0, 1]], [0, 2], None, "0.parquet: row 1: label 2 is outside the classes 0..1"),
    ([[0, 1.5]], [0], None, "0.parquet: row 1: label 1.5 is not an integer"),
    ([[0, None]], [0], None, "0.parquet: row 1: label is missing"),
    ([pa.array([1, 2**63 + 1], pa.uint64())], [0], None, "row 1: label 9223372036854775809 is beyond 64 bits"),
    ([pa.array([0, 1], pa.timestamp("ms"))], [0], None, r"label: integers are needed, found .*timestamp\[ms\]"),
    ([[[0], [1]]], [0], None, "0.parquet: label: integers are needed, found a column of list"),
])
def test_bad_labels_are_named_with_their_file_and_row(train, test, classes, message):
    with pytest.raises(UserError, match=message):
        numbered(train, test, classes)


def test_a_class_that_nobody_has_is_said():
    found = numbered([[1, 2], [3, 1]], [1])
    assert found.classes == 4
    (warning,) = found.notes
    assert warning.startswith("warning: no training image has label 0 of 0..3: 1 class(es) for nobody; if the labels "
                              "count from 1, subtract 1; data.classes: 4 says")
    (warning,) = numbered([[0, 1, 3]], [1]).notes
    assert warning.startswith("warning: no training image has label 2 of 0..3")
    assert "count from 1" not in warning
    assert numbered([[1, 2, 3]], [1], classes=4).notes == []  # the user said so


@pytest.mark.parametrize(("labels", "message"), [
    ([*range(10), 255], "0.parquet: row 10: label 255 implies 256 classes, of which 245 have no training image"),
    ([0, 1_440_764, 1], "0.parquet: row 1: label 1440764 implies 1,440,765 classes, of which 1,440,762 have no"),
    ([0, 3, 7], "label 7 implies 8 classes, of which 5 have no training image.*data.classes: 8 if it is meant"),
])
def test_labels_that_leave_most_classes_empty_are_refused(labels, message):
    with pytest.raises(UserError, match=message):
        numbered([labels], [0])
    assert numbered([labels], [0], classes=max(labels) + 1).classes == max(labels) + 1


def test_half_of_the_classes_may_be_empty():
    assert numbered([[0, 1, 5, 3]], [0]).classes == 6  # 2 and 4
    assert numbered([[1, 3]], [1]).classes == 4  # 0 and 2: not most of them
