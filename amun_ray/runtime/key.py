"""How the signing key reaches the workers of a sweep: in memory, from process to process.

Ray shows runtime environments on its dashboard and in its logs, Tune writes its searcher to disk, and the object store
may spill to disk. None of them gets the key: an actor next to the driver holds it, the store sent to workers refers to
the actor, and each worker asks it once.
"""

from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from amun_ray.storage import seal
from amun_ray.storage.store import Store


class _Holder:
    """An actor that holds the key. It gets it by a call, since Ray's head keeps constructor arguments."""

    def take(self, key: bytes) -> None:
        self._key = key

    def tell(self) -> bytes:
        return self._key


@dataclass
class SharedKey:
    """The key of `holder`, fetched at the first call in a process. A serialised copy does not contain it."""

    holder: Any
    _key: bytes | None = field(default=None, repr=False)

    def __call__(self) -> bytes:
        if self._key is None:
            self._key = ray.get(self.holder.tell.remote())
        return self._key

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedKey, (self.holder,)


def share_key(store: Store) -> Store:
    """`store` in the form to send to workers: if this process has a key, they sign with it too."""
    key = seal.key()
    if key is None:
        return store
    beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    holder: Any = ray.remote(_Holder).options(num_cpus=0, scheduling_strategy=beside).remote()
    ray.get(holder.take.remote(key))
    return Store(store.uri, store.owner, SharedKey(holder, key))
