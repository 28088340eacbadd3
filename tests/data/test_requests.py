"""Every kind of request resolves to the rows that a human would count, or ends in one line that says why not."""

from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from amun_ray.base.errors import UserError
from amun_ray.data.dataset import Dataset
from amun_ray.data.path_requests import of_files, of_pattern
from amun_ray.data.requests import by_class, class_groups, of_classes, of_indices, of_values

LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 1, 0, 1, 2], np.int64)  # 12 training rows, 3 test rows
PATHS = ("cat/ann/1.jpg", "dog/ann/1.jpg", "owl/ann/1.jpg", "cat/ann/2.jpg", "dog/bob/1.jpg", "owl/bob/1.jpg",
         "cat/bob/1.jpg", "dog/cleo/1.jpg", "owl/cleo/1.jpg", "cat/cleo/u\u0308.jpg", "cat/dan/s/1.jpg",
         "dog/dan/s/2.jpg", "cat/ann/3.jpg", "dog/bob/9.jpg", "owl/bob/9.jpg")


@pytest.fixture
def dataset():
    pixels = np.random.default_rng(0).integers(0, 256, (15, 1, 3, 4), np.uint8)
    return Dataset("toy", pixels, LABELS, 12, 3, class_names=("cat", "dog", "owl"), paths=PATHS)


@pytest.fixture
def bare(dataset):
    """The same with class numbers alone, and images that are no files."""
    return replace(dataset, class_names=(), paths=None)


@pytest.fixture
def listing(tmp_path):
    """A file that lists what is asked for; its path."""

    def listing(content):
        path = tmp_path / "list.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return listing


def refused(ask, *arguments):
    """The one line that a request is refused with."""
    with pytest.raises(UserError) as error:
        ask(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("text", "shown"), [
    ("index\n3\n7\n10\n4\n11\n", "5 rows of {}, column 'index': 3, 4, 7, ... 11"),
    ("11\n3\n", "2 rows of {}, no header: 3, 11"),
    ("row\n4\n3\n2\n1\n", "4 rows of {}, column 'row': 1, 2, 3, 4"),
    ("7", "1 row of {}, no header: 7"),
])
def test_a_list_says_what_was_read(dataset, listing, text, shown):
    path = listing(text)
    assert str(of_indices(dataset, path)) == shown.format(path)


@pytest.mark.parametrize(("asked", "rows", "shown"), [
    (["dog"], [1, 4, 7, 11], "4 rows of class dog (1): 1, 4, 7, 11"),
    ([1], [1, 4, 7, 11], "4 rows of class dog (1): 1, 4, 7, 11"),
    (["owl", 1], [1, 2, 4, 5, 7, 8, 11], "7 rows of classes owl (2), dog (1): 1, 2, 4, ... 11"),
])
def test_classes_are_asked_for_by_name_or_number(dataset, asked, rows, shown):
    found = of_classes(dataset, asked)
    assert found.rows.tolist() == rows
    assert str(found) == shown


def test_rows_are_those_of_the_users_files(bare):
    subset = replace(bare, file_rows=np.concatenate([np.arange(12) * 10, np.arange(3)]), file_train_size=120)
    assert of_classes(subset, [2]).rows.tolist() == [20, 50, 80]


@pytest.mark.parametrize(("asked", "message"), [
    (["dgo"], "no class is called 'dgo'; did you mean 'dog'? Classes: cat, dog, owl"),
    (["dog", 1], "class dog (1) is named twice"),
    ([3], "3 is no class; they are 0..2: cat, dog, owl"),
    ([-1], "-1 is no class; they are 0..2: cat, dog, owl"),
    (["1"], "no class is called '1'. Classes: cat, dog, owl"),
])
def test_classes_that_are_none(dataset, asked, message):
    assert refused(of_classes, dataset, asked) == f"forget.classes: {message}"


def test_classes_without_names_have_numbers_alone(bare):
    assert refused(of_classes, bare, ["dog"]) == (
        "forget.classes: the classes of toy have numbers alone, 0..2, but got 'dog'")


def test_a_number_that_is_the_name_of_another_class_is_not_guessed_at(dataset):
    """As sorted names are: 1, 10, 2."""
    numbers = replace(dataset, class_names=("1", "10", "2"))
    assert refused(of_classes, numbers, [1]) == (
        "forget.classes: 1 may be the class that is called '1' or class number 1, '10'; write the name of the one you "
        "mean, in quotes")
    assert of_classes(numbers, ["10"]).rows.tolist() == [1, 4, 7, 11]
    assert of_classes(numbers, [2]).rows.tolist() == of_classes(numbers, ["2"]).rows.tolist() == [2, 5, 8]
    assert of_classes(numbers, [0]).rows.tolist() == [0, 3, 6, 9, 10]  # no class has that name


