"""Atomic writes to the output folder; private folders; files that are not what their name says; and `~` in a path."""

import os
import re
import uuid
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from amun_ray.base.errors import StorageError, first_line

AT_HOME = re.compile(r"(file:/{0,3}|sqlite:///|)(~[^/]*)(.*)", re.DOTALL)
IN_URI = str.maketrans({mark: f"%{ord(mark):02X}" for mark in "%?#"})  # these have a meaning of their own in a URI
PRETENDERS = {b"version https://git-lfs": "a pointer of Git LFS, not the file itself: run `git lfs pull`",
              b"<!doctype": "a web page, not the file itself: the download failed, or asks for a login",
              b"<html": "a web page, not the file itself: the download failed, or asks for a login"}


def expanded(place: str) -> str:
    """A path, or the URI of a file or an SQLite database, with a leading `~` or `~NAME` replaced by that home folder.

    The only place that expands a user's `~`. A name that is unknown stays as it is.
    """
    match = AT_HOME.fullmatch(place)
    if match is None or (home := os.path.expanduser(match[2])) == match[2]:
        return place
    scheme = match[1] and f"{match[1].rstrip('/')}//"
    return f"{scheme}{'/' * scheme.startswith('sqlite')}{home.translate(IN_URI) if scheme else home}{match[3]}"


def pretender(file: Path | BinaryIO) -> str | None:
    """What a file really is when its first bytes show a Git LFS pointer or a web page; otherwise None.

    An open file is rewound to its start.
    """
    if isinstance(file, Path):
        try:
            with file.open("rb") as opened:
                return pretender(opened)
        except OSError:
            return None
    start = bytes(file.read(64)).lstrip().lower()
    file.seek(0)
    return next((what for head, what in PRETENDERS.items() if start.startswith(head)), None)


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file by one rename, so that a reader finds either the old or the new one; returns its path.

    Raises:
        StorageError: the disk is full, the folder cannot be written, ...
    """
    partial = path.with_name(f".{path.name}-{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:  # never through a link that somebody has put there
            file.write(content)
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise StorageError(f"{path}: cannot be written: {first_line(error)}. Once it can, the same command goes on"
                           ) from error
    return path


def make_private(folder: Path) -> None:
    """Make a folder, with its missing parents, that only its owner can enter. One that exists stays as it is."""
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
