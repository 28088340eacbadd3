"""How the key that units are signed with reaches the workers of a sweep: in memory, from process to process.

Ray shows a runtime environment on its dashboard and in its logs, Tune writes what its searcher holds, and the object
store may put what it has on a disk. None of them gets the key: an actor beside the driver has it, the store that
travels knows the actor, and a worker asks once.
"""

from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from amun_ray.storage import seal
from amun_ray.storage.store import Store


class _Holder:
    """An actor that has the key. It comes by a call: what an actor is made with is kept by Ray's head."""

    def take(self, key: bytes) -> None:
        self._key = key

    def tell(self) -> bytes:
        return self._key


@dataclass
class SharedKey:
    """The key of `holder`, asked for at the first call in a process. A copy that travels has it not."""

    holder: Any
    _key: bytes | None = field(default=None, repr=False)

    def __call__(self) -> bytes:
        if self._key is None:
            self._key = ray.get(self.holder.tell.remote())
        return self._key

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedKey, (self.holder,)


def share_key(store: Store) -> Store:
    """`store`, as it is to be sent to workers: where this process has a key, they sign with it too."""
    key = seal.key()
    if key is None:
        return store
    beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    holder: Any = ray.remote(_Holder).options(num_cpus=0, scheduling_strategy=beside).remote()
    ray.get(holder.take.remote(key))
    return Store(store.uri, store.owner, SharedKey(holder, key))
