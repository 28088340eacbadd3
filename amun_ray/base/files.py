"""Files of the output folder, whole or not there; and files that are not what they are called."""

import os
from pathlib import Path
from typing import BinaryIO

PRETENDERS = {b"version https://git-lfs": "a pointer of Git LFS, not the file itself: run `git lfs pull`",
              b"<!doctype": "a web page, not the file itself: the download failed, or asks for a login",
              b"<html": "a web page, not the file itself: the download failed, or asks for a login"}


def pretender(file: Path | BinaryIO) -> str | None:
    """What a file is that stands in the place of another, by its first bytes; None where it is none of these.

    An open file is left at its start.
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
    """Write a file by one rename, so that whoever reads it finds the old one or the new one; returns its path."""
    partial = path.with_name(f".{path.name}-{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
    return path
