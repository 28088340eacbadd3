"""What an entry of a ledger says, and how each one vouches for all before it.

What the kinds of entry have in `content` (JSON values; weights and units by digest, times in UTC, scores in percent):

    opened     project {name, model, dataset}, loaded (digests of loaded checkpoints), registry (name of the model
               there), original {weights, unit, test_accuracy}
    received   rows [[file row, picture]], by, source, labels {class: count}, earlier [[file row, request]] (rows that
               an earlier request names, too), added [[file row, picture]] (rows that no model was trained on)
    begun      step (from 1), rows and gone {count, digest}, model (weights before), settings {method, access, lr,
               schedule, epochs, own}, expected_gap, adaptive, recheck, limits, unseen (requests whose rows no reference
               model has seen)
    finished   accepted, reasons, evidence {score: value}, intervals {score: [low, high]}, before and target {score:
               value}, limits, current (the version with the alias), model {weights, unit, version, run}, seconds;
               `failed` with the reason where there is no model
    promoted   version, before (the version that had the alias), model (weights)
    purged     what was deleted and what is left, see `work.purge`
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from amun_ray.base.errors import Damaged

if TYPE_CHECKING:
    import numpy as np

KINDS = ("opened", "received", "begun", "finished", "promoted", "purged")
START = "0" * 64  # what the first entry has in the place of the digest before


class RowId(NamedTuple):
    """A training sample, whatever its file is called: its row there, and the sha256 (hex) of its pixels."""

    row: int
    picture: str


@dataclass(frozen=True)
class Entry:
    """One entry. `requests` names those that it is about: of a batch, all of them."""

    number: int  # from 0, without gaps
    kind: str
    requests: tuple[str, ...]
    time: str  # UTC, ISO 8601, to the microsecond
    content: Mapping[str, Any]
    before: str  # the digest of the entry before
    digest: str

    @classmethod
    def after(cls, last: "Entry | None", kind: str, requests: Sequence[str], time: str,
              content: Mapping[str, Any]) -> Self:
        """The entry that follows `last`."""
        number, before = (0, START) if last is None else (last.number + 1, last.digest)
        text = _canonical(number, kind, requests, time, content, before)
        return cls(number, kind, tuple(requests), time, content, before, _sha256(text))

    @classmethod
    def stored(cls, number: int, kind: str, requests: str, time: str, content: str, before: str, digest: str) -> Self:
        """An entry as a database has it."""
        try:
            return cls(number, kind, tuple(json.loads(requests)), time, json.loads(content), before, digest)
        except (TypeError, ValueError):  # text that is not JSON was changed, too
            return cls(number, str(kind), (), str(time), {}, str(before), "")

    @property
    def is_sound(self) -> bool:
        """Whether the digest is that of what the entry says."""
        return self.digest == _sha256(_canonical(self.number, self.kind, self.requests, self.time, self.content,
                                                 self.before))

    @cached_property
    def rows(self) -> list[RowId]:
        """Of a `received` entry: what is to be forgotten."""
        return [RowId(row, picture) for row, picture in self.content["rows"]]


def row_ids(pixels: "np.ndarray", rows: "np.ndarray", file_numbers: "np.ndarray") -> list[RowId]:
    """The stable ids of dataset rows.

    Args:
        pixels: (N, C, H, W) uint8, of the whole dataset.
        rows: (count,) rows of the dataset.
        file_numbers: (N,) the row of the user's files that each row was.
    """
    return [RowId(int(file_numbers[row]), picture_digest(pixels[row])) for row in rows]


def picture_digest(pixels: "np.ndarray") -> str:
    """sha256 (hex) of a picture (C, H, W) uint8: its shape, then its pixels in C order."""
    content = hashlib.sha256(repr(pixels.shape).encode())
    content.update(pixels.tobytes())
    return content.hexdigest()


def check_chain(entries: Sequence[Entry], place: str, anchor: tuple[int, str] | None = None) -> None:
    """That no entry was changed, removed, added or moved.

    Args:
        entries: all of a ledger, in order.
        place: what messages call the ledger.
        anchor: number and digest of an entry that is known to have been there, from outside of the ledger. A chain that
            lost its last entries is whole in itself: only this tells. The number -1 stands for none.

    Raises:
        Damaged: the first entry at which the chain breaks, and how.
    """
    before = START
    for number, entry in enumerate(entries):
        if entry.number != number:
            raise Damaged(f"{place}: entry {number} was removed: entry {entry.number} stands in its place")
        if not entry.is_sound:
            raise Damaged(f"{place}: entry {number} ({_named(entry)}) was changed: its digest is not that of its text")
        if entry.before != before:
            raise Damaged(f"{place}: entry {number} ({_named(entry)}) does not follow entry {number - 1}: one of the "
                          "two was replaced")
        before = entry.digest
    if anchor is not None:
        number, digest = anchor
        if number < 0:
            return
        if number >= len(entries):
            raise Damaged(f"{place}: entries {len(entries)} to {number} at its end were removed")
        if entries[number].digest != digest:
            raise Damaged(f"{place}: entry {number} ({_named(entries[number])}) is not the one that was written: the "
                          "chain was made anew")


def text(content: Mapping[str, Any]) -> str:
    """`content` as canonical JSON: what is stored, and what digests are taken of."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _canonical(number: int, kind: str, requests: Sequence[str], time: str, content: Mapping[str, Any],
               before: str) -> str:
    return text({"number": number, "kind": kind, "requests": list(requests), "time": time, "content": content,
                 "before": before})


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _named(entry: Entry) -> str:
    return " ".join([entry.kind, *entry.requests])
