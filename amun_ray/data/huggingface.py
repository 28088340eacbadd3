"""A folder of Hugging Face `datasets`: what `save_to_disk` writes, or a repository of the hub as it was downloaded."""

import json
import os
from collections.abc import Mapping
from typing import Any

from amun_ray.base.errors import UserError, first_line
from amun_ray.base.files import expanded
from amun_ray.base.names import suggestion
from amun_ray.data.columns import listed
from amun_ray.data.dataset import ALL, Dataset, Subset
from amun_ray.data.files import ENDINGS, SPLITS, File, find_files, locate, natural
from amun_ray.data.keep import Keep
from amun_ray.data.parquet import FOUND, Columns, Selection, from_files
from amun_ray.data.picture import AS_STORED, Reading

STATE, DICT = "state.json", "dataset_dict.json"  # in a split that was saved to disk; in a folder of such splits
TEST_SPLITS = ("test", "validation")  # in order of preference, if the config names none


def load_huggingface(
    *, path: str | os.PathLike[str], train: str = "train", test: str | None = None, columns: Columns = FOUND,
    reading: Reading = AS_STORED, subset: Subset = ALL, keep: Keep | None = None,
) -> Dataset:
    """Training and test set from one folder; nothing is downloaded, and the library `datasets` is not needed.

    Args:
        path: a folder that `DatasetDict.save_to_disk` wrote (arrow files, `dataset_dict.json`), or one of parquet files
            named by split, such as `data/train-00000-of-00002.parquet`.
        train, test: names of splits. By default `test` is the split `test` or, if there is none, `validation`.
        columns, reading, subset, keep: as for `load_parquet`.

    Raises:
        UserError: no such folder or split; files as `parquet.from_files`.
    """
    splits = _splits(path)
    chosen = test or next((name for name in TEST_SPLITS if name in splits), "test")
    files = [_files(splits, path, key, name) for key, name in (("train", train), ("test", chosen))]
    if train == chosen:
        raise UserError(f"data.test: {path}: the split {train!r} is the training set")
    return from_files("huggingface", files, Selection(columns, reading, subset, keep), [])


def training_files(*, path: str | os.PathLike[str], train: str = "train", **_: object) -> list[File]:
    """The files of the training split, in the order in which their rows count; raises as `load_huggingface`."""
    return _files(_splits(path), path, "train", train)


def _splits(path: str | os.PathLike[str]) -> dict[str, list[File]]:
    """The files of every split in a folder; UserError if it has none."""
    root = expanded(os.fspath(path))
    if not os.path.isdir(root):
        raise UserError(f"data.path: {path}: no such folder")
    splits = _saved_splits(root) or _parquet_splits(root)
    if not splits:
        raise UserError(f"data.path: {path}: no {DICT}, {STATE} or parquet file; what save_to_disk wrote, or a "
                        "repository of the hub, is expected")
    return splits


def _files(splits: Mapping[str, list[File]], path: str | os.PathLike[str], key: str, name: str) -> list[File]:
    """The files of the split `name`, which the setting `key` names."""
    if name not in splits:
        raise UserError(f"data.{key}: {path}: no split {name!r}{suggestion(name, splits)} "
                        f"Splits: {listed(sorted(splits))}")
    return splits[name]


def _saved_splits(root: str) -> dict[str, list[File]]:
    """The arrow files of each split that was saved to disk; UserError for the folder of a single split."""
    if os.path.isfile(os.path.join(root, STATE)):
        raise UserError(f"data.path: {root}: one split; name the folder of the DatasetDict, which has the test split, "
                        "too")
    content = _json(os.path.join(root, DICT))
    names = content.get("splits", []) if content else []
    return {name: _state_files(os.path.join(root, name)) for name in names}


def _state_files(folder: str) -> list[File]:
    state = _json(os.path.join(folder, STATE))
    if state is None:
        raise UserError(f"{os.path.join(folder, STATE)}: missing; the folder is not complete")
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise UserError(f"{folder}: rows were selected, not copied; call flatten_indices() before save_to_disk()")
    names = [entry.get("filename") for entry in state.get("_data_files", [])]
    if not names:
        raise UserError(f"{os.path.join(folder, STATE)}: names no data files")
    for name in names:
        if os.path.basename(str(name)) != name or not os.path.isfile(os.path.join(folder, name)):
            raise UserError(f"{os.path.join(folder, STATE)}: names {name!r}, which is not in this folder")
    return [File(*locate(os.path.join(folder, name))) for name in names]


def _parquet_splits(root: str) -> dict[str, list[File]]:
    """The parquet files below a folder, by the split in their names or in the names of their folders."""
    splits: dict[str, list[str]] = {}
    folders = set()
    for folder, inside, files in os.walk(root):
        inside[:] = [name for name in inside if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                split = _split(name, os.path.relpath(folder, root))
                splits.setdefault(split, []).append(os.path.join(folder, name))
                folders.add((split, folder))
    for split, paths in splits.items():
        places = sorted(folder for its, folder in folders if its == split)
        if len(places) > 1:
            raise UserError(f"data.path: {root}: the split {split!r} is in several folders, {listed(places)}, one for "
                            "each configuration; name one of these")
        paths.sort(key=natural)
    return {split: find_files(paths)[0] for split, paths in splits.items()}


def _split(name: str, folder: str) -> str:
    """The split of a file: the word that its name begins with, else its folder."""
    word = name.split("-")[0].split(".")[0]
    if word in SPLITS or folder == ".":
        return word
    return os.path.basename(folder)


def _json(path: str) -> dict[str, Any] | None:
    """The content of a file of JSON; None if there is no file."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: an object is expected, found {type(content).__name__}")
    return content
