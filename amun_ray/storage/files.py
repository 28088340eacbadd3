"""The files of a store, on a disk or in an object store alike: each appears whole or not at all.

Temporary files are below `scratch/OWNER/`, so that leftovers of a killed sweep can be told from files that a running
one is writing; `leases` says which sweeps are alive.
"""

import hashlib
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from amun_ray.base.addresses import RULE, has_credentials
from amun_ray.base.errors import StorageError, UserError, first_line
from amun_ray.base.files import expanded, make_private

OBJECT_STORES = ("s3", "gcs", "abfs")  # pyarrow's names: no folders, no rename; objects appear whole
FIRST_CONTACT_SECONDS = 15


@cache
def here() -> str:
    """The scope of a process id: this machine, its current boot, and this PID namespace."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            started = f"{file.read()}{os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux: the scope is unknown, so no other owner ever counts as local
        started = uuid.uuid4().hex
    return f"{socket.gethostname()}:{hashlib.sha256(started.encode()).hexdigest()[:8]}"


class Files:
    """A folder: a local path or a URI that pyarrow knows, such as `file://`, `s3://`, `gs://`.

    A relative path is resolved here and now, because workers run in Ray's own folders. `owner` is the sweep that
    writes: all its workers get the same one.
    """

    def __init__(self, uri: str, owner: str | None = None) -> None:
        uri = expanded(uri)
        if has_credentials(uri):
            raise UserError(f"storage {uri!r} {RULE}")
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

    @property
    def local(self) -> bool:
        """Whether the files of this store can be memory-mapped."""
        return self._root[0].type_name == "local"

    def make_root(self) -> None:
        """Make the folder of the store, on a disk, for its owner alone: it holds weights and images. One that exists
        keeps its mode, so that a group can share it."""
        if self.local:
            make_private(Path(self._root[1]))

    def exists(self) -> bool:
        """Whether anything was ever written here; UserError, as in `check_writable`, if that cannot be found out."""
        filesystem, root = self._root
        kind = self._first_contact("readable", lambda: filesystem.get_file_info(root).type)
        return kind == pafs.FileType.Directory

    def check_writable(self) -> None:
        """Write and remove a small file; UserError if that fails or takes longer than `FIRST_CONTACT_SECONDS`."""
        def probe() -> None:
            name = f"scratch/{self.owner}/probe"
            self.put(name, b"amun_ray")
            self.remove(name)
            self.remove_folder(f"scratch/{self.owner}")

        self._first_contact("writable", probe)

    def _first_contact(self, wanted: str, act: Callable[[], Any]) -> Any:
        """The result of `act`, run in its own thread: pyarrow retries for minutes, and a folder on an unreachable
        server hangs."""
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
            reason = first_line(problems[0].__cause__ or problems[0])
            raise UserError(f"storage {self.uri!r} is not {wanted}: {reason}") from problems[0]
        if problems:
            raise problems[0]
        if not results:
            raise UserError(f"storage {self.uri!r} does not answer within {FIRST_CONTACT_SECONDS} s")
        return results[0]

    def locate(self, name: str) -> str:
        """The path, for pyarrow, of the file `name` relative to the store, whether or not it exists."""
        return f"{self._root[1]}/{name}"

    def put(self, name: str, data: bytes) -> None:
        """Write the file `name`, relative to the store, whole or not at all: by one rename, or as one object.

        Raises:
            StorageError: the disk is full, the server is unreachable, ...
        """
        filesystem, _ = self._root
        path = self.locate(name)
        partial = path
        try:
            if filesystem.type_name not in OBJECT_STORES:
                self.make_root()
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
            raise StorageError(f"storage {self.uri!r}: {name} cannot be written: {first_line(error)}. "
                               "Once it can, the same command goes on") from error

    def get(self, name: str) -> bytes | None:
        """The content of the file `name`, relative to the store, or None if there is none."""
        try:
            with self._root[0].open_input_file(self.locate(name)) as stream:
                return stream.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def times(self, folder: str) -> dict[str, datetime | None]:
        """When each entry of `folder` was last written, by the storage's own clock; None if it keeps no times."""
        entries = self._root[0].get_file_info(pafs.FileSelector(self.locate(folder), allow_not_found=True))
        return {entry.base_name: entry.mtime for entry in entries}

    def sizes(self, folder: str = "") -> dict[str, int]:
        """The bytes of every file below `folder`, by its name relative to the store. Cost: one recursive listing."""
        filesystem, root = self._root
        place = f"{root}/{folder}".rstrip("/")
        entries = filesystem.get_file_info(pafs.FileSelector(place, recursive=True, allow_not_found=True))
        return {entry.path[len(root) + 1:]: entry.size for entry in entries if entry.is_file}

    def remove(self, name: str) -> None:
        """Remove the file `name`, relative to the store, if it exists."""
        with suppress(FileNotFoundError):
            self._root[0].delete_file(self.locate(name))

    def remove_folder(self, name: str) -> None:
        """Remove the folder `name`, relative to the store, with its content, if it exists."""
        with suppress(FileNotFoundError):
            self._root[0].delete_dir(self.locate(name))

    @contextmanager
    def scratch(self) -> Iterator[str]:
        """A temporary folder in the store, as a path or URI."""
        name = f"scratch/{self.owner}/{uuid.uuid4().hex}"
        if self._root[0].type_name not in OBJECT_STORES:
            self.make_root()
            self._root[0].create_dir(self.locate(name))
        try:
            base, mark, options = self.uri.partition("?")
            yield self.locate(name) if self.local else f"{base.rstrip('/')}/{name}{mark}{options}"
        finally:
            self.remove_folder(name)
