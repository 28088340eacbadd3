"""Where decoded pixels are kept: a folder of the storage, if that is on a file system of this machine."""

from pathlib import Path

from amun_ray.data.keep import Keep
from amun_ray.storage import seal
from amun_ray.storage.store import Store

FOLDER = "pixels"


def keep_in(store: Store) -> Keep:
    """The decoded pixels of a local store. With a key, they are signed, and read whole before they are used."""
    return Keep(Path(store.locate(FOLDER)), Path(store.locate(f"scratch/{store.owner}")),
                close=lambda facts: seal.close(facts, store.key()), open_=lambda data: seal.open_(data, store.key()),
                trusting=store.key() is None)