def test_a_class_without_training_images_is_refused(bare):
    empty = replace(bare, classes=5)
    assert refused(of_classes, empty, [4]) == (
        "forget.classes: no training image is of class 4; the nearest that have any: 0, 1, 2")
    many = Dataset("many", np.zeros((21, 1, 1, 1), np.uint8), np.append(np.arange(0, 40, 2), 0), 20, 40)
    assert refused(of_classes, many, [31]).endswith("have any: 24, 26, 28, 30, 32, 34, 36, 38")


def test_counts_by_class(dataset):
    assert by_class(dataset, np.array([0, 1, 4])) == "cat (0): 1 of 5, dog (1): 2 of 4"


def test_whole_classes_are_groups_however_they_were_asked_for(dataset):
    found = class_groups(dataset, np.array([1, 4, 7, 11]))
    assert (found.kind, found.names) == ("class", ["cat (0)", "dog (1)", "owl (2)"])
    np.testing.assert_array_equal(found.of, LABELS[:12])
    assert class_groups(dataset, np.array([1, 4, 7])) is None
    assert class_groups(dataset, np.array([0, 1, 4, 7, 11])) is None
    unseen = replace(dataset, labels=np.array([*LABELS[:12], 0, 1, 1], np.int64))
    np.testing.assert_array_equal(class_groups(unseen, np.array([1, 4, 7, 11])).of, np.where(LABELS[:12] == 2, -1,
                                                                                            LABELS[:12]))


PERSONS = ["ann", "bob", None, "ann", "bob", "cleo", "ann", "dan", "dan", "bob", "bob", "eve"]
NUMBERS = [17, 93, None, 17, 93, 4, 17, 8, 8, 93, 93, 5]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
def test_values_of_a_column_of_texts(bare, kind):
    column = pa.chunked_array([PERSONS[:5], PERSONS[5:]], pa.string()).cast(kind)
    if pa.types.is_dictionary(kind):
        column = column.cast(pa.string())  # as `read_further` gives it
    found = of_values(bare, "person", column, ("ann", "dan"))
    assert found.rows.tolist() == [0, 3, 6, 7, 8]
    assert str(found) == "5 rows of person ann, dan: 0, 3, 6, ... 8"
    groups = found.groups
    assert groups.kind == "person"
    assert [None if one < 0 else groups.names[one] for one in groups.of] == PERSONS


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint8(), pa.float64(), pa.decimal128(21, 2)])
def test_values_of_a_column_of_whole_numbers(bare, kind):
    column = pa.chunked_array([pa.array(NUMBERS, pa.int64()).cast(kind)])
    assert of_values(bare, "person", column, (17, 8)).rows.tolist() == [0, 3, 6, 7, 8]


def test_an_empty_cell_of_pandas_is_nobodys(bare):
    column = pa.chunked_array([[float("nan") if one is None else float(one) for one in NUMBERS]])
    assert of_values(bare, "person", column, (17,)).rows.tolist() == [0, 3, 6]


def test_truth_values(bare):
    withdrawn = pa.chunked_array([[row in (2, 5) for row in range(12)]])
    assert of_values(bare, "withdrawn", withdrawn, (True,)).rows.tolist() == [2, 5]
    assert refused(of_values, bare, "withdrawn", withdrawn, (1,)) == (
        "forget.values: 1 is a number, but column 'withdrawn' holds truth values: False, True; write true or false")


@pytest.mark.parametrize(("values", "asked", "message"), [
    (PERSONS, ("clo",), "column 'person' does not hold 'clo'; the nearest: 'cleo'"),
    (PERSONS, ("qqq",), "column 'person' does not hold 'qqq'; it holds 'ann', 'bob', 'cleo', ..."),
    (NUMBERS, (18,), "column 'person' does not hold 18; the nearest: 5, 8, 17"),
    (PERSONS, (17,), "17 is a number, but column 'person' holds texts: 'ann', 'bob', 'cleo', ...; write it in quotes"),
    (NUMBERS, ("17",), "'17' is a text, but column 'person' holds integers: 17, 93, 4, ...; write it without quotes"),
    (NUMBERS, (True,), "True is a truth value, but column 'person' holds integers: 17, 93, 4, ...; write it without "
                       "quotes"),
    (PERSONS, ("ann", "ann"), "'ann' is named twice"),
])
def test_values_that_are_none(bare, values, asked, message):
    assert refused(of_values, bare, "person", pa.chunked_array([values]), asked) == f"forget.values: {message}"


