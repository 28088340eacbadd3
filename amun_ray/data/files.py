"""Which files make up a data set, and in which order they are read: every row number counts over them."""

import glob
import hashlib
import itertools
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import fsspec
import pyarrow as pa
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow import fs

from amun_ray.base.addresses import RULE, has_credentials
from amun_ray.base.errors import UserError, first_line
from amun_ray.base.files import expanded

ENDINGS = (".parquet", ".pq", ".parq")
HIDDEN = (".", "_")  # what systems leave beside data: .DS_Store, ._a.parquet, _SUCCESS, _metadata
PATTERN = re.compile(r"[*?\[]")
SHARD = re.compile(r"(?P<kind>.*?)-(?P<number>\d+)-of-(?P<total>\d+)(?P<ending>.*)")
SPLITS = {**dict.fromkeys(("train", "training"), "train"), **dict.fromkeys(("test", "testing", "eval"), "test"),
          **dict.fromkeys(("val", "valid", "validation", "dev"), "validation")}

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class File(NamedTuple):
    """An existing file, and the file system through which it is read."""

    system: fs.FileSystem
    path: str

    def __str__(self) -> str:
        """The path as a user would write it: relative if it is below the current folder."""
        here = os.getcwd() + os.sep
        return self.path.removeprefix(here) if isinstance(self.system, fs.LocalFileSystem) else self.path


