"""Pictures in one folder per class: the layout of torchvision's ImageFolder, and that of Tiny ImageNet."""

import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import PurePath
from typing import NamedTuple
from unicodedata import normalize

import numpy as np

from amun_ray.base.errors import UserError, first_line
from amun_ray.base.files import expanded
from amun_ray.base.names import suggestion
from amun_ray.data.assemble import Assembly, Classes, Images, listing
from amun_ray.data.columns import listed, quoted
from amun_ray.data.dataset import ALL, Dataset, Subset, permutation
from amun_ray.data.files import SPLITS, natural
from amun_ray.data.images import ImageStack
from amun_ray.data.keep import Keep
from amun_ray.data.labels import class_list
from amun_ray.data.picture import AS_STORED, Reading

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
           ".jp2", ".j2k", ".avif")
LEFT_BY_SYSTEMS = (".", "__MACOSX", "@eaDir")  # names that begin so are no pictures of the user's
ANNOTATIONS = "val_annotations.txt"  # Tiny ImageNet: name, class and box of each picture of `images/`
TEST_SHARE = 0.2  # of the pictures, for testing, if no folder holds others


class PictureFiles(NamedTuple):
    """The pictures of one folder, in the order in which their rows count."""

    root: str
    paths: list[str]  # relative to `root`, with /
    classes: list[str]  # of each
    ignored: Counter[str]  # how many files have each ending that is no picture's


def load_folder(
    *, train: str | os.PathLike[str], test: str | os.PathLike[str] | None = None, test_share: float | None = None,
    reading: Reading = AS_STORED, subset: Subset = ALL, keep: Keep | None = None,
) -> Dataset:
    """Training and test set from folders of pictures, `train/CLASS/.../picture.jpg`.

    The classes are the folders directly in `train`, numbered in natural order: 2 before 10, n01443537 before n01629819.
    Rows count over the classes in that order, and within a class in the natural order of the paths.

    Args:
        train, test: folders of this machine. `val_annotations.txt`, if there, gives the classes, as in Tiny ImageNet.
        test_share: without `test`, this share of the pictures in `train` is for testing, by default 0.2; the seed of
            `subset` decides which.
        reading: how each picture is read.
        subset: which rows are taken.
        keep: where decoded pixels are kept, mapped into memory; None decodes into memory.

    Returns:
        Dataset with `class_names` and `paths`, the latter relative to `train` and to `test`.

    Raises:
        UserError: no such folder, or one of another layout; a test class that is no training class; pictures that
            cannot be decoded, or have several sizes.
    """
    if test is not None and test_share is not None:
        raise UserError("data.test_share: a share of data.train is for testing only where there is no data.test")
    training = _found("train", train)
    names = sorted(set(training.classes), key=natural)
    share = TEST_SHARE if test_share is None else test_share
    parts = _apart(training, share, subset.seed) if test is None else [
        (files, np.arange(len(files.paths))) for files in (training, _found("test", test))]
    images, notes = [], []
    for (files, rows), what, key in zip(parts, ("training", "test"), ("train", "test"), strict=True):
        taken = rows[subset.rows(key, len(rows))]
        images.append(_images(files, taken, names))
        cut = "test_share" if test is None and len(taken) == len(rows) else f"{key}_size"
        folders = [] if test is None and images[1:] else list(_per_class(files).items())
        notes += listing(what, folders, len(taken), len(files.paths), cut)
    notes += [*_ignored([files for files, _ in parts[:1 if test is None else 2]]), *class_notes(names)]
    return Assembly("folder", images[0], images[1], Classes(len(names), tuple(names)), reading, notes).decoded(keep)


def _found(setting: str, folder: str | os.PathLike[str]) -> PictureFiles:
    """The pictures below a folder with their classes.

    Raises:
        UserError: it is no folder of pictures by class; the message says what it is.
    """
    if "://" in (root := expanded(os.fspath(folder))):
        raise UserError(f"data.{setting}: {folder}: a folder of this machine is needed; or use parquet files")
    if not os.path.isdir(root):
        raise UserError(f"data.{setting}: {folder}: " + ("a file, not a folder" if os.path.exists(root) else
                                                         "no such folder"))
    paths, ignored = _walk(setting, root)
    if os.path.isfile(os.path.join(root, ANNOTATIONS)):
        classes = _annotated(root, paths)
    else:
        classes = [normalize("NFC", path.split("/")[0]) if "/" in path else "" for path in paths]
    if alone := [path for path, name in zip(paths, classes, strict=True) if not name]:
        raise UserError(f"data.{setting}: {folder}: {alone[0]}{f' and {len(alone) - 1:,} more' if alone[1:] else ''} "
                        "in no folder of a class; CLASS/picture.jpg is expected")
    if not paths:
        raise UserError(f"data.{setting}: {folder}: no pictures; CLASS/picture.jpg is expected; endings: "
                        f"{', '.join(ENDINGS)}")
    if all(name.lower() in SPLITS for name in classes):
        raise UserError(f"data.{setting}: {folder}: has folders of splits, {listed(sorted(set(classes)))}, and none of "
                        "classes; name one of these instead")
    order = sorted(range(len(paths)), key=lambda row: (natural(classes[row]), natural(paths[row])))
    return PictureFiles(root, [paths[row] for row in order], [classes[row] for row in order], ignored)


