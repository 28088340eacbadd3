"""Where finished work lives: addressed by content, whole or absent, on a disk or in an object store alike.

A unit of work (one training run, one adversarial set, one trial, one unlearned model) is a folder `<kind>/<digest>/`.
The digest covers everything that the unit's result depends on. `unit.json`, written last, marks the folder as complete
and holds the inputs (the lineage), the result, and a checksum of everything (see `seal`). Running the same command
again finds these units and repeats none, except those that are no longer what was written.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from amun_ray.base.errors import Damaged
from amun_ray.base.log import say
from amun_ray.storage import seal
from amun_ray.storage.files import Files
from amun_ray.storage.leases import taken_by

FORMAT = 1  # part of every digest: raise it when a stage computes different results from the same inputs
AGAIN = "the same command makes it again"
PIXELS = "pixels"  # the folder with decoded pixels
WITHOUT_UNITS = ("scratch", "sweeps", "leases", PIXELS)  # every folder of a store that is no kind of unit
COMPLETE, VOUCHER = "unit.json", ".seal"  # the latter is the suffix of a file that vouches for another
_sound: dict[tuple[str, str], tuple[object, str]] = {}  # checked by this process: (store, name) -> identity, checksum
_told: set[str] = set()  # lines that this process has already printed


@dataclass(frozen=True)
class Unit:
    """The address of one unit of work: its kind and the digest of `inputs` (JSON values only)."""

    kind: str
    inputs: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        return digest({"format": FORMAT, "kind": self.kind, "inputs": self.inputs})

    @property
    def folder(self) -> str:
        return f"{self.kind}/{self.digest}"


def digest(value: Any) -> str:
    """The first 20 hex digits of the sha256 of `value`: bytes directly, anything else as canonical JSON."""
    if not isinstance(value, bytes):
        value = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    return hashlib.sha256(value).hexdigest()[:20]


class Store(Files):
    """The folder of finished units.

    `key` is called in each process to get the signing key, so that no copy of the store contains the key itself.
    """

    def __init__(self, uri: str, owner: str | None = None, key: Callable[[], bytes | None] = seal.key) -> None:
        super().__init__(uri, owner)
        self.key = key
        self._written: dict[str, str] = {}  # checksums of files that this process wrote, by path, until `finish`

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.uri, self.owner, self.key)

    def path(self, unit: Unit, name: str) -> str:
        """The path of the file `name` of `unit`, whether or not it exists."""
        return self.locate(f"{unit.folder}/{name}")

    def has(self, unit: Unit, name: str = COMPLETE) -> bool:
        return self._root[0].get_file_info(self.path(unit, name)).is_file

    def write(self, unit: Unit, name: str, data: bytes) -> str:
        """Write a file of `unit` whole or not at all; returns its path."""
        self.put(f"{unit.folder}/{name}", data)
        self._written[self.path(unit, name)] = seal.checksum(data)
        return self.path(unit, name)

    def content(self, unit: Unit, name: str) -> pa.Buffer:
        """The bytes of a file, unchecked; memory-mapped, not copied, if the store is local."""
        filesystem, _ = self._root
        path = self.path(unit, name)
        if self.local and filesystem.get_file_info(path).size:
            return pa.memory_map(path).read_buffer()
        with filesystem.open_input_file(path) as stream:
            return stream.read_buffer()

    def read(self, unit: Unit, name: str) -> pa.Buffer:
        """`content` of a file of a complete unit, checked to be what was written.

        Cost: one pass over its bytes the first time a process reads it, and again if size, time or inode have changed
        since. A change that keeps all three is noticed only by the next process.

        Raises:
            Damaged: it is not what was written, or is missing.
        """
        again = AGAIN
        try:
            content = self._open(unit)
            if content is None:
                raise Damaged(f"{self.path(unit, COMPLETE)}: missing")
            if "files" not in content:
                again = f"remove {self.locate(unit.folder)}, and {again}"
            self._check(unit, name, content)
        except Damaged as error:
            raise Damaged(f"{error}; {again}") from error
        return self.content(unit, name)

    def delete(self, unit: Unit, name: str) -> None:
        self._root[0].delete_file(self.path(unit, name))

    def finish(self, unit: Unit, result: dict[str, Any], files: Sequence[str] = ()) -> dict[str, Any]:
        """Mark `unit`, which consists of `files`, as complete; returns `result` (JSON values only) as a later call of
        `self.result` will. A file that another process wrote is read for its checksum.

        Raises:
            Damaged: there is a key, and another process wrote a file without calling `vouch`.
        """
        self._close(unit, COMPLETE, result, {name: self._sum(unit, name) for name in files})
        return result

    def vouch(self, unit: Unit, name: str) -> None:
        """Sign a file that this process wrote, if there is a key, because another process will finish `unit`."""
        checksum = self._written.pop(self.path(unit, name))
        if self.key() is not None:
            self._close(unit, name + VOUCHER, None, {name: checksum})

    def ended(self, unit: Unit) -> float | None:
        """When `unit` was completed, in seconds since 1970, by the clock of the storage; None if it is not complete."""
        mtime = self._root[0].get_file_info(self.path(unit, COMPLETE)).mtime
        return None if mtime is None else mtime.timestamp()

    def inputs(self, kind: str) -> Iterator[dict[str, Any]]:
        """The inputs of every complete unit of a kind whose `unit.json` is what was written."""
        for folder in self.times(kind):
            with suppress(Damaged):
                if (content := self._parse(f"{kind}/{folder}", COMPLETE)) is not None:
                    yield content["inputs"]

    def result(self, unit: Unit) -> dict[str, Any] | None:
        """The result of a complete and sound unit, or None. Its damaged files are reported: they are made again.

        Cost: that of `read` for every file of the unit.
        """
        content, faults = self._look(unit)
        if content is None and not faults and self._is_left(unit.folder):
            faults.append(f"{self.path(unit, COMPLETE)}: missing")
        for fault in faults:
            self._tell(f"  {fault}; it is made again")
        return None if faults or content is None else content["result"]

    def made(self, unit: Unit) -> dict[str, Any]:
        """`result` of a unit that was just made or found; Damaged if it no longer exists whole."""
        content, faults = self._look(unit)
        if faults or content is None:
            raise Damaged(f"{[*faults, f'{self.path(unit, COMPLETE)}: missing'][0]}; {AGAIN}")
        return content["result"]

    def is_sound(self, unit: Unit) -> bool:
        """Whether `unit` is complete and all of it is what was written: `result` without messages."""
        content, faults = self._look(unit)
        return content is not None and not faults

    def fault(self, unit: Unit, name: str, content: Mapping[str, Any] | None = None) -> str | None:
        """Why a file must not be used, in one line that begins with its path; None if it is fine.

        If the unit is incomplete or its `unit.json` damaged, only a voucher can tell. `content`: what `unit.json` says,
        if the caller has read it.
        """
        with suppress(Damaged):
            content = content or self._open(unit)
        try:
            if content is not None:
                self._check(unit, name, content)
            elif self.has(unit, name) and self.key() is not None:
                self._sum(unit, name)
        except Damaged as error:
            return str(error)
        return None

    def _is_left(self, folder: str) -> bool:
        """Whether there is a folder that no sweep is working on; only for local stores, as a server is slow to ask."""
        return self.local and os.path.isdir(self.locate(folder)) and taken_by(self, folder) is None

    def _look(self, unit: Unit) -> tuple[dict[str, Any] | None, list[str]]:
        """The content of `unit.json`, None if it is missing or damaged; and the faults of `unit`."""
        try:
            content = self._open(unit)
        except Damaged as error:
            return None, [str(error)]
        faults = (self.fault(unit, name, content) for name in (content or {}).get("files", ()))
        return content, [fault for fault in faults if fault is not None]

    def _close(self, unit: Unit, name: str, result: dict[str, Any] | None, sums: Mapping[str, str]) -> None:
        content = {"kind": unit.kind, "inputs": unit.inputs, "result": result, "files": sums}
        self.put(f"{unit.folder}/{name}", seal.close(content, self.key()))

    def _open(self, unit: Unit, name: str = COMPLETE) -> dict[str, Any] | None:
        """The content of `unit.json`, or of a voucher, of `unit`; None if there is none.

        Raises:
            Damaged: it is not what was written, or belongs to another unit.
        """
        content = self._parse(unit.folder, name)
        if content is not None and "files" not in content:
            self._tell(f"  {self.locate(unit.kind)}: units of an earlier version, which wrote no checksums, are used "
                       "unchecked; remove them to have them made again, with checksums")
        return content

    def _parse(self, folder: str, name: str) -> dict[str, Any] | None:
        path = self.locate(f"{folder}/{name}")
        if (data := self.get(f"{folder}/{name}")) is None:
            return None
        try:
            content = seal.open_(data, self.key())
        except ValueError as error:
            raise Damaged(f"{path}: {error}") from error
        if (actual := Unit(content["kind"], content["inputs"]).folder) != folder:
            raise Damaged(f"{path}: belongs to another unit, {actual}")
        return content

    def _sum(self, unit: Unit, name: str) -> str:
        """The checksum of a file of a unit that is not complete yet; from its voucher, if there is a key."""
        path = self.path(unit, name)
        if path in self._written:
            return self._written.pop(path)
        if self.key() is None:
            return seal.checksum(self.content(unit, name))
        voucher = self._open(unit, name + VOUCHER)
        if voucher is None:
            raise Damaged(f"{path}: not signed, and {seal.KEY} is set")
        self._check(unit, name, voucher)
        return voucher["files"][name]

    def _check(self, unit: Unit, name: str, content: Mapping[str, Any]) -> None:
        """Raise Damaged unless a file of a unit has the checksum in `content`, its `unit.json`."""
        path = self.path(unit, name)
        if (identity := self._identity(path)) is None:
            raise Damaged(f"{path}: missing")
        if "files" not in content:
            return
        if (wanted := content["files"].get(name)) is None:
            raise Damaged(f"{path}: not a file of its unit")
        if _sound.get((self.uri, path)) != (identity, wanted):
            actual = seal.checksum(self.content(unit, name))
            if actual != wanted:
                raise Damaged(f"{path}: its sha256 is {actual[:12]}, but {wanted[:12]} was written")
            _sound[self.uri, path] = identity, wanted

    def _identity(self, path: str) -> tuple[int, ...] | None:
        """What changes when a file is rewritten; None if there is no such file."""
        if self.local:
            with suppress(FileNotFoundError):
                stat = os.stat(path)
                return stat.st_size, stat.st_mtime_ns, stat.st_ino
            return None
        stat = self._root[0].get_file_info(path)
        return (stat.size, stat.mtime_ns) if stat.is_file else None

    def _tell(self, text: str) -> None:
        if text not in _told:
            _told.add(text)
            say(text)
