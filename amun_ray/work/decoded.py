"""Decoded pixels that a purge deletes: entries of a store's folder, copies of this node, what killed sweeps have left.

All of it is made again from the user's own files by whoever needs it next. So an entry stays only where it is known to
hold none of the pictures.
Cost: of each entry of another dataset with pictures of the same size, its distances to the forgotten ones.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from amun_ray.data.keep import FACTS
from amun_ray.data.keep import PIXELS as FILE
from amun_ray.storage.leases import is_alive
from amun_ray.storage.pixels import copies_of_node
from amun_ray.storage.store import PIXELS, Store
from amun_ray.work.copies import Forgotten
from amun_ray.work.lineage import DELETE, Found

ROOM, UNREADABLE = "pixels", (OSError, ValueError, KeyError, TypeError)


def found(stores: Iterable[Store], wanted: Forgotten) -> Iterator[Found]:
    """Everything of it in `stores`, and on this node; each is named by its path, objects as in the store."""
    for store in stores:
        if store.local:
            for entry in _entries(Path(store.locate(PIXELS))):
                if (why := _holds(entry, wanted)) is not None:
                    yield Found(ROOM, str(entry), _size(entry), DELETE, why)
        yield from _left(store)
    for file in _entries(copies_of_node()):
        yield Found(ROOM, str(file), _size(file), DELETE, "a node's copy of decoded pixels")


def delete(found: Found) -> None:
    """Remove a file or a folder; what is gone already is well."""
    path = Path(found.name)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _holds(entry: Path, wanted: Forgotten) -> str | None:
    """Why an entry must go; None where none of its pictures is one of those that are wanted."""
    dataset = wanted.dataset
    try:
        facts = json.loads((entry / FACTS).read_bytes())  # its seal is no matter here
        digest, shape = facts["digest"], tuple(facts["shape"])
        pixels = np.memmap(entry / FILE, np.uint8, "r", shape=shape)
    except UNREADABLE:
        return "decoded pixels, incomplete or damaged: nobody can tell which"
    if digest == dataset.digest:
        return "decoded pixels of this dataset"
    if shape[1:] != dataset.pixels.shape[1:]:
        return "decoded pixels of another size: nobody can tell of which pictures"
    return wanted.seen_in("decoded pixels of another dataset", pixels)


def _left(store: Store) -> Iterator[Found]:
    """What owners who are dead have of scratch."""
    sizes: dict[str, int] = {}
    for name, size in store.sizes("scratch").items():
        owner = name.split("/")[1]
        sizes[owner] = sizes.get(owner, 0) + size
    for owner, size in sizes.items():
        if owner != store.owner and not is_alive(store, owner):
            name = f"scratch/{owner}"
            yield Found(*((ROOM, store.locate(name)) if store.local else ("store", name)), size, DELETE,
                        "left by a sweep that was killed")


def _entries(folder: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(path for path in folder.iterdir() if path.suffix != ".lock")
    return []


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())
