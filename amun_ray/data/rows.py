"""Room for the rows of an array that is filled by several threads: in memory, or in a mapped file."""

import os

import numpy as np

from amun_ray.base.errors import StorageError, first_line


class Rows:
    """An array (N, ...) uint8 whose rows are written one by one, from any thread.

    Rows of a mapped file are written by a system call each. The first store into every page of the map itself would
    take three to seven times as long (measured, ext4), and would end the process where the disk is full.

    Args:
        pixels: the array; if it is a `np.memmap`, it begins where its file begins.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self._path = os.fspath(pixels.filename) if isinstance(pixels, np.memmap) and pixels.filename else None
        self._file = None if self._path is None else os.open(self._path, os.O_WRONLY)

    def __setitem__(self, row: int, image: np.ndarray) -> None:
        """Write a row; an axis of length 1 is repeated.

        Raises:
            StorageError: the file cannot be written; the disk is full, say.
        """
        if self._file is None:
            self.pixels[row] = image
            return
        content = np.ascontiguousarray(np.broadcast_to(image, self.pixels.shape[1:])).data.cast("B")
        place = row * len(content)
        try:
            while content:
                written = os.pwrite(self._file, content, place)
                content, place = content[written:], place + written
        except OSError as error:
            raise StorageError(f"{self._path}: decoded images cannot be kept here: {first_line(error)}") from error

    def close(self) -> None:
        """Nothing more will be written."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
