"""Where finished work lives: addressed by content, whole or absent, the same on a disk and in an object store.

A unit of work (one training, one adversarial set, one trial, one unlearned model) is a folder `<kind>/<digest>/`. The
digest is taken of everything that the unit's result depends on; `unit.json`, written last, says that the folder is
complete and holds the inputs (the lineage) beside the result. The same command again finds its units and repeats none
of them.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from amun_ray.errors import UserError

FORMAT = 1  # part of every digest: raise it when a stage computes something else from the same inputs
COMPLETE = "unit.json"


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


class Store:
    """A folder (local path, or a URI that pyarrow knows: `file://`, `s3://`, `gs://`) of finished units."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @cached_property
    def _root(self) -> tuple[pafs.FileSystem, str]:
        try:
            if "://" in self.uri:
                filesystem, path = pafs.FileSystem.from_uri(self.uri)
            else:
                filesystem, path = pafs.LocalFileSystem(), os.path.abspath(self.uri)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(f"storage {self.uri!r} cannot be opened: {error}") from error
        return filesystem, path.rstrip("/")

    def __getstate__(self) -> dict[str, str]:
        return {"uri": self.uri}

    @property
    def local(self) -> bool:
        """Whether files of this store can be mapped into memory."""
        return self._root[0].type_name == "local"

    def check_writable(self) -> None:
        """Write and remove a small file; UserError when that fails."""
        filesystem, root = self._root
        probe = f"{root}/.probe-{uuid.uuid4().hex}"
        try:
            filesystem.create_dir(root)
            with filesystem.open_output_stream(probe) as stream:
                stream.write(b"amun_ray")
            filesystem.delete_file(probe)
        except OSError as error:
            raise UserError(f"storage {self.uri!r} is not writable: {error}") from error

    def path(self, unit: Unit, name: str) -> str:
        """Where the file `name` of `unit` is, or would be."""
        return f"{self._root[1]}/{unit.folder}/{name}"

    def has(self, unit: Unit, name: str = COMPLETE) -> bool:
        return self._root[0].get_file_info(self.path(unit, name)).is_file

    def write(self, unit: Unit, name: str, data: bytes) -> str:
        """Write a file of `unit` whole or not at all; returns its path. A local file appears by one rename."""
        filesystem, _ = self._root
        path = self.path(unit, name)
        filesystem.create_dir(os.path.dirname(path))
        partial = f"{path}.{uuid.uuid4().hex}.partial" if self.local else path
        try:
            with filesystem.open_output_stream(partial) as stream:
                stream.write(data)
            if partial != path:
                filesystem.move(partial, path)
        except OSError:
            if partial != path and filesystem.get_file_info(partial).is_file:
                filesystem.delete_file(partial)
            raise
        return path

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
        filesystem, root = self._root
        name = f"scratch/{uuid.uuid4().hex}"
        filesystem.create_dir(f"{root}/{name}")
        try:
            yield f"{root}/{name}" if self.local else f"{self.uri.rstrip('/')}/{name}"
        finally:
            filesystem.delete_dir(f"{root}/{name}")

    def finish(self, unit: Unit, result: dict[str, Any]) -> dict[str, Any]:
        """Mark `unit` as complete; returns the `result` (JSON values only) that a later `result` call will give."""
        text = json.dumps({"kind": unit.kind, "inputs": unit.inputs, "result": result}, indent=1, allow_nan=False)
        self.write(unit, COMPLETE, text.encode())
        return result

    def result(self, unit: Unit) -> dict[str, Any] | None:
        """The result of a complete unit, or None when there is none."""
        if not self.has(unit):
            return None
        try:
            return json.loads(self.read(unit, COMPLETE).to_pybytes())["result"]
        except (ValueError, KeyError) as error:
            raise UserError(f"{self.path(unit, COMPLETE)}: not a unit of this store ({error}); delete its folder, "
                            "and the same command makes it again") from error
