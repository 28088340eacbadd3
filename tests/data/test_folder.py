"""Folders of pictures: the layout, the order of the rows, the names of the classes, what goes wrong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amun_ray.base.errors import UserError
from amun_ray.data import load

SHARED = Path(__file__).parents[3] / "shared" / "data"


def draw(path: Path, colour: int, size: tuple[int, int] = (6, 5)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 0, 0)).save(path)


@pytest.fixture
def pictures(tmp_path):
    """Folders `train`, of classes 10 and 2, three pictures each, one of them deeper; and `test`, one picture each."""
    for number, name in enumerate(("2/a10.png", "2/a9.png", "2/deep/er/0.png", "10/x.png", "10/y.PNG", "10/z.bmp")):
        draw(tmp_path / "train" / name, number)
    for number, name in enumerate(("2/t.png", "10/t.png"), 100):
        draw(tmp_path / "test" / name, number)
    return {"train": str(tmp_path / "train"), "test": str(tmp_path / "test")}


def test_rows_and_classes_count_in_natural_order(pictures):
    dataset = load("folder", **pictures)
    assert dataset.class_names == ("2", "10")
    assert dataset.paths == ("2/a9.png", "2/a10.png", "2/deep/er/0.png", "10/x.png", "10/y.PNG", "10/z.bmp",
                             "2/t.png", "10/t.png")
    np.testing.assert_array_equal(dataset.pixels[:, 0, 0, 0], [1, 0, 2, 3, 4, 5, 100, 101])
    np.testing.assert_array_equal(dataset.labels, [0, 0, 0, 1, 1, 1, 0, 1])
    np.testing.assert_array_equal(dataset.file_numbers, [0, 1, 2, 3, 4, 5, 0, 1])
    assert (dataset.train_size, dataset.classes, dataset.pixels.shape[1:]) == (6, 2, (3, 5, 6))
    assert f"training    {pictures['train']}/10: rows 3..5" in dataset.notes
    assert "classes     0 2, 1 10" in dataset.notes
    assert any("ImageFolder of torchvision sorts as text" in note for note in dataset.notes)


def test_the_order_does_not_depend_on_the_file_system(pictures, monkeypatch):
    import os
    walk, first = os.walk, load("folder", **pictures)

    def backwards(*args, **options):
        for folder, folders, files in walk(*args, **options):
            folders.sort(reverse=True)
            yield folder, folders, sorted(files, reverse=True)

    monkeypatch.setattr(os, "walk", backwards)
    assert load("folder", **pictures).digest == first.digest


def test_a_share_for_testing_is_random_and_keeps_its_rows(pictures):
    del pictures["test"]
    one, again, other = (load("folder", **pictures, test_share=0.5, seed=seed) for seed in (0, 0, 1))
    assert one.digest == again.digest != other.digest
    assert one.train_size == 3
    assert sorted(one.file_numbers) == list(range(6))
    for row, number in enumerate(one.file_numbers):
        assert one.paths[row] == load("folder", **pictures, test_share=0.5).paths[row]
        assert one.pixels[row, 0, 0, 0] == [1, 0, 2, 3, 4, 5][number]
    assert one.file_train_size == 6
    assert "test        3 of these 6 rows (data.test_share); each keeps its number" in one.notes


def test_a_subset_keeps_the_numbers_of_its_rows(pictures):
    dataset = load("folder", **pictures, train_size=4, test_size=1)
    assert len(dataset.paths) == 5
    np.testing.assert_array_equal(dataset.pixels[:4, 0, 0, 0],
                                  np.array([1, 0, 2, 3, 4, 5])[dataset.file_numbers[:4]])


def test_what_is_no_picture_is_left_out_and_said(pictures):
    root = Path(pictures["train"])
    (root / "2" / "boxes.txt").write_text("no picture")
    (root / "2" / ".DS_Store").write_text("no picture")
    (root / "__MACOSX").mkdir()
    draw(root / "__MACOSX" / "2" / "a.png", 0)
    dataset = load("folder", **pictures)
    assert len(dataset) == 8
    assert f"ignored     {root}: 1 files that are no pictures (1 .txt)" in dataset.notes


def test_a_link_that_leads_back_is_followed_once(pictures):
    (Path(pictures["train"]) / "2" / "again").symlink_to(pictures["train"])
    assert len(load("folder", **pictures)) == 8


def test_tiny_imagenets_own_layout(tmp_path):
    for name in ("n01", "n02"):
        draw(tmp_path / "train" / name / "images" / f"{name}_0.JPEG", 0)
        (tmp_path / "train" / name / f"{name}_boxes.txt").write_text("0 0 1 1")
    for number in (0, 1, 10):
        draw(tmp_path / "val" / "images" / f"val_{number}.JPEG", 0)
    (tmp_path / "val" / "val_annotations.txt").write_text(
        "val_0.JPEG\tn02\t0\t0\nval_1.JPEG\tn01\t0\t0\nval_10.JPEG\tn02\t0\t0\n")
    dataset = load("folder", train=str(tmp_path / "train"), test=str(tmp_path / "val"))
    assert dataset.paths[2:] == ("images/val_1.JPEG", "images/val_0.JPEG", "images/val_10.JPEG")
    np.testing.assert_array_equal(dataset.labels, [0, 1, 0, 1, 1])
    (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn02\n")
    with pytest.raises(UserError, match=r"val_annotations.txt: has no class for images/val_1"):
        load("folder", train=str(tmp_path / "train"), test=str(tmp_path / "val"))


def test_names_that_two_systems_write_in_two_ways_are_one_class(tmp_path):
    draw(tmp_path / "train" / "caf\u00e9" / "1.png", 0)
    draw(tmp_path / "train" / "tea" / "1.png", 0)
    draw(tmp_path / "test" / "cafe\u0301" / "1.png", 0)
    assert load("folder", train=str(tmp_path / "train"), test=str(tmp_path / "test")).labels[-1] == 0


@pytest.mark.parametrize(("settings", "error"), [
    ({"train": "nowhere"}, "data.train: nowhere: no such folder"),
    ({"test": "file"}, "data.test: file: a file, not a folder"),
    ({"train": "empty"}, r"data.train: empty: no pictures; CLASS/picture.jpg is expected; endings: .jpg"),
    ({"train": "."}, "has folders of splits, test, train, and none of classes"),
    ({"train": "flat"}, "flat: a.png and 1 more in no folder of a class"),
    ({"test": "strange"}, r"'20' is no class of the training set; did you mean '2'\? Classes: 2, 10"),
    ({"train": "s3://bucket/x"}, "a folder of this machine is needed"),
    ({"test_share": 0.5}, "data.test_share: a share of data.train is for testing only where there is no data.test"),
    ({"test": None, "test_share": 0.01}, "must leave pictures for training and for testing, but got 0.01 of 6"),
    ({"center_crop": 4, "resize": 3}, r"data.center_crop: must be at most data.resize \(3\), but got 4"),
    ({"center_crop": 7}, r"9.png: the image of 6 x 5 pixels is smaller than data.center_crop \(7\); set data.resize"),
    ({"on_error": "ignore"}, "data.on_error: must be stop or skip, but got 'ignore'"),
    ({"interpolation": "nearest"}, "data.interpolation: must be bilinear or bicubic"),
])
def test_what_is_no_data_set_is_said_in_one_line(pictures, tmp_path, monkeypatch, settings, error):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    draw(tmp_path / "flat" / "a.png", 0)
    draw(tmp_path / "flat" / "b.png", 0)
    draw(tmp_path / "strange" / "20" / "b.png", 0)
    if settings.get("train") == ".":  # nothing but the two splits
        for name in ("empty", "flat", "strange"):
            (tmp_path / name).rename(tmp_path.parent / f"{tmp_path.name}-{name}")
    with pytest.raises(UserError, match=error) as caught:
        load("folder", **pictures | settings)
    assert "\n" not in str(caught.value)


def test_sizes_that_differ_name_the_keys_that_make_them_one(pictures):
    draw(Path(pictures["train"]) / "10" / "y.PNG", 0, (8, 12))
    for settings, keys in (({}, "data.resize and data.center_crop"), ({"resize": 4}, "data.center_crop")):
        with pytest.raises(UserError, match=f"10/y.PNG: image of .*; all images must have one size: set {keys}$"):
            load("folder", **pictures, **settings)
    assert load("folder", **pictures, resize=4, center_crop=4).pixels.shape == (8, 3, 4, 4)


def test_pictures_that_cannot_be_decoded_are_counted_or_left_out(pictures):
    for number in range(12):
        (Path(pictures["train"]) / "2" / f"b{number}.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError) as caught:
        load("folder", **pictures)
    text = str(caught.value)
    assert text.startswith("folder: 12 of 20 images cannot be decoded; data.on_error: skip leaves out what cannot be "
                           f"decoded: {pictures['train']}/2/b0.jpg: the image cannot be decoded: not an image")
    assert "b9.jpg" in text
    assert "b10.jpg" not in text
    assert text.endswith("; and 2 more")
    dataset = load("folder", **pictures, on_error="skip")
    np.testing.assert_array_equal(dataset.pixels[:, 0, 0, 0], [1, 0, 2, 3, 4, 5, 100, 101])
    np.testing.assert_array_equal(dataset.file_numbers, [0, 1, 14, 15, 16, 17, 0, 1])
    assert dataset.paths[2:4] == ("2/deep/er/0.png", "10/x.png")
    np.testing.assert_array_equal(dataset.labels, [0, 0, 0, 1, 1, 1, 0, 1])
    assert (dataset.train_size, dataset.file_train_size) == (6, 18)
    assert dataset.notes[-1].startswith("warning: 12 of 20 images cannot be decoded and are left out: ")


def test_a_set_of_which_nothing_can_be_decoded_is_none(pictures):
    for path in Path(pictures["test"]).rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(UserError, match="folder: no test image can be decoded: .*t.png: the image cannot be decoded"):
        load("folder", **pictures, on_error="skip")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the photographs are not here")
def test_photographs_in_the_forms_people_have(tmp_path):
    """Every mode, format and orientation of the manifest: the upright size decides what is cut out."""
    import csv
    import tarfile

    from torchvision.transforms import v2

    with tarfile.open(SHARED / "photos_mixed_imagefolder.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    root = tmp_path / "photos_mixed"
    dataset = load("folder", train=str(root / "train"), test=str(root / "val"), resize=72, center_crop=64)
    assert dataset.pixels.shape == (410, 3, 64, 64)
    by_path = {f"{split}/{path}": row for row, (split, path) in
               enumerate(zip(["train"] * 330 + ["val"] * 80, dataset.paths, strict=True))}
    scaled = v2.Compose([v2.Resize(72), v2.CenterCrop(64)])
    with (root / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 410
    for row in rows:
        with Image.open(root / row["path"]) as image:
            if row["orientation"] != "1" or image.mode.startswith("I"):
                continue
            wanted = np.asarray(scaled(image.convert("RGB"))).transpose(2, 0, 1)
        np.testing.assert_array_equal(dataset.pixels[by_path[row["path"]]], wanted, err_msg=row["path"])
