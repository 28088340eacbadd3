import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from views import BINARY_VIEWS, TEXT_VIEWS

from amun_ray.base.errors import UserError
from amun_ray.data import assemble, load
from amun_ray.data import parquet as module

CIFAR = Path(os.environ.get("AMUN_CIFAR10", Path(__file__).parents[3] / "shared" / "data"))


def saved(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("batch_rows", [1, 4, 1024])
def test_pixels_and_labels_come_back_in_order(pair, colours, batch_rows, monkeypatch):
    monkeypatch.setattr(module, "BATCH_ROWS", batch_rows)
    dataset = load("parquet", **pair)
    np.testing.assert_array_equal(dataset.pixels, colours.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(dataset.labels, [0, 1, 2, 0, 1, 2, 2, 0])
    assert dataset.train_size == 6
    assert dataset.classes == 3
    assert dataset.size == 5
    assert dataset.pixels.flags.c_contiguous
    assert dataset.labels.dtype == np.int64


def test_a_jpeg_is_what_pil_decodes(write, colours):
    jpeg = saved(Image.fromarray(colours[0]), "jpeg")
    dataset = load("parquet", train=write("a.parquet", [jpeg], [0]), test=write("b.parquet", [jpeg], [1]), classes=2)
    np.testing.assert_array_equal(dataset.pixels[1], np.asarray(Image.open(io.BytesIO(jpeg))).transpose(2, 0, 1))


def test_binary_columns_other_names_and_uris(png, write, colours):
    images = [png(image) for image in colours]
    path = write("a.parquet", images, pa.array([0, 1] * 4, pa.uint8()), struct=False, image="picture", label="fine")
    dataset = load("parquet", train=path.as_uri(), test=str(path), label_column="fine", image_column="picture",
                   classes=10)
    assert len(dataset) == 16
    assert dataset.classes == 10


def test_files_of_an_fsspec_scheme_are_read(pair):
    import fsspec

    with fsspec.open("memory://amun/train.parquet", "wb") as file:
        file.write(pair["train"].read_bytes())
    remote = load("parquet", train="memory://amun/train.parquet", test=pair["test"])
    assert remote.digest == load("parquet", **pair).digest


def test_a_folder_is_read_in_the_order_of_its_names(png, tmp_path, write, pair, colours):
    (tmp_path / "parts").mkdir()
    for number, part in enumerate((colours[:2], colours[2:3], colours[3:6])):
        write(f"parts/{number}.parquet", [png(image) for image in part], list(range(len(part))))
    dataset = load("parquet", train=tmp_path / "parts", test=pair["test"], train_size=4, seed=1)
    whole = load("parquet", train=tmp_path / "parts", test=pair["test"])
    np.testing.assert_array_equal(whole.pixels[:6], colours[:6].transpose(0, 3, 1, 2))
    rows = [np.flatnonzero((whole.pixels[:6] == image).all((1, 2, 3)))[0] for image in dataset.pixels[:4]]
    assert rows == sorted(set(rows))
    assert dataset.train_size == 4
    np.testing.assert_array_equal(dataset.labels[:4], whole.labels[rows])


def test_a_subset_is_seeded_and_keeps_the_number_of_classes(pair):
    first, again = (load("parquet", **pair, train_size=2, test_size=1, seed=0) for _ in range(2))
    assert first.digest == again.digest
    assert len(first) == 3
    assert first.classes == 3
    assert len({load("parquet", **pair, train_size=2, seed=seed).digest for seed in range(6)}) > 1


def test_grey_images_stay_grey_and_become_colour_beside_colour(png, write, colours, monkeypatch):
    monkeypatch.setattr(module, "BATCH_ROWS", 2)  # colour comes after a grey batch is already decoded
    grey = colours[..., 0]
    train = write("grey.parquet", [png(image) for image in grey], [0, 1] * 4)
    assert load("parquet", train=train, test=train).pixels.shape == (16, 1, 5, 6)
    coloured = write("colour.parquet", [png(grey[0]), png(colours[1])], [0, 1])
    dataset = load("parquet", train=train, test=coloured)
    assert dataset.pixels.shape == (10, 3, 5, 6)
    np.testing.assert_array_equal(dataset.pixels[:9], np.repeat(np.concatenate([grey, grey[:1]])[:, None], 3, 1))
    np.testing.assert_array_equal(dataset.pixels[9], colours[1].transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK"])
def test_other_eight_bit_modes_become_rgb(write, mode):
    image = Image.fromarray(np.full((5, 6, 3), (255, 0, 0), np.uint8)).convert(mode)
    path = write("a.parquet", [saved(image, "tiff" if mode == "CMYK" else "png")], [0])
    dataset = load("parquet", train=path, test=path, classes=2)
    np.testing.assert_array_equal(dataset.pixels[0, :, 0, 0], [255, 0, 0])


def bad_image(png, colours, row):
    whole = png(colours[0])
    return {
        "nothing": None, "text": b"no image", "cut": whole[:-30],
        "header": whole[:20], "size": png(colours[0][:4]),
        "float": saved(Image.fromarray(np.full((5, 6), 0.25, np.float32)), "tiff"),
    }[row]


@pytest.mark.parametrize(("kind", "message"), [
    ("nothing", "row 5: the image has no bytes; store the whole image file, not its path"),
    ("text", r"row 5: the image cannot be decoded: not an image of a format that is read \(PNG, JPEG, "),
    ("cut", "row 5: the image cannot be decoded"),
    ("header", "row 5: the image cannot be decoded"),
    ("size", "row 5: image of 6 x 4 pixels, but the first one has 6 x 5"),
    ("float", r"row 5: the image has more than 16 bits per channel \(mode F, values \[0.25, 0.25\]\)"),
])
@pytest.mark.parametrize("batch_rows", [2, 1024])
def test_a_bad_image_is_named_with_its_file_and_row(png, pair, write, colours, kind, message, batch_rows, monkeypatch):
    monkeypatch.setattr(module, "BATCH_ROWS", batch_rows)
    images = [png(image) for image in colours]
    images[5] = bad_image(png, colours, kind)
    with pytest.raises(UserError, match=f"bad.parquet: {message}"):
        load("parquet", train=pair["train"], test=write("bad.parquet", images, [0] * 8))


def test_the_row_of_a_subset_is_the_row_of_the_file(png, write, pair, colours):
    images = [b"no image"] * 8
    images[0] = png(colours[0])
    path = write("bad.parquet", images, [0] * 8)
    messages = set()
    for seed in range(8):
        with pytest.raises(UserError) as error:
            load("parquet", train=path, test=pair["test"], train_size=2, seed=seed, classes=3)
        messages.add(str(error.value).split("bad.parquet: ")[1].split(":")[0])
    assert messages <= {f"row {row}" for row in range(1, 8)}
    assert len(messages) > 1


@pytest.mark.parametrize(("labels", "message"), [
    ([0, 1, 3, 0], r"row 2: label 3 is outside the classes 0..2"),
    ([0, -1, 2, 0], "row 1: label -1 is outside"),
    ([0, 1, 2.5, 0], "row 2: label 2.5 is not an integer"),
    ([0, None, 2, 0], "row 1: label is missing"),
    ([0, float("nan"), 2, 0], "row 1: label nan is not an integer"),
    (["0", "1", "cat", "dog"], "row 2: label 'cat' is not an integer"),
    ([[0], [1], [2], [0]], "label: integers are needed, found a column of list"),
])
def test_a_bad_label_is_named_with_its_row(png, pair, write, colours, labels, message):
    path = write("bad.parquet", [png(image) for image in colours[:4]], labels)
    with pytest.raises(UserError, match=f"bad.parquet: {message}"):
        load("parquet", train=pair["train"], test=path)


def test_missing_ambiguous_and_unreadable_files(tmp_path, write, pair, colours):
    plain = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"label": [0], "text": ["a"]}), plain)
    two = tmp_path / "two.parquet"
    pq.write_table(pa.table({"label": [0], "a": [b"x"], "b": [b"y"]}), two)
    (tmp_path / "text.parquet").write_text("no parquet at all")
    (tmp_path / "empty").mkdir()
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(pair["train"].read_bytes()[:-10])
    none = write("none.parquet", [], pa.array([], pa.int64()))
    for train, settings, message in [
        (tmp_path / "absent.parquet", {}, "absent.parquet: no such file"),
        (tmp_path / "empty", {}, "empty: no .parquet file in this folder"),
        (tmp_path / "text.parquet", {}, "text.parquet: cannot be read as parquet"),
        (cut, {}, "cut.parquet: cannot be read as parquet"),
        (none, {}, "none.parquet: no rows"),
        (plain, {}, r"plain.parquet: no image column .*columns: label \(int64\), text \(string\)"),
        (two, {}, "two.parquet: 2 image columns, name one as image_column"),
        (pair["train"], {"image_column": "pixels"}, "no image column 'pixels'.*columns: image"),
        (pair["train"], {"label_column": "fine"}, "no label column 'fine'; columns: image"),
        (pair["train"], {"train_size": 7}, "train_size=7"),
        ("nosuchscheme://bucket/a.parquet", {}, "nosuchscheme://bucket/a.parquet: cannot be opened"),
        ("file://relative/a.parquet", {}, "file://relative/a.parquet: "),
    ]:
        with pytest.raises(UserError, match=message):
            load("parquet", train=train, test=pair["test"], **settings)


