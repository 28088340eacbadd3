"""Where finished work lives: addressed by content, whole or absent, the same on a disk and in an object store.

A unit of work (one training, one adversarial set, one trial, one unlearned model) is a folder `<kind>/<digest>/`. The
digest is taken of everything that the unit's result depends on; `unit.json`, written last, says that the folder is
complete and holds the inputs (the lineage) beside the result. The same command again finds its units and repeats none
of them.

What a write needs on its way is below `scratch/OWNER/`, so that what a killed sweep leaves there can be told from what
a living one is at; `leases` says who lives.
"""

import hashlib
import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from amun_ray.base.errors import StorageError, UserError

FORMAT = 1  # part of every digest: raise it when a stage computes something else from the same inputs
COMPLETE = "unit.json"
OBJECT_STORES = ("s3", "gcs", "abfs")  # pyarrow's names: no folders, no renaming; an object appears whole
FIRST_CONTACT_SECONDS = 15


@dataclass(frozen=True)
class Unit:
    """The address of one unit of work: its kind, and the digest of `inputs` (JSON values only)."""

    kind: str
    inputs: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        return digest({"format": FORMAT, "kind": self.kind, "inputs": self.inputs})

    @property
    def folder(self) -> str:
        return f"{self.kind}/{self.digest}"


def digest(value: Any) -> str:
    """The first 20 hex digits of the sha256 of `value`: bytes as they are, anything else as canonical JSON."""
    if not isinstance(value, bytes):
        value = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    return hashlib.sha256(value).hexdigest()[:20]


