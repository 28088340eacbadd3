"""How labels become numbers of classes."""

import numpy as np
import pyarrow as pa
import pytest
from views import TEXT_VIEWS

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
    *[pa.array(["0", "1"], kind) for kind in TEXT_VIEWS], pa.array([0, 1], pa.decimal128(3, 0)),
])
def test_other_columns_of_integers(written):
    assert numbered([written], [1]).train[0].tolist() == [0, 1]


@pytest.mark.parametrize("kind", [
    pa.string(), pa.large_string(), *TEXT_VIEWS, pa.dictionary(pa.int8(), pa.string())])
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


@pytest.mark.parametrize(("labels", "values"), [
    ([[1, 2], [3, 1]], [1, 2, 3]), ([[0, 1, 3, 3]], [0, 1, 3]), ([[0, 1_440_764], [7, 7, 0]], [0, 7, 1_440_764]),
    ([["20", "3"], ["20", "3"]], [3, 20]), ([[0, 100_000]], [0, 100_000]),
])
def test_labels_with_gaps_are_mapped_by_their_size_and_keep_their_names(labels, values):
    found = numbered(labels, labels[0])
    for mapped, written in zip((*found.train, *found.test), (*labels, labels[0]), strict=True):
        assert [values[number] for number in mapped] == [int(one) for one in written]
    assert found.classes == len(values)
    assert found.names == tuple(map(str, values))
    assert found.notes[0] == f"classes     {', '.join(f'{place} {value}' for place, value in enumerate(values))}"
    assert found.notes[1].startswith("labels      have gaps")
    assert (f"data.classes: {values[-1] + 1} would leave" in found.notes[1]) == (values[-1] < 100_000)
    whole = numbered([[int(one) for one in part] for part in labels], [0], classes=values[-1] + 1)
    assert (whole.names, whole.train[0].tolist()) == ((), [int(one) for one in labels[0]])


def test_a_label_with_a_gap_that_one_image_has_is_probably_a_mistake():
    assert numbered([[*range(10), *range(10), 255]], [0]).notes[-1] == (
        "warning: one training image alone has the label 255; is it a mistake?")
    assert "warning" not in " ".join(numbered([[3, 3, 5, 5]], [3]).notes)


@pytest.mark.parametrize(("labels", "classes", "said"), [
    ([1, 2, 3], 4, "0 of 0..3; if the labels count from 1, subtract 1"), ([0, 1, 3], 4, "2 of 0..3"),
    ([2], 4, "0, 1, 3 of 0..3"), ([0], 256, "1, 2, 3, 4, 5, 6, 7, 8 and 247 more of 0..255")])
def test_classes_that_no_training_image_has_are_named(labels, classes, said):
    assert numbered([labels], labels, classes).notes == [f"warning: no training image has the label {said}"]


def test_a_test_label_in_a_gap_is_named():
    with pytest.raises(UserError, match="0.parquet: row 1: no training image has the label 2, they have 1, 3; correct"):
        numbered([[1, 3]], [3, 2])


def test_names_that_the_files_give_say_what_the_numbers_are():
    found = number_labels(columns([0, 2]), columns([1]), None, ("cat", "dog", "eel"))
    assert (found.classes, found.names, found.train[0].tolist()) == (3, ("cat", "dog", "eel"), [0, 2])
    assert found.notes == ["classes     0 cat, 1 dog, 2 eel", "warning: no training image has the label 1 of 0..2"]
    with pytest.raises(UserError, match="row 0: label 3 is outside the classes 0..2"):
        number_labels(columns([3]), columns([1]), None, ("cat", "dog", "eel"))
    with pytest.raises(UserError, match="row 0: label -1 is outside the classes 0..1"):  # Hugging Face: no label
        number_labels(columns([0, 1]), columns([-1]), None, ("cat", "dog"))
