"""Decoded pixels that a purge deletes: entries of a store's folder, copies of this node, what killed sweeps have left.

All of it is made again from the user's own files by whoever needs it next. So an entry stays only where it is known to
hold none of the pictures.
Cost: of each entry of another dataset with pictures of the same size, its distances to the forgotten ones.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from amun_ray.data.keep import FACTS
from amun_ray.data.keep import PIXELS as FILE
from amun_ray.storage.files import Files
from amun_ray.storage.leases import is_alive
from amun_ray.storage.pixels import copies_of_node
from amun_ray.storage.store import PIXELS, Store
from amun_ray.work.copies import UNREADABLE, Forgotten
from amun_ray.work.lineage import DELETE, Remnant

ROOM = "pixels"


def found(stores: Iterable[Store], wanted: Forgotten) -> Iterator[Remnant]:
    """Everything of it in `stores`, and on this node; each is named by its path, objects as in the store."""
    for store in stores:
        for name, size in _sizes(store, PIXELS).items() if store.local else ():
            if (why := _holds(Path(store.locate(name)), wanted)) is not None:
                yield Remnant(ROOM, store.locate(name), size, DELETE, why)
        yield from _left(store)
    node = Files(str(copies_of_node()))
    for name, size in sorted(node.sizes().items()):
        if not name.endswith(".lock"):
            yield Remnant(ROOM, node.locate(name), size, DELETE, "a node's copy of decoded pixels")


def delete(remnant: Remnant) -> None:
    """Remove a file or a folder; what is gone already is well."""
    path = Path(remnant.name)
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


def _left(store: Store) -> Iterator[Remnant]:
    """The temporary files of owners who are dead."""
    for name, size in _sizes(store, "scratch").items():
        owner = name.partition("/")[2]
        if owner != store.owner and not is_alive(store, owner):
            yield Remnant(*((ROOM, store.locate(name)) if store.local else ("store", name)), size, DELETE,
                          "left by a sweep that was killed")


def _sizes(store: Store, folder: str) -> Counter[str]:
    """The bytes of each entry of `folder`, by its name relative to the store."""
    sizes: Counter[str] = Counter()
    for name, size in sorted(store.sizes(folder).items()):
        sizes["/".join(name.split("/")[:2])] += size
    return sizes
