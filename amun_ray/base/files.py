"""Files of the output folder: whole or not there."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file by one rename, so that whoever reads it finds the old one or the new one; returns its path."""
    partial = path.with_name(f".{path.name}-{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
    return path
