"""Which files are read, in which order, and which sets of files are refused as incomplete."""

import os
import shutil

import pytest
from pyarrow import fs

from amun_ray.base.errors import UserError
from amun_ray.data.files import find_files, missing_shard


@pytest.fixture
def folder(tmp_path):
    """Make files, each with its own name as content; their folder."""

    def folder(*names):
        for name in names:
            path = tmp_path / "photos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        return tmp_path / "photos"

    return folder


def names(found):
    files, _ = found
    return [os.path.basename(file.path) for file in files]


def test_a_folder_is_read_in_the_natural_order_of_its_names_and_says_so(folder):
    photos = folder(*(f"part.{number}.parquet" for number in range(12)))
    files, notes = find_files(photos)
    assert names((files, notes)) == [f"part.{number}.parquet" for number in range(12)]
    assert notes == [f"order       {photos}: by the numbers in the names, part.2.parquet before part.10.parquet"]


def test_numbers_stand_beside_names_without_one_and_beside_other_digits(folder):
    photos = folder("p", "p1", "p1\u00b22", "p02", "p2")
    assert names(find_files(photos / "p*")) == ["p", "p1", "p1\u00b22", "p02", "p2"]


def test_padded_names_need_no_word(folder):
    photos = folder("b-01.parquet", "b-10.parquet", "b-02.parquet", "a.parquet")
    assert names(find_files(photos)) == ["a.parquet", "b-01.parquet", "b-02.parquet", "b-10.parquet"]
    assert find_files(photos)[1] == []


def test_hidden_names_and_other_endings_are_no_data(folder):
    photos = folder("a.parquet", "B.PARQUET", "c.pq", ".hidden.parquet", "._a.parquet", "_metadata.parquet", "_SUCCESS",
                    "readme.txt", ".a.parquet.crc", "deep/d.parquet")
    assert names(find_files(photos)) == ["B.PARQUET", "a.parquet", "c.pq"]
    assert names(find_files(photos / "*.parquet")) == ["a.parquet"]
    assert names(find_files(photos / "**/*.parquet")) == ["a.parquet", "d.parquet"]
    assert names(find_files(photos / "_*.parquet")) == ["_metadata.parquet"]  # read when asked for by name
    assert names(find_files(photos / ".hidden.parquet")) == [".hidden.parquet"]


def test_lists_are_read_in_their_order(folder):
    photos = folder("a.parquet", "b.parquet", "more/c.parquet", "more/d.parquet")
    listed = [photos / "b.parquet", str(photos / "more"), str(photos / "a*")]
    assert names(find_files(listed)) == ["b.parquet", "c.parquet", "d.parquet", "a.parquet"]
    with pytest.raises(UserError, match="the list of data files is empty"):
        find_files([])


def test_a_name_with_signs_of_a_pattern_is_that_file(folder):
    photos = folder("a[1].parquet", "a1.parquet")
    assert names(find_files(photos / "a[1].parquet")) == ["a[1].parquet"]
    (photos / "a[1].parquet").unlink()
    assert names(find_files(photos / "a[1].parquet")) == ["a1.parquet"]


def test_patterns_of_other_file_systems():
    import fsspec
    for name in ("x/p.2.parquet", "x/p.10.parquet", "x/.p.parquet"):
        with fsspec.open(f"memory://globs/{name}", "wb") as file:
            file.write(name.encode())
    for source in ("memory://globs/x/*.parquet", "memory://globs/x"):
        files, notes = find_files(source)
        assert names((files, notes)) == ["p.2.parquet", "p.10.parquet"]
        assert len(notes) == 1


def test_paths_are_shown_as_they_would_be_written(folder, monkeypatch):
    photos = folder("a.parquet", "b.parquet")
    monkeypatch.chdir(photos.parent)
    assert [str(file) for file in find_files("photos")[0]] == ["photos/a.parquet", "photos/b.parquet"]
    monkeypatch.chdir("/")
    assert str(find_files(photos)[0][0]) == str(photos / "a.parquet")


@pytest.mark.parametrize(("present", "missing"), [
    (["t-00000-of-00003.parquet", "t-00002-of-00003.parquet"], "t-00001-of-00003.parquet"),
    (["t-00001-of-00003.parquet", "t-00002-of-00003.parquet"], "t-00003-of-00003.parquet"),
    (["t-00000-of-00003.parquet", "t-00001-of-00003.parquet"], "t-00002-of-00003.parquet"),
    (["t-1-of-2.parquet", "t-2-of-2.parquet"], None),
    (["t-00000-of-00001.parquet"], None),
    (["a-0-of-2.pq", "a-1-of-2.pq", "b-0-of-2.pq"], "b-1-of-2.pq"),
    (["a.parquet", "b-of.parquet"], None),
    (["t-0-of-99999999999999.parquet"], "t-1-of-99999999999999.parquet"),
])
def test_the_first_missing_shard_is_named(present, missing):
    assert missing_shard([f"/folder/{name}" for name in present]) == missing


