"""Requests by the paths of image files, a pattern or a list, as rows of the training set."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from unicodedata import normalize

import numpy as np

from amun_ray.base.errors import UserError
from amun_ray.data.columns import quoted
from amun_ray.data.csv_lines import file_content, text_lines
from amun_ray.data.dataset import Dataset
from amun_ray.data.requests import BYTES_AT_LEAST, BYTES_PER_ROW, Request, nearest, some
from amun_ray.data.splits import Groups


def of_pattern(dataset: Dataset, pattern: str) -> Request:
    """The training images whose files match: `*` and `?` stand for a part of one name, `**` for folders at any depth.

    A pattern may begin at any folder of a path: `person_17/*` finds `cat/person_17/1.jpg`.

    Raises:
        UserError: no file matches, or the images of this dataset are no files.
    """
    paths = _paths(dataset, "forget.pattern")[:dataset.train_size]
    wanted = _parts(pattern)
    rows = np.array([row for row, path in enumerate(paths) if _fits(_parts(path), ("**", *wanted))], np.int64)
    if not rows.size:
        raise UserError(f"forget.pattern: no training image matches {pattern!r}{_near_pattern(wanted, paths)}")
    return Request(f"pattern {pattern!r}", dataset.file_numbers[rows], _whole_folders(paths, rows))


def of_files(dataset: Dataset, path: str) -> Request:
    """The training images that a text file lists, a path relative to the data folder on each line.

    Raises:
        UserError: a line that is no training image, or that appears twice; no lines; images that are no files.
    """
    paths = _paths(dataset, "forget.files")
    place_of = {normalize("NFC", picture): row for row, picture in enumerate(paths[:dataset.train_size])}
    unseen = {normalize("NFC", picture) for picture in paths[dataset.train_size:]}
    limit = BYTES_AT_LEAST + BYTES_PER_ROW * dataset.train_size
    content = file_content(path, limit)
    if len(content) > limit:
        raise UserError(f"{path}: more than {limit / 1e6:.0f} MB; write one path per line")
    lines: dict[int, int] = {}  # row -> line
    for number, line in text_lines(path, content):
        name = normalize("NFC", line).replace("\\", "/").removeprefix("./")
        row = place_of.get(name)
        if row is None:
            why = "is a test image, which no model learned" if name in unseen else (
                "is no training image" + (nearest(name, list(place_of)) or
                                          f"; they are called {some(paths)}"))
            raise UserError(f"{path}: line {number}: {quoted(line)} {why}")
        if row in lines:
            raise UserError(f"{path}: line {number}: {quoted(line)} is named twice, first in line {lines[row]}")
        lines[row] = number
    if not lines:
        raise UserError(f"{path}: no file names; a forget set needs at least one")
    rows = np.array(sorted(lines), np.int64)
    return Request(path, dataset.file_numbers[rows], _whole_folders(paths[:dataset.train_size], rows))


def _paths(dataset: Dataset, key: str) -> Sequence[str]:
    if dataset.paths is None:
        raise UserError(f"{key}: the images of {dataset.name} are no files of their own; use indices, classes or "
                        "column")
    return dataset.paths


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in normalize("NFC", path).split("/") if part not in ("", "."))


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _whole_folders(paths: Sequence[str], rows: np.ndarray) -> Groups | None:
    """The folders, by name, if `rows` are all images of some of them: one person may have a folder in each class."""
    folders = [path.rpartition("/")[0].rpartition("/")[2] for path in paths]
    names, of = np.unique(folders, return_inverse=True)
    whole = np.count_nonzero(np.isin(of, of[rows])) == len(rows) and all(folders[row] for row in rows)
    return Groups("folder", names.tolist(), of.astype(np.int64)) if whole else None


def _near_pattern(wanted: Sequence[str], paths: Sequence[str]) -> str:
    """What a pattern may have meant: the nearest name to a part that matches nothing, or some names of files."""
    names = list(dict.fromkeys(part for path in paths for part in _parts(path)))
    for part in wanted:
        if not any(fnmatchcase(name, part) for name in names) and (near := nearest(part, names)):
            return near
    return f"; they are called {some(paths)}"
