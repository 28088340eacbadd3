"""Pixels in a file, as workers get them: memory-mapped if they see the file, else fetched once per node.

Cost: the driver's node sends the file, in blocks through the object store, to each node that does not see it. There it
is written to the temporary folder, and every process of the node maps it. Memory: one block on either side.
"""

import atexit
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from amun_ray.base.errors import UserError
from amun_ray.base.files import make_private
from amun_ray.data.dataset import Dataset
from amun_ray.storage.pixels import copies_of_node

BLOCK_BYTES = 64 * 2**20


class Mapped(NamedTuple):
    """Pixels (N, C, H, W) uint8 in a file on the node `node`."""

    path: str
    shape: tuple[int, ...]
    digest: str  # of the dataset
    node: str

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """The pixels of a dataset that this process has mapped."""
        assert dataset.map_path is not None
        return cls(dataset.map_path, dataset.pixels.shape, dataset.digest, ray.get_runtime_context().get_node_id())

    def array(self) -> np.ndarray:
        """The pixels, mapped read-only."""
        path = Path(self.path) if self._is_whole(Path(self.path)) else self._fetched()
        return np.memmap(path, np.uint8, "r", shape=self.shape)

    def _is_whole(self, path: Path) -> bool:
        with suppress(OSError):
            return path.stat().st_size == int(np.prod(self.shape))
        return False

    def _fetched(self) -> Path:
        """The file on this node, fetched by the first process that asks; it goes when that one ends."""
        folder = copies_of_node()
        make_private(folder)
        if folder.is_symlink() or (stat := folder.stat()).st_uid != os.getuid() or stat.st_mode & 0o077:
            raise UserError(f"{folder}: not a folder that only this user can enter; remove it")
        path = folder / self.digest
        with (folder / f"{self.digest}.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self._is_whole(path):
                self._fetch(path)
                atexit.register(path.unlink, missing_ok=True)
        return path

    def _fetch(self, path: Path) -> None:
        partial = path.with_suffix(".partial")
        there = NodeAffinitySchedulingStrategy(self.node, soft=False)
        total = int(np.prod(self.shape))
        with partial.open("wb") as file:
            for start in range(0, total, BLOCK_BYTES):
                file.write(ray.get(_block.options(scheduling_strategy=there).remote(self.path, start)).data)
        os.replace(partial, path)


@ray.remote(num_cpus=0)
def _block(path: str, start: int) -> np.ndarray:
    """One block of a file's bytes."""
    with open(path, "rb") as file:
        file.seek(start)
        return np.frombuffer(file.read(BLOCK_BYTES), np.uint8)