def test_a_damaged_page_is_an_error_of_the_file(png, write, colours):
    path = write("damaged.parquet", [png(image) for image in colours] * 30, [0, 1] * 120)
    content = bytearray(path.read_bytes())
    content[40:2000] = b"\xff" * 1960
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged.parquet: row 0"):
        load("parquet", train=path, test=path)


@pytest.mark.skipif(not (CIFAR / "cifar10-train.parquet").exists(),
                    reason="no CIFAR-10 parquet files; set AMUN_CIFAR10 to their folder")
def test_real_cifar10_is_read():
    dataset = load("parquet", train=CIFAR / "cifar10-train.parquet", test=CIFAR / "cifar10-test.parquet",
                   train_size=2000, test_size=500)
    assert dataset.pixels.shape == (2500, 3, 32, 32)
    assert dataset.classes == 10
    mean, std = dataset.statistics
    np.testing.assert_allclose(mean, (0.491, 0.482, 0.447), atol=0.01)  # the known means of CIFAR-10
    np.testing.assert_allclose(std, (0.247, 0.243, 0.262), atol=0.01)


@pytest.mark.parametrize("kind", [
    pa.binary(), pa.large_binary(), *BINARY_VIEWS, pa.dictionary(pa.int32(), pa.binary()),
    *[pa.struct([("bytes", kind), ("path", text)]) for kind, text in zip(BINARY_VIEWS, TEXT_VIEWS, strict=True)],
    pa.struct([("path", pa.string()), ("bytes", pa.large_binary())]),
], ids=str)
def test_every_kind_of_bytes_is_read(tmp_path, png, colours, kind, monkeypatch):
    monkeypatch.setattr(module, "BATCH_ROWS", 3)
    images = [png(image) for image in colours]
    cells = [{"bytes": image, "path": "p"} for image in images] if pa.types.is_struct(kind) else images
    values = pa.array(cells).cast(kind) if pa.types.is_dictionary(kind) else pa.array(cells, kind)
    pq.write_table(pa.table({"image": values, "label": [0, 1] * 4}), tmp_path / "a.parquet")
    dataset = load("parquet", train=tmp_path / "a.parquet", test=tmp_path / "a.parquet", train_size=4, test_size=1)
    rows = dataset.file_rows
    np.testing.assert_array_equal(dataset.pixels, colours[rows].transpose(0, 3, 1, 2))