@pytest.mark.parametrize(("values", "kind"), [([0.5] * 12, "double"), ([b"a"] * 12, "binary"), ([[1]] * 12, "list<.*>"),
                                              (np.arange(12).astype("datetime64[s]"), r"timestamp\[s\]")])
def test_columns_that_cannot_be_asked_for(bare, values, kind):
    with pytest.raises(UserError, match=f"^forget.column: 'person' is a column of {kind}; integers, texts and truth"):
        of_values(bare, "person", pa.chunked_array([pa.array(values)]), (1,))


@pytest.mark.parametrize(("content", "values"), [
    ("ann\ndan\n", PERSONS), ("person\nann\ndan\n", PERSONS), ("who,person,when\nx,ann,1\ny,dan,2\n", PERSONS),
    ("17\n8\n", NUMBERS), ("person\n17.0\n8\n", NUMBERS), ("\ufeffperson\n17\n\n8", NUMBERS)])
def test_values_may_be_listed_in_a_file(bare, listing, content, values):
    assert of_values(bare, "person", pa.chunked_array([values]), listing(content)).rows.tolist() == [0, 3, 6, 7, 8]


@pytest.mark.parametrize(("content", "values", "message"), [
    ("ann\nclo\n", PERSONS, "line 2: column 'person' does not hold 'clo'; the nearest: 'cleo'"),
    ("ann\nann\n", PERSONS, "line 2: 'ann' is named twice"),
    ("person\n17\nann\n", NUMBERS, "line 3: 'ann' is none of the integers that the column holds"),
    ("name,id\nann,17\n", NUMBERS, "line 1: name, id: several columns, and none is called 'person'; write one value a "
                                   "line, or the column's name above its values"),
    ("id,person\n1\n", PERSONS, "line 2: 1 cells, the first line has 2"),
    ("person\n", PERSONS, "no values; a forget set needs at least one"),
    ("", PERSONS, "no values; a forget set needs at least one"),
])
def test_lists_of_values_that_are_refused(bare, listing, content, values, message):
    path = listing(content)
    assert refused(of_values, bare, "person", pa.chunked_array([values]), path).removeprefix(f"{path}: ") == message


def test_a_row_that_a_subset_leaves_out_is_refused(bare):
    """As for row numbers: no model would learn it, and the user would believe it forgotten."""
    subset = replace(bare, file_rows=np.concatenate([np.arange(12), np.arange(3)]), file_train_size=14)
    column = pa.chunked_array([[*PERSONS, "eve", "bob"]])
    assert of_values(subset, "person", column, ("ann",), subset=True).rows.tolist() == [0, 3, 6]
    assert refused(partial(of_values, subset=True), subset, "person", column, ("ann", "eve")) == (
        "forget.values: row 12, whose 'person' is 'eve', is not among the 12 of 14 training rows that data.train_size "
        "takes, so no model would learn it; leave train_size out, or the value")


def test_images_that_cannot_be_decoded_are_said_and_left_out(bare):
    """A user who set on_error: skip knows of these images, and no model learns them."""
    skipped = replace(bare, file_rows=np.concatenate([np.arange(12), np.arange(3)]), file_train_size=14)
    column = pa.chunked_array([[*PERSONS, "eve", "zoe"]])
    found = of_values(skipped, "person", column, ("ann", "eve"))
    assert str(found) == "4 rows of person ann, eve (1 more cannot be decoded): 0, 3, 6, 11"
    assert len(found.groups.of) == 12
    assert refused(of_values, skipped, "person", column, ("zoe",)) == (
        "forget.values: none of the 1 images can be decoded, so no model learns them")


@pytest.mark.parametrize(("pattern", "rows"), [
    ("ann/*", [0, 1, 2, 3]), ("cat/ann/*", [0, 3]), ("owl/*/*", [2, 5, 8]), ("b?b/1.jpg", [4, 5, 6]), ("dan/*", []),
    ("dan/**", [10, 11]), ("owl/**", [2, 5, 8]), ("cat/**/1.jpg", [0, 6, 10]), ("1.jpg", [0, 1, 2, 4, 5, 6, 7, 8, 10]),
    ("**/ann/2.jpg", [3]), ("./cat/cleo/\u00fc.jpg", [9]), ("[ab]*/2.jpg", [3])])
