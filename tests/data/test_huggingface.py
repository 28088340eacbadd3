"""Folders of Hugging Face datasets, written here as that library writes them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from amun_ray.base.errors import UserError
from amun_ray.data import further, load

NAMES = ["cat", "dog", "eel"]
FEATURES = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"},
            "person": {"dtype": "int64", "_type": "Value"}}


@pytest.fixture
def table(png, colours):
    """A table of images with the metadata of `datasets`."""

    def table(images, labels, features=FEATURES):
        cells = [{"bytes": png(image), "path": None} for image in images]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        made = pa.table({"image": pa.array(cells, kind), "label": pa.array(labels, pa.int64()),
                         "person": pa.array([7] * len(labels), pa.int64())})
        return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})

    return table


@pytest.fixture
def saved(tmp_path, table, colours):
    """What `DatasetDict.save_to_disk` writes: train in two arrow files, test and validation in one."""
    root = tmp_path / "saved"
    for split, files in {"train": [(colours[:2], [0, 2]), (colours[2:4], [1, 0])],
                         "test": [(colours[4:6], [2, 0])], "validation": [(colours[6:], [1, 1])]}.items():
        (root / split).mkdir(parents=True)
        names = []
        for number, (images, labels) in enumerate(files):
            names.append(f"data-{number:05d}-of-{len(files):05d}.arrow")
            made = table(images, labels)
            with pa.OSFile(str(root / split / names[-1]), "wb") as sink, pa.ipc.new_stream(sink, made.schema) as out:
                out.write_table(made)
        (root / split / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names],
                                                             "_fingerprint": "0", "_split": split}))
        (root / split / "dataset_info.json").write_text(json.dumps({"features": FEATURES}))
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test", "validation"]}))
    return root


@pytest.fixture
def hub(tmp_path, table, colours):
    """A repository of the hub, as it is downloaded."""
    root = tmp_path / "hub"
    (root / "data").mkdir(parents=True)
    (root / "README.md").write_text("a card")
    for name, rows, labels in (("train-00000-of-00002", slice(2), [0, 2]),
                               ("train-00001-of-00002", slice(2, 4), [1, 0]),
                               ("validation-00000-of-00001", slice(4, 6), [2, 0])):
        pq.write_table(table(colours[rows], labels), root / "data" / f"{name}.parquet")
    return root


@pytest.mark.parametrize("kind", ["saved", "hub"])
def test_pixels_labels_and_names_come_back(kind, request, colours):
    dataset = load("huggingface", path=str(request.getfixturevalue(kind)))
    np.testing.assert_array_equal(dataset.pixels, colours[:6].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(dataset.labels, [0, 2, 1, 0, 2, 0])
    assert (dataset.train_size, dataset.classes, dataset.class_names) == (4, 3, tuple(NAMES))
    assert "classes     0 cat, 1 dog, 2 eel" in dataset.notes
    assert any(note.startswith("training") and note.endswith(": rows 2..3") for note in dataset.notes)


def test_splits_are_chosen_by_key(saved, colours):
    dataset = load("huggingface", path=str(saved), train="validation", test="train", test_size=1)
    np.testing.assert_array_equal(dataset.pixels[:2], colours[6:].transpose(0, 3, 1, 2))
    assert dataset.train_size == 2
    assert dataset.classes == 3  # as many as have names, though D has one


def test_the_random_access_form_of_arrow_is_read_too(saved, table, colours):
    path = saved / "test" / "data-00000-of-00001.arrow"
    made = table(colours[4:6], [2, 0])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, made.schema) as out:
        out.write_table(made)
    np.testing.assert_array_equal(load("huggingface", path=str(saved)).labels[4:], [2, 0])


def test_a_further_column_counts_over_the_arrow_files_of_the_training_split(saved, table, colours):
    for number, (images, persons) in enumerate([(colours[:2], [3, 7]), (colours[2:4], [7, None])]):
        made = table(images, [0, 1])
        made = made.set_column(2, "person", pa.array(persons, pa.int64()))
        path = saved / "train" / f"data-{number:05d}-of-00002.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, made.schema) as out:
            out.write_table(made)
    assert further("huggingface", "person", path=str(saved)).to_pylist() == [3, 7, 7, None]
    assert further("huggingface", "person", path=str(saved), train="validation").to_pylist() == [7, 7]
    with pytest.raises(UserError, match="no columns called 'persn'; columns: image, label, person"):
        further("huggingface", "persn", path=str(saved))


def test_a_label_that_is_none_is_refused(saved, table, colours, tmp_path):
    root = tmp_path / "none"
    root.mkdir()
    pq.write_table(table(colours[:2], [0, -1]), root / "test.parquet")
    pq.write_table(table(colours[:2], [0, 1]), root / "train.parquet")
    with pytest.raises(UserError, match="test.parquet: row 1: label -1 is outside the classes 0..2"):
        load("huggingface", path=str(root))


def test_files_with_other_classes_do_not_fit(table, colours, tmp_path):
    root = tmp_path / "other"
    root.mkdir()
    other = {**FEATURES, "label": {"names": ["dog", "cat"], "_type": "ClassLabel"}}
    pq.write_table(table(colours[:2], [0, 1]), root / "train.parquet")
    pq.write_table(table(colours[:2], [0, 1], other), root / "test.parquet")
    with pytest.raises(UserError, match="test.parquet: its classes are dog, cat, those of .*train.parquet are cat,"):
        load("huggingface", path=str(root))


def test_a_split_in_two_configurations_is_not_guessed(hub, table, colours):
    (hub / "other").mkdir()
    pq.write_table(table(colours[:1], [0]), hub / "other" / "train-00000-of-00001.parquet")
    with pytest.raises(UserError, match="the split 'train' is in several folders"):
        load("huggingface", path=str(hub))


@pytest.mark.parametrize(("change", "settings", "error"), [
    (None, {"path": "nowhere"}, "data.path: nowhere: no such folder"),
    (None, {"train": "trian"}, r"data.train: .*: no split 'trian'; did you mean 'train'\? Splits: test, train, val"),
    (None, {"test": "train"}, "data.test: .*: the split 'train' is the training set"),
    (("train/state.json", None), {}, "train/state.json: missing; the folder is not complete"),
    (("train/state.json", '{"_data_files": [{"filename": "../../x.arrow"}]}'), {}, "which is not in this folder"),
    (("train/state.json", '{"_data_files": []}'), {}, "names no data files"),
    (("train/state.json", '{"_indices_data_files": [{"filename": "i"}]}'), {}, "rows were selected, not copied"),
    (("train/state.json", "[]"), {}, "an object is expected, found list"),
    (("dataset_dict.json", "no json"), {}, "dataset_dict.json: cannot be read"),
    (("dataset_dict.json", None), {}, "no dataset_dict.json, state.json or parquet file"),
    (("state.json", "{}"), {}, "one split; name the folder of the DatasetDict"),
    (("test/data-00000-of-00001.arrow", "no arrow"), {}, "data-00000-of-00001.arrow: cannot be read as arrow"),
    (None, {"label_column": "person", "image_column": "label"}, "no image column 'label'"),
])
def test_what_is_wrong_is_said_in_one_line(saved, change, settings, error):
    if change is not None:
        name, content = change
        (saved / name).unlink() if content is None else (saved / name).write_text(content)
    with pytest.raises(UserError, match=error) as caught:
        load("huggingface", **{"path": str(saved)} | settings)
    assert "\n" not in str(caught.value)
