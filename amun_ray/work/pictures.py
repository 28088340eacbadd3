"""The pictures that a ledger began with, and where the user's files have them now: files may grow, be renamed, or have
their rows in another order, as long as no picture is gone.

Cost: the digest of every picture, once per ledger, and at each command where the files are not as they were. The pixels
are then held in memory.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from amun_ray.base.log import counted
from amun_ray.data.dataset import Dataset
from amun_ray.ledger import History
from amun_ray.ledger.entries import picture_digest
from amun_ray.storage.store import Store, Unit

PICTURES = "pictures.json"
TEST = "test"  # its key for the test pictures, which ledgers of earlier versions do not have
SHOWN = 5  # rows in a message


class Begun(NamedTuple):
    """The data that a ledger began with, taken from files that have changed since.

    Attributes:
        dataset: with the row numbers that the files had then.
        places: (N,) int64, the row of each picture in the dataset of the files as they are now.
    """

    dataset: Dataset
    places: np.ndarray

    def rows_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For training rows of the files as they are now: those of `dataset`, int64, ascending; and the others, which
        were no part of its training set."""
        trained = self.places[:self.dataset.train_size]
        return np.flatnonzero(np.isin(trained, rows)), np.setdiff1d(rows, trained)

    def said(self, now: Dataset) -> str:
        """What changed in the files, in words."""
        before, after = self.dataset.file_numbers, now.file_numbers[self.places]
        moved = [row for row in range(self.dataset.train_size)
                 if before[row] != after[row] or self.places[row] >= now.train_size]
        added = len(np.setdiff1d(now.train_rows, self.places[:self.dataset.train_size]))
        shown = ", ".join(f"row {before[row]} is now {'test ' if self.places[row] >= now.train_size else ''}row "
                          f"{after[row]}" for row in moved[:SHOWN])
        return "; ".join([f"{counted(added, 'training row')} more", f"{counted(len(moved), 'row')} moved" + (
            f": {shown}{', ...' * (len(moved) > SHOWN)}" if moved else "")])


def keep_pictures(dataset: Dataset, store: Store) -> None:
    """Store the digest of every picture, by which they are known when the files have changed."""
    unit = Unit("pictures", {"dataset": dataset.digest})
    if not store.has(unit):
        pictures: dict[str, object] = {str(dataset.file_numbers[row]): picture_digest(dataset.pixels[row])
                                       for row in dataset.train_rows}
        pictures[TEST] = [picture_digest(dataset.pixels[row]) for row in dataset.test_rows]
        store.write(unit, PICTURES, json.dumps(pictures).encode())
        store.finish(unit, {"rows": dataset.train_size}, [PICTURES])


def as_begun(now: Dataset, history: History, store: Store) -> Begun | None:
    """The data of the ledger, from files that have changed since and still have all of them. None where nothing has
    changed, or the files lack something."""
    note = None if history.opened is None or history.opened.content["project"]["dataset"] == now.digest else _noted(
        history, store)
    if note is None:
        return None
    train, test = note
    seen = [picture_digest(image) for image in now.pixels]
    places: dict[str, list[int]] = {}
    for row, picture in enumerate(seen):
        places.setdefault(picture, []).append(row)
    wanted = [*train.values(), *(seen[now.train_size:] if test is None else test)]
    try:
        rows = np.array([_taken(places[picture], now.train_size, number >= len(train))
                         for number, picture in enumerate(wanted)], np.int64)
    except (KeyError, IndexError):  # a picture is gone, or one of two that are the same
        return None
    numbers = np.array([*train, *range(len(wanted) - len(train))], np.int64)
    dataset = replace(now, pixels=now.pixels[rows], labels=now.labels[rows], train_size=len(train), file_rows=numbers,
                      file_train_size=max(train) + 1, paths=now.paths and tuple(now.paths[row] for row in rows))
    assert history.opened is not None, "it has a note"
    return Begun(dataset, rows) if dataset.digest == history.opened.content["project"]["dataset"] else None


def _taken(places: list[int], train_size: int, tested: bool) -> int:
    """Remove the first place from a list that is among the test rows, or is not; if there is none, the first."""
    place = next((row for row in places if (row >= train_size) == tested), places[0])
    places.remove(place)
    return place


def lacking(now: Dataset, history: History, store: Store) -> str:
    """What files lack of the data that a ledger began with; or that they lack nothing but requested pictures."""
    note = _noted(history, store)
    if note is None:
        return "what changed is not known, since the store lost its note of the pictures"
    before = note[0]
    pictures = [picture_digest(now.pixels[row]) for row in now.train_rows]
    there, requested = set(pictures), {row.picture: request for row, request in history.asked.items()}
    lost = {row: picture for row, picture in before.items() if picture not in there}
    kept = [picture for picture in before.values() if picture in there]
    if lost and requested.keys() >= set(lost.values()) and kept == pictures:
        return (f"{counted(len(lost), 'training picture')} gone, asked for as "
                f"{', '.join(dict.fromkeys(requested[picture] for picture in lost.values()))}; nothing else changed "
                "among the training pictures, but the sweep's models and scores are those of all of them")
    if not lost:
        return "no training picture is gone, but labels, classes or test pictures are others"
    shown = ", ".join(f"row {row}" for row in list(lost)[:SHOWN])
    return f"{counted(len(lost), 'training picture')} gone or changed: {shown}{', ...' * (len(lost) > SHOWN)}"


def _noted(history: History, store: Store) -> tuple[Mapping[int, str], list[str] | None] | None:
    """The training pictures by their row in the files, rising, and the test pictures; None where the note is lost."""
    assert history.opened is not None, "a ledger that has begun"
    unit = Unit("pictures", {"dataset": history.opened.content["project"]["dataset"]})
    if not store.is_sound(unit):
        return None
    note = json.loads(store.read(unit, PICTURES).to_pybytes())
    test = note.pop(TEST, None)
    return {int(row): picture for row, picture in note.items()}, test