@cache
def here() -> str:
    """This machine, since it was started, as processes of this one's namespace see it: where a process id means one."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            started = f"{file.read()}{os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux: a process elsewhere cannot be asked for, so no other owner is ever here
        started = uuid.uuid4().hex
    return f"{socket.gethostname()}:{digest(started.encode())[:8]}"


class Store:
    """A folder (local path, or a URI that pyarrow knows: `file://`, `s3://`, `gs://`) of finished units.

    A relative path counts from the folder in which the store is made: workers, which get it, are in folders of Ray's.
    `owner` is who writes: it goes with the store to the workers of a sweep, and is the same for all of them.
    """

    def __init__(self, uri: str, owner: str | None = None) -> None:
        self.uri = uri if "://" in uri else os.path.abspath(uri)
        self.owner = owner or f"{here()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"

    @cached_property
    def _root(self) -> tuple[pafs.FileSystem, str]:
        try:
            if "://" in self.uri:
                filesystem, path = pafs.FileSystem.from_uri(self.uri)
            else:
                filesystem, path = pafs.LocalFileSystem(), self.uri
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(f"storage {self.uri!r} cannot be opened: {error}") from error
        return filesystem, path.rstrip("/")

    def __getstate__(self) -> dict[str, str]:
        return {"uri": self.uri, "owner": self.owner}

    @property
    def local(self) -> bool:
        """Whether files of this store can be mapped into memory."""
        return self._root[0].type_name == "local"

    def exists(self) -> bool:
        """Whether anything was ever written here; UserError as `check_writable`, for one that cannot be asked."""
        filesystem, root = self._root
        found = self._first_contact("readable", lambda: filesystem.get_file_info(root).type)
        return found == pafs.FileType.Directory

    def check_writable(self) -> None:
        """Write and remove a small file; UserError when that fails, or takes longer than `FIRST_CONTACT_SECONDS`."""
        def probe() -> None:
            name = f"scratch/{self.owner}/probe"
            self.put(name, b"amun_ray")
            self.remove(name)
            self.remove_folder(f"scratch/{self.owner}")

        self._first_contact("writable", probe)

    def _first_contact(self, wanted: str, act: Callable[[], Any]) -> Any:
        """What `act` returns, from a thread of its own: pyarrow tries again for minutes, and a folder of a server that
        is away hangs."""
        results: list[Any] = []
        problems: list[Exception] = []

        def attempt() -> None:
            try:
                results.append(act())
            except Exception as error:  # raised again below, where it can be seen
                problems.append(error)

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(FIRST_CONTACT_SECONDS)
        if problems and isinstance(problems[0], OSError):
            reason = str(problems[0].__cause__ or problems[0]).splitlines()[0]
            raise UserError(f"storage {self.uri!r} is not {wanted}: {reason}") from problems[0]
        if problems:
            raise problems[0]
        if not results:
            raise UserError(f"storage {self.uri!r} does not answer within {FIRST_CONTACT_SECONDS} s")
        return results[0]

    def path(self, unit: Unit, name: str) -> str:
        """Where the file `name` of `unit` is, or would be."""
        return self.locate(f"{unit.folder}/{name}")

    def locate(self, name: str) -> str:
        """Where `name`, relative to the store, is for pyarrow, or would be."""
        return f"{self._root[1]}/{name}"

    def has(self, unit: Unit, name: str = COMPLETE) -> bool:
        return self._root[0].get_file_info(self.path(unit, name)).is_file

    def write(self, unit: Unit, name: str, data: bytes) -> str:
        """Write a file of `unit` whole or not at all; returns its path."""
        self.put(f"{unit.folder}/{name}", data)
        return self.path(unit, name)

    def put(self, name: str, data: bytes) -> None:
        """Write the file `name`, relative to the store, whole or not at all: by one rename, or as one object.

        Raises:
            StorageError: the disk is full, the server away, ...
        """
        filesystem, _ = self._root
        path = self.locate(name)
        partial = path
        try:
            if filesystem.type_name not in OBJECT_STORES:
                partial = self.locate(f"scratch/{self.owner}/{uuid.uuid4().hex}.partial")
                filesystem.create_dir(os.path.dirname(partial))
                filesystem.create_dir(os.path.dirname(path))
            with filesystem.open_output_stream(partial) as stream:
                stream.write(data)
            if partial != path:
                filesystem.move(partial, path)
        except OSError as error:
            if partial != path:
                with suppress(OSError):
                    filesystem.delete_file(partial)
            raise StorageError(f"storage {self.uri!r}: {name} cannot be written: {str(error).splitlines()[0]}. "
                               "Once it can, the same command goes on") from error

    def get(self, name: str) -> bytes | None:
        """The content of the file `name`, relative to the store, or None where there is none."""
        try:
            with self._root[0].open_input_file(self.locate(name)) as stream:
                return stream.read()
        except FileNotFoundError:
            return None

    def times(self, folder: str) -> dict[str, datetime | None]:
        """When each entry of `folder` was last written, by the storage's own clock; None where it keeps no time."""
        found = self._root[0].get_file_info(pafs.FileSelector(self.locate(folder), allow_not_found=True))
        return {entry.base_name: entry.mtime for entry in found}

    def remove(self, name: str) -> None:
        """Remove the file `name`, relative to the store; none there is well."""
        with suppress(FileNotFoundError):
            self._root[0].delete_file(self.locate(name))

    def remove_folder(self, name: str) -> None:
        """Remove the folder `name`, relative to the store, and all in it; none there is well."""
        with suppress(FileNotFoundError):
            self._root[0].delete_dir(self.locate(name))

    def read(self, unit: Unit, name: str) -> pa.Buffer:
        """The bytes of a file; mapped into memory, not copied, where the store is local."""
        filesystem, _ = self._root
        path = self.path(unit, name)
        if self.local and filesystem.get_file_info(path).size:
            return pa.memory_map(path).read_buffer()
        with filesystem.open_input_file(path) as stream:
            return stream.read_buffer()

    def delete(self, unit: Unit, name: str) -> None:
        self._root[0].delete_file(self.path(unit, name))

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """A folder in the store that is gone afterwards, as path or URI."""
        name = f"scratch/{self.owner}/{uuid.uuid4().hex}"
        if self._root[0].type_name not in OBJECT_STORES:
            self._root[0].create_dir(self.locate(name))
        try:
            base, mark, options = self.uri.partition("?")
            yield self.locate(name) if self.local else f"{base.rstrip('/')}/{name}{mark}{options}"
        finally:
            self.remove_folder(name)

    def finish(self, unit: Unit, result: dict[str, Any]) -> dict[str, Any]:
        """Mark `unit` as complete; returns the `result` (JSON values only) that a later `result` call will give."""
        text = json.dumps({"kind": unit.kind, "inputs": unit.inputs, "result": result}, indent=1, allow_nan=False)
        self.write(unit, COMPLETE, text.encode())
        return result

    def inputs(self, kind: str) -> Iterator[dict[str, Any]]:
        """The inputs of every complete unit of a kind, one after another."""
        filesystem, root = self._root
        folders = pafs.FileSelector(f"{root}/{kind}", allow_not_found=True)
        for folder in filesystem.get_file_info(folders):
            path = f"{folder.path}/{COMPLETE}"
            if filesystem.get_file_info(path).is_file:
                with filesystem.open_input_file(path) as stream:
                    yield json.loads(stream.read())["inputs"]

    def result(self, unit: Unit) -> dict[str, Any] | None:
        """The result of a complete unit, or None when there is none."""
        if not self.has(unit):
            return None
        try:
            return json.loads(self.read(unit, COMPLETE).to_pybytes())["result"]
        except (ValueError, KeyError) as error:
            raise UserError(f"{self.path(unit, COMPLETE)}: not a unit of this store ({error}); delete its folder, "
                            "and the same command makes it again") from error