def test_an_incomplete_set_is_refused_unless_its_files_are_named(folder):
    photos = folder("train-00000-of-00003.parquet", "train-00002-of-00003.parquet")
    for source in (photos, photos / "train-*"):
        with pytest.raises(UserError, match="train-00001-of-00003.parquet is missing; later rows would move up"):
            find_files(source)
    files, notes = find_files(sorted(photos.iterdir()))
    assert len(files) == 2
    assert notes == ["warning: train-00001-of-00003.parquet is not among the files named"]
    assert find_files([photos / "train-00000-of-00003.parquet"])[1] == notes


@pytest.mark.parametrize(("present", "shown"), [
    (["train-00000-of-00001.parquet", "test-00000-of-00001.parquet"], ["train-0", "test-0"]),
    (["mnist_train.parquet", "mnist_val.parquet"], ["train", "val"]),
    (["Train.parquet", "Validation.parquet", "x.parquet"], ["Train", "Validation"]),
    (["training-1.parquet", "dev.parquet"], ["training", "dev"]),
])
def test_several_splits_in_one_folder_are_refused(folder, present, shown):
    photos = folder(*present)
    with pytest.raises(UserError, match="photos: holds several splits: .*name one of them by a pattern") as error:
        find_files(photos)
    assert all(name in str(error.value) for name in shown)
    assert names(find_files([photos / name for name in present])) == present
    assert names(find_files(photos / f"{present[0][:-8]}*")) == present[:1]


def test_words_within_words_are_no_splits(folder):
    whole = ["constrained.parquet", "latest.parquet", "trains.parquet", "value.parquet"]
    assert names(find_files(folder(*whole))) == whole


def test_links_that_lead_nowhere_are_refused(folder):
    photos = folder("a.parquet")
    (photos / "b.parquet").symlink_to(photos.parent / "nowhere.parquet")
    for source in (photos, photos / "*.parquet"):
        with pytest.raises(UserError, match="b.parquet is a link that leads nowhere; remove it"):
            find_files(source)
    with pytest.raises(UserError, match="b.parquet: a link to .*nowhere.parquet, which is not there"):
        find_files(photos / "b.parquet")
    (photos.parent / "nowhere.parquet").write_text("there now")
    assert names(find_files(photos)) == ["a.parquet", "b.parquet"]


def test_a_folder_among_the_files_is_refused(folder):
    photos = folder("a.parquet", "b.parquet/part.parquet")
    with pytest.raises(UserError, match="photos: b.parquet is a folder; remove it, or name the files"):
        find_files(photos)
    assert names(find_files(photos / "b.parquet")) == ["part.parquet"]


def test_copies_are_refused(folder):
    photos = folder("a.parquet", "b.parquet", "c.parquet")
    shutil.copy(photos / "a.parquet", photos / "a-copy.parquet")
    with pytest.raises(UserError, match="a.parquet: the same bytes as .*a-copy.parquet, so every picture"):
        find_files(photos)
    with pytest.raises(UserError, match="b.parquet: the same bytes as .*b.parquet"):
        find_files([photos / "b.parquet", photos / "b.parquet"])


def test_where_nothing_is_the_neighbours_are_named(folder):
    photos = folder("train/a.parquet", "test/b.parquet", "readme.txt")
    for source, message in [
        (photos, "photos: no .parquet file in this folder; it has folders: test, train"),
        (photos / "*.parquet", "no such file, and none that matches this pattern"),
        (photos / "absent.parquet", "absent.parquet: no such file"),
        ("a\0b", "no path holds a NUL character"),
    ]:
        with pytest.raises(UserError, match=message):
            find_files(source)


def test_a_folder_that_cannot_be_asked_is_said(folder, monkeypatch):
    photos = folder("a.parquet")

    def away(*_):
        raise OSError("the server is away\ntoday")

    monkeypatch.setattr(fs, "FileSelector", away)
    monkeypatch.setattr(os, "listdir", away)
    with pytest.raises(UserError, match="photos: cannot be read: the server is away$"):
        find_files(photos)