def test_rows_keep_the_numbers_of_the_files(tmp_path, png, write, colours):
    (tmp_path / "parts").mkdir()
    for number, part in enumerate((colours[:3], colours[3:8])):
        write(f"parts/p{number}.parquet", [png(image) for image in part], [0, 1, 0, 1, 0][:len(part)])
    test = write("test.parquet", [png(image) for image in colours[:4]], [0, 1, 0, 1])
    dataset = load("parquet", train=tmp_path / "parts", test=test, train_size=5, test_size=2, seed=3)
    assert dataset.file_train_size == 8
    assert len(set(dataset.file_rows[:5])) == 5
    np.testing.assert_array_equal(dataset.pixels[:5], colours[dataset.file_rows[:5]].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(dataset.pixels[5:], colours[dataset.file_rows[5:]].transpose(0, 3, 1, 2))
    assert dataset.notes == (
        f"training    {tmp_path}/parts/p0.parquet: rows 0..2", f"training    {tmp_path}/parts/p1.parquet: rows 3..7",
        "training    5 of these 8 rows (data.train_size); each keeps its number",
        f"test        {test}: rows 0..3", "test        2 of these 4 rows (data.test_size); each keeps its number")


def test_a_long_list_of_files_is_cut_in_the_middle(tmp_path, png, write, colours, pair, monkeypatch):
    monkeypatch.setattr(assemble, "FILES_SHOWN", 4)
    paths = [write(f"{number}.parquet", [png(image)], [number % 2]) for number, image in enumerate(colours)]
    notes = load("parquet", train=paths, test=pair["test"], classes=3).notes
    assert [note.rpartition("/")[2] for note in notes[:5]] == [
        "0.parquet: rows 0..0", "1.parquet: rows 1..1", "training    ... 4 more files ...", "6.parquet: rows 6..6",
        "7.parquet: rows 7..7"]


def test_names_of_classes_are_numbered_and_shown(png, write, colours):
    train = write("train.parquet", [png(image) for image in colours[:4]], ["dog", "cat", "dog", "ant"])
    test = write("test.parquet", [png(image) for image in colours[4:6]], ["cat", "dog"])
    dataset = load("parquet", train=train, test=test)
    assert dataset.labels.tolist() == [2, 1, 2, 0, 1, 2]
    assert "classes     0 ant, 1 cat, 2 dog" in dataset.notes


def test_columns_that_are_there_twice_are_refused(tmp_path, png, pair, colours):
    images, labels = pa.array([png(image) for image in colours[:2]], pa.binary()), pa.array([0, 1])
    for names, message in [(["image", "label", "label"], "several columns called 'label'; columns: image, label, lab"),
                           (["image", "image", "label"], "several columns are called 'image'; rename or drop one")]:
        columns = [images if name == "image" else labels for name in names]
        pq.write_table(pa.Table.from_arrays(columns, names), tmp_path / "twice.parquet")
        with pytest.raises(UserError, match=f"twice.parquet: {message}"):
            load("parquet", train=tmp_path / "twice.parquet", test=pair["test"])


def test_a_line_stays_short_whatever_the_file_has(tmp_path, pair):
    names = [f"column {number}\n" for number in range(10_000)]
    pq.write_table(pa.Table.from_arrays([pa.array([1])] * len(names), names), tmp_path / "wide.parquet")
    with pytest.raises(UserError, match=r"wide.parquet: no image column .*and 9,992 more") as error:
        load("parquet", train=tmp_path / "wide.parquet", test=pair["test"])
    assert len(str(error.value)) < 600
    assert "\n" not in str(error.value)


def test_more_rows_than_bytes_are_not_believed(tmp_path, pair):
    """Runs of one value take no room in parquet: a few bytes may stand for a billion rows, which nobody reads."""
    rows = 2_000_000
    table = pa.table({"image": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int8), pa.array([b"x"])),
                      "label": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int8), pa.array([1]))})
    path = tmp_path / "bomb.parquet"
    pq.write_table(table, path)
    assert path.stat().st_size < 20_000
    with pytest.raises(UserError, match=r"bomb.parquet: 2,000,000 rows in [\d,]+ bytes: it cannot hold so many images"):
        load("parquet", train=path, test=pair["test"])


def test_files_that_hold_something_else_are_named(tmp_path, pair):
    for content, message in [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a pointer of Git LFS, .*git lfs pull"),
        (b"<!doctype html><html><body>Sign in</body></html>", "a web page, not the file itself"),
        (b"", "cannot be read as parquet"),
    ]:
        (tmp_path / "a.parquet").write_bytes(content)
        with pytest.raises(UserError, match=f"a.parquet: {message}"):
            load("parquet", train=tmp_path / "a.parquet", test=pair["test"])


def test_a_part_of_the_file_in_which_no_row_was_chosen_is_passed_over(write, png, colours, pair):
    train = write("parts.parquet", [png(image) for image in colours[:6]], [0, 1, 2, 0, 1, 2], row_group=1)
    for seed in range(4):
        dataset = load("parquet", train=train, test=pair["test"], train_size=1, seed=seed, classes=3)
        np.testing.assert_array_equal(dataset.pixels[0], colours[dataset.file_rows[0]].transpose(2, 0, 1))
