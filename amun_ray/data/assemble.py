"""From labelled image files to a Dataset: all images, or all that can be decoded; rows keep their numbers."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np

from amun_ray.base.errors import UserError
from amun_ray.base.log import say
from amun_ray.base.progress import bar
from amun_ray.data.dataset import Dataset
from amun_ray.data.files import File
from amun_ray.data.images import ImageStack
from amun_ray.data.keep import Keep, Left, entry_key
from amun_ray.data.picture import Reading

FILES_SHOWN = 40  # lines of a plan
SHOWN_FROM = 10_000  # images; decoding fewer has no progress bar


class Images(NamedTuple):
    """The images of D or of D_T, not decoded yet."""

    rows: np.ndarray  # (n,) int64, rising: which rows of the user's files are taken
    labels: np.ndarray  # (n,) int64
    available: int  # rows in the user's files
    fill: Callable[[ImageStack, int], None]  # decode all of them into a stack, from a row of it on
    sources: Sequence[File | str]  # the files that this reads
    paths: Sequence[str] | None = None  # (n,) of each image, relative to its folder, where each is a file


class Classes(NamedTuple):
    """What labels stand for."""

    number: int
    names: tuple[str, ...] = ()


class Assembly(NamedTuple):
    """A data set whose images are not decoded yet; `key` is what they depend on besides their files and `reading`."""

    name: str
    train: Images
    test: Images
    classes: Classes
    reading: Reading
    notes: Sequence[str]
    key: Sequence[str] = ()

    def decoded(self, keep: Keep | None = None) -> Dataset:
        """The dataset; if images are left out, the others keep their row numbers in the user's files.

        With `keep`, a large set of pixels is mapped from a file there instead of being decoded again.

        Raises:
            UserError: as `ImageStack`.
        """
        if keep is None:
            return self._dataset(*self._decode(None))
        read = self.reading
        key = entry_key({"reading": [read.resize, read.center_crop, read.interpolation, read.skip],
                         "key": list(self.key), "classes": self.classes.number,
                         "parts": [hashlib.sha256(part.rows.tobytes() + part.labels.tobytes()).hexdigest()
                                   for part in (self.train, self.test)]},
                        [*self.train.sources, *self.test.sources])
        if (kept := keep.find(key)) is not None:
            dataset = self._dataset(kept.pixels, kept.left)
            if kept.trusted or dataset.digest == kept.digest:
                return dataset.knowing(kept.known)
            say(f"  {dataset.map_path}: not what was written; the images are decoded again")
        try:
            pixels, left = self._decode(keep)
            dataset = self._dataset(pixels, left)
            kept = keep.put(key, dataset, left)
        finally:
            keep.tidy()
        return dataset if kept is None else self._dataset(kept.pixels, left).knowing(kept.known)

    def _decode(self, keep: Keep | None) -> tuple[np.ndarray, Left]:
        count = len(self.train.rows) + len(self.test.rows)
        room, shown = None if keep is None else keep.room, bar("decoding", count, "images")
        with shown if count >= SHOWN_FROM else nullcontext() as progress, ImageStack(
                count, self.name, self.reading, room, bool if progress is None else progress.update) as stack:
            self.train.fill(stack, 0)
            self.test.fill(stack, len(self.train.rows))
        if stack.pixels is None:
            raise UserError(f"{self.name}: no image can be decoded: {stack.problems}")
        return stack.pixels, Left(stack.left_out, stack.problems)

    def _dataset(self, pixels: np.ndarray, left: Left) -> Dataset:
        train, test = self.train, self.test
        count = len(train.rows) + len(test.rows)
        kept = np.delete(np.arange(count), left.rows)
        train_size = int(np.searchsorted(kept, len(train.rows)))
        if not 1 <= train_size < len(kept):
            raise UserError(f"{self.name}: no {'test' if train_size else 'training'} image can be decoded: "
                            f"{left.problems}")
        notes = [f"warning: {len(left.rows):,} of {count:,} images cannot be decoded and are left out: "
                 f"{left.problems}"] if left.rows else []
        paths = None if train.paths is None or test.paths is None else (*train.paths, *test.paths)
        return Dataset(self.name, pixels, np.concatenate([train.labels, test.labels])[kept], train_size,
                       self.classes.number, notes=(*self.notes, *notes),
                       file_rows=np.concatenate([train.rows, test.rows])[kept], file_train_size=train.available,
                       class_names=self.classes.names, paths=paths and tuple(paths[row] for row in kept))


def listing(what: str, files: Sequence[tuple[object, int]], taken: int, available: int, setting: str) -> list[str]:
    """The lines of a plan that give each file or folder its range of rows; of a long list, without the middle.

    Args:
        what: the word that each line begins with.
        files: each with the number of its rows.
        taken, available: how many rows are taken, of how many.
        setting: the key that decides that.
    """
    lines, start = [], 0
    for file, rows in files:
        lines.append(f"{what:<11} {file}: " + (f"rows {start}..{start + rows - 1}" if rows else "no rows"))
        start += rows
    if len(lines) > FILES_SHOWN:
        half = FILES_SHOWN // 2
        lines[half:-half] = [f"{what:<11} ... {len(lines) - 2 * half} more files ..."]
    if taken < available:
        lines.append(f"{what:<11} {taken} of these {available} rows (data.{setting}); each keeps its number")
    return lines
