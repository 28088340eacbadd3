"""Where decoded pixels are kept: a folder of the storage, if it is on a local file system; and a folder of temporary
files on each node that does not see it."""

import os
import tempfile
from pathlib import Path

from amun_ray.data.keep import Keep
from amun_ray.storage import seal
from amun_ray.storage.store import PIXELS as FOLDER
from amun_ray.storage.store import Store


def keep_in(store: Store) -> Keep:
    """The decoded pixels of a local store. With a key, they are signed and checked in full before use."""
    return Keep(Path(store.locate(FOLDER)), Path(store.locate(f"scratch/{store.owner}")),
                close=lambda facts: seal.close(facts, store.key()), open_=lambda data: seal.open_(data, store.key()),
                trusting=store.key() is None)


def copies_of_node() -> Path:
    """Where the processes of this user on this node have pixels that they fetched, a file for each dataset's digest."""
    return Path(tempfile.gettempdir()) / f"amun_ray_pixels-{os.getuid()}"