def _walk(setting: str, root: str) -> tuple[list[str], Counter[str]]:
    """Every picture below `root`, by its path with /, and the endings of all other files; links are followed once."""
    paths: list[str] = []
    ignored: Counter[str] = Counter()
    seen: set[str] = set()
    try:
        for folder, folders, files in os.walk(root, followlinks=True, onerror=_raise):
            seen.add(os.path.realpath(folder))
            below = "" if folder == root else f"{PurePath(os.path.relpath(folder, root)).as_posix()}/"
            folders[:] = [name for name in folders if not name.startswith(LEFT_BY_SYSTEMS)
                          and os.path.realpath(os.path.join(folder, name)) not in seen]
            for name in files:
                if name.startswith(LEFT_BY_SYSTEMS):
                    continue
                ending = os.path.splitext(name)[1].lower()
                if ending in ENDINGS:
                    paths.append(f"{below}{name}")
                else:
                    ignored[ending or "no ending"] += 1
    except OSError as error:
        raise UserError(f"data.{setting}: {root}: cannot be read: {first_line(error)}") from error
    return paths, ignored


def _raise(error: OSError) -> None:
    raise error


def _annotated(root: str, paths: Sequence[str]) -> list[str]:
    """The class of each picture by Tiny ImageNet's list; UserError for a picture that it lacks."""
    try:
        with open(os.path.join(root, ANNOTATIONS), encoding="utf-8") as file:
            lines = [line.rstrip("\n").split("\t") for line in file if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{os.path.join(root, ANNOTATIONS)}: cannot be read: {first_line(error)}") from error
    if wrong := next((number for number, cells in enumerate(lines, 1) if len(cells) < 2), None):
        raise UserError(f"{os.path.join(root, ANNOTATIONS)}: line {wrong}: a file and its class with a tab between are "
                        "expected")
    of = {cells[0]: cells[1] for cells in lines}
    if lost := next((path for path in paths if path.rpartition("/")[2] not in of), None):
        raise UserError(f"{os.path.join(root, ANNOTATIONS)}: has no class for {lost}")
    return [of[path.rpartition("/")[2]] for path in paths]


def _apart(files: PictureFiles, share: float, seed: int) -> list[tuple[PictureFiles, np.ndarray]]:
    """A random share of the pictures for testing, the others for training; each keeps its row."""
    count = round(share * len(files.paths))
    if not 0 < share < 1 or not 0 < count < len(files.paths):
        raise UserError(f"data.test_share: must leave pictures for training and for testing, but got {share:g} of "
                        f"{len(files.paths)}")
    order = permutation(len(files.paths), seed, "test share")
    return [(files, np.sort(order[count:])), (files, np.sort(order[:count]))]


def _images(of_folder: PictureFiles, rows: np.ndarray, names: Sequence[str]) -> Images:
    """The pictures of `rows`, labelled; UserError for a class that is not among `names`."""
    number = {name: label for label, name in enumerate(names)}
    if unknown := next((name for name in of_folder.classes if name not in number), None):
        raise UserError(f"{os.path.join(of_folder.root, unknown)}: {quoted(unknown)} is no class of the training set"
                        f"{suggestion(unknown, names)} Classes: {listed(names)}")
    labels = np.array([number[of_folder.classes[row]] for row in rows], np.int64)
    paths = [of_folder.paths[row] for row in rows]
    files = [os.path.join(of_folder.root, path) for path in paths]
    return Images(rows, labels, len(of_folder.paths), partial(_fill, files), files, paths)


def _fill(files: Sequence[str], stack: ImageStack, start: int) -> None:
    stack.fill(start, files, lambda position: files[position])


def _per_class(files: PictureFiles) -> Counter[str]:
    """The number of pictures of each class, by its folder, in the order of the rows."""
    annotated = os.path.isfile(os.path.join(files.root, ANNOTATIONS))
    return Counter(f"{files.root} of {name}" if annotated else os.path.join(files.root, name)
                   for name in files.classes)


def _ignored(folders: Sequence[PictureFiles]) -> list[str]:
    """The lines of a plan about files that are no pictures."""
    return [f"ignored     {files.root}: {sum(files.ignored.values()):,} files that are no pictures "
            f"({listed([f'{count} {ending}' for ending, count in files.ignored.most_common()])})"
            for files in folders if files.ignored]


def class_notes(names: Sequence[str]) -> list[str]:
    """The lines of a plan about the names of the classes and their order."""
    notes = [class_list(names)]
    if list(names) != sorted(names):
        notes.append("order       of classes: by the numbers in their names; ImageFolder of torchvision sorts as text")
    return notes