def locate(source: str | os.PathLike[str]) -> tuple[fs.FileSystem, str]:
    """The file system of a local path or a URI (file://, s3://, gs://, or any that fsspec knows) and the path on it.

    Raises:
        UserError: a malformed URI, one with credentials in it, or one that nothing installed can open.
    """
    source = expanded(os.fspath(source))
    if has_credentials(source):
        raise UserError(f"{source!r} {RULE}")
    if "\0" in source:
        raise UserError(f"{source!r}: no path holds a NUL character")
    if "://" not in source:
        return fs.LocalFileSystem(), os.path.abspath(source)
    try:
        return fs.FileSystem.from_uri(source)
    except pa.ArrowInvalid:
        pass  # a scheme that pyarrow does not have; fsspec has more
    except OSError as error:
        raise UserError(f"{source}: cannot be reached: {first_line(error)}") from error
    try:
        system, path = fsspec.url_to_fs(source)
    except (ImportError, ValueError, OSError) as error:
        raise UserError(f"{source}: cannot be opened: {first_line(error)}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path


def find_files(source: Source) -> tuple[list[File], list[str]]:
    """The files behind `source`, in the order in which their rows count, and what a plan must say about them.

    Args:
        source: a file, a folder, a glob (`photos/train-*.parquet`), or a list of these, read in its order. A folder
            stands for the parquet files directly in it. Names that begin with `.` or `_` are skipped in folders and
            globs. The files of both are read in the natural order of their names: part.2 before part.10.

    Raises:
        UserError: nothing is there; a link that leads nowhere; a numbered shard is missing; a folder or glob holds
            several splits (train, test, ...); two files hold the same bytes.
    """
    listed = [source] if isinstance(source, str | os.PathLike) else list(source)
    if not listed:
        raise UserError("the list of data files is empty")
    files: list[File] = []
    named: list[str] = []  # whoever lists files one by one may leave some out on purpose
    notes: list[str] = []
    for place in listed:
        system, path = locate(place)
        try:
            kind = system.get_file_info(path).type
            if kind == fs.FileType.File:
                paths = [path]
                named.append(path)
            else:
                paths = _within(place, system, path, folder=kind == fs.FileType.Directory)
                notes += _order(place, paths)
        except OSError as error:
            raise UserError(f"{place}: cannot be read: {first_line(error)}") from error
        files += [File(system, path) for path in paths]
    if missing := missing_shard(named):
        notes.append(f"warning: {missing} is not among the files named")
    _refuse_copies(files)
    return files, notes


def _within(source: str | os.PathLike[str], system: fs.FileSystem, path: str, *, folder: bool) -> list[str]:
    """The data files of a folder or a glob in natural order; UserError if they are no whole set of one split."""
    if not folder and not PATTERN.search(path):
        gone = os.path.islink(path) and f"a link to {os.readlink(path)}, which is not there"
        raise UserError(f"{source}: {gone or 'no such file'}")
    every = _listing(system, path) if folder else _matching(system, path)
    visible = path.rpartition("/")[2][:1] if not folder else ""  # a pattern that begins with `_` asks for such names
    paths = [place for place in every if not _base(place).startswith(HIDDEN) or _base(place)[:1] == visible]
    if not paths:
        inside = sorted(_base(place.path) for place in system.get_file_info(fs.FileSelector(path)) if not place.is_file
                        ) if folder else []
        beside = f"; it has folders: {', '.join(inside[:8])}" if inside else ""
        raise UserError(f"{source}: " + (f"no {ENDINGS[0]} file in this folder{beside}" if folder
                                         else "no such file, and none that matches this pattern"))
    for place, kind in zip(paths, (info.type for info in system.get_file_info(paths)), strict=True):
        if kind != fs.FileType.File:
            what = "a folder" if kind == fs.FileType.Directory else "a link that leads nowhere"
            raise UserError(f"{source}: {_base(place)} is {what}; remove it, or name the files one by one")
    if missing := missing_shard(paths):
        raise UserError(f"{source}: {missing} is missing; later rows would move up. Fetch it, or name the files that "
                        "count one by one")
    if mixed := _mixed(paths):
        raise UserError(f"{source}: holds several splits: {mixed}; name one of them by a pattern or a list, e.g. "
                        f"{os.path.join(source, 'train-*.parquet') if folder else 'train-*.parquet'}")
    return sorted(paths, key=natural)


def _listing(system: fs.FileSystem, folder: str) -> list[str]:
    """Everything directly in a folder whose name ends as a parquet file does, also a link that leads nowhere."""
    if isinstance(system, fs.LocalFileSystem):
        paths = [os.path.join(folder, name) for name in os.listdir(folder)]
    else:
        paths = [entry.path for entry in system.get_file_info(fs.FileSelector(folder))]
    return [path for path in paths if path.lower().endswith(ENDINGS)]


def _matching(system: fs.FileSystem, pattern: str) -> list[str]:
    """Everything that a glob matches; `**` stands for folders at any depth."""
    if isinstance(system, fs.LocalFileSystem):
        return glob.glob(pattern, recursive=True, include_hidden=True)
    return ArrowFSWrapper(system).glob(pattern)


def _order(source: str | os.PathLike[str], paths: Sequence[str]) -> list[str]:
    """A note where the natural order of names is not their order as text."""
    for first, as_text in zip(paths, sorted(paths), strict=True):
        if first != as_text:
            return [f"order       {source}: by the numbers in the names, {_base(first)} before {_base(as_text)}"]
    return []


def natural(path: str) -> tuple[list[str | int], str]:
    """A key that sorts part.2 before part.10: texts and numbers in turn; then the path, for 2 and 02."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"([0-9]+)", path))], path


def missing_shard(paths: Sequence[str]) -> str | None:
    """The first name that is absent from the sets `NAME-00000-of-00003` in `paths`; they count from 0 or from 1."""
    shards = [match for path in paths if (match := SHARD.fullmatch(path))]
    for shard in shards:
        kind, total, ending = shard["kind"], shard["total"], shard["ending"]
        numbers = {int(other["number"]) for other in shards if (other["kind"], other["total"]) == (kind, total)}
        first = 0 if 0 in numbers else 1
        number = next(number for number in itertools.count(first) if number not in numbers)
        if number < first + int(total):
            return f"{_base(kind)}-{number:0{len(shard['number'])}d}-of-{total}{ending}"
    return None


def _mixed(paths: Sequence[str]) -> str | None:
    """One name of each split in `paths` where there are several."""
    kinds: dict[str, str] = {}
    for path in paths:
        for word in re.split(r"[^a-z]+", _base(path).lower()):
            if word in SPLITS:
                kinds.setdefault(SPLITS[word], _base(path))
    return ", ".join(kinds.values()) if len(kinds) > 1 else None


def _refuse_copies(files: Sequence[File]) -> None:
    """UserError if two files have the same bytes: their pictures would appear twice, under two row numbers."""
    sizes: dict[int, list[File]] = {}
    for file in files:
        sizes.setdefault(file.system.get_file_info(file.path).size, []).append(file)
    for alike in sizes.values():
        seen: dict[bytes, File] = {}
        for file in alike if len(alike) > 1 else ():
            first = seen.setdefault(_digest(file), file)
            if first is not file:
                raise UserError(f"{file}: the same bytes as {first}, so every picture in it is there twice; "
                                "remove one, or name the files that count one by one")


def _digest(file: File) -> bytes:
    try:
        with file.system.open_input_stream(file.path, compression=None) as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {first_line(error)}") from error


def _base(path: str) -> str:
    return path.rpartition("/")[2]
