"""Where decoded pixels are kept: a folder of the storage, if it is on a local file system."""

from pathlib import Path

from amun_ray.data.keep import Keep
from amun_ray.storage import seal
from amun_ray.storage.store import Store

FOLDER = "pixels"


def keep_in(store: Store) -> Keep:
    """The decoded pixels of a local store. With a key, they are signed and checked in full before use."""
    return Keep(Path(store.locate(FOLDER)), Path(store.locate(f"scratch/{store.owner}")),
                close=lambda facts: seal.close(facts, store.key()), open_=lambda data: seal.open_(data, store.key()),
                trusting=store.key() is None)