def test_patterns_match_from_any_folder(dataset, pattern, rows):
    if not rows:
        assert "no training image matches" in refused(of_pattern, dataset, pattern)
        return
    assert of_pattern(dataset, pattern).rows.tolist() == rows


@pytest.mark.parametrize(("pattern", "message"), [
    ("anne/*", "no training image matches 'anne/*'; the nearest: 'ann'"),
    ("zzz/*", "no training image matches 'zzz/*'; they are called 'cat/ann/1.jpg', 'dog/ann/1.jpg', "
              "'owl/ann/1.jpg', ..."),
    ("dog/ann/2.jpg", "no training image matches 'dog/ann/2.jpg'; they are called 'cat/ann/1.jpg', 'dog/ann/1.jpg', "
                      "'owl/ann/1.jpg', ..."),
])
def test_patterns_that_match_nothing(dataset, pattern, message):
    assert refused(of_pattern, dataset, pattern) == f"forget.pattern: {message}"


def test_whole_folders_are_groups_by_their_names(dataset):
    groups = of_pattern(dataset, "ann/*").groups
    assert groups.kind == "folder"
    assert [groups.names[one] for one in groups.of] == ["ann"] * 4 + ["bob"] * 3 + ["cleo"] * 3 + ["s"] * 2
    assert of_pattern(dataset, "cat/ann/*").groups is None  # ann has more
    assert of_pattern(replace(dataset, paths=tuple(f"{row}.jpg" for row in range(15))), "1*.jpg").groups is None


@pytest.mark.parametrize("content", [
    "cat/ann/2.jpg\nowl/cleo/1.jpg\n", "./owl/cleo/1.jpg\n\ncat\\ann\\2.jpg", "\ufeffcat/ann/2.jpg\nowl/cleo/1.jpg"])
def test_files_are_listed_by_their_paths(dataset, listing, content):
    found = of_files(dataset, listing(content))
    assert found.rows.tolist() == [3, 8]
    assert found.groups is None


def test_a_name_is_the_same_however_its_letters_are_composed(dataset, listing):
    assert of_files(dataset, listing("cat/cleo/\u00fc.jpg")).rows.tolist() == [9]


def test_a_list_of_whole_folders_is_for_these(dataset, listing):
    assert of_files(dataset, listing("cat/bob/1.jpg\nowl/bob/1.jpg\ndog/bob/1.jpg\n")).groups.kind == "folder"


@pytest.mark.parametrize(("content", "message"), [
    ("cat/ann/2.jpg\ncat/ann/2.jpeg\n", "line 2: 'cat/ann/2.jpeg' is no training image; the nearest: 'cat/ann/2.jpg'"),
    ("cat/ann/3.jpg\n", "line 1: 'cat/ann/3.jpg' is a test image, which no model learned"),
    ("cat/ann/2.jpg\n./cat/ann/2.jpg\n", "line 2: './cat/ann/2.jpg' is named twice, first in line 1"),
    ("?????\n", "line 1: '?????' is no training image; they are called 'cat/ann/1.jpg', "),
    ("\n\n", "no file names; a forget set needs at least one"),
    (b"PK\x03\x04", "a zip archive or an Excel workbook; save its one column as csv"),
    (b"\xff\x00\xfe", "cannot be read as"),
])
def test_lists_of_files_that_are_refused(dataset, listing, content, message):
    path = listing(content)
    assert refused(of_files, dataset, path).startswith(f"{path}: {message}")


def test_images_that_are_no_files_have_no_paths(bare, listing):
    for key, ask, what in (("pattern", of_pattern, "a/*"), ("files", of_files, listing("a"))):
        assert refused(ask, bare, what) == (
            f"forget.{key}: the images of toy are no files of their own; use indices, classes or column")


def test_a_list_that_is_not_there_is_named(dataset, bare, tmp_path):
    for ask in (lambda path: of_files(dataset, path),
                lambda path: of_values(bare, "person", pa.chunked_array([PERSONS]), path)):
        assert refused(ask, str(tmp_path / "gone.txt")).startswith(f"{tmp_path}/gone.txt: cannot be read: ")
