"""Sweeps at once on one cluster share its workers: while others have work, none holds more than its part.

Ray itself shares out tasks alone: it gives a freed GPU to whoever has waited longest. An actor keeps its GPU until it
is killed, so the sweep that came first would hold all of them until its stage is over. Therefore every sweep that joins
a cluster puts up a sign there, an actor without resources next to its driver, which says how many workers the sweep
could use now. Each looks at the signs of the others when it has a worker to give out, at most every `LOOK_SECONDS`.
What a sweep holds changes as its workers finish what they do: nothing is broken off. Cost: one small process per sweep.
"""

import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import inf
from typing import Any, ClassVar

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from amun_ray.runtime.cluster import Cluster, room_of_nodes, slots

NAMESPACE = "amun_ray"
LOOK_SECONDS = 2
ANSWER_SECONDS = 5  # for a sign; one that does not answer counts as one that wants nothing


class _Sign:
    """An actor: how many workers its sweep could use now."""

    def __init__(self) -> None:
        self._wanted = 0

    def want(self, workers: int) -> None:
        self._wanted = workers

    def wanted(self) -> int:
        return self._wanted


class Neighbours:
    """The sign of this process's sweep, if it has one, and those of the others."""

    sign: ClassVar[Any] = None
    name: ClassVar[str] = ""
    _wanted: ClassVar[int] = 0  # by all stages that run now
    _counting = threading.Lock()

    @classmethod
    @contextmanager
    def beside(cls, cluster: Cluster) -> Iterator[None]:
        """Put up this sweep's sign in this context, where it has joined a cluster."""
        if not cluster.joined:
            yield
            return
        beside = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        cls.name = uuid.uuid4().hex
        cls.sign = ray.remote(_Sign).options(num_cpus=0, name=cls.name, namespace=NAMESPACE,
                                             scheduling_strategy=beside).remote()
        try:
            yield
        finally:
            cls.sign = None  # Ray ends the actor with this driver

    @classmethod
    @contextmanager
    def wanting(cls, workers: int) -> Iterator[None]:
        """Say that this sweep could use so many workers more in this context."""
        cls._want(workers)
        try:
            yield
        finally:
            cls._want(-workers)

    @classmethod
    def _want(cls, more: int) -> None:
        with cls._counting:
            cls._wanted += more
            if cls.sign is not None:
                cls.sign.want.remote(cls._wanted)

    @classmethod
    def others(cls) -> list[int]:
        """How many workers each of the other sweeps could use now."""
        asked: list[Any] = []
        for each in ray.util.list_named_actors(all_namespaces=True):
            if each["namespace"] == NAMESPACE and each["name"] != cls.name:
                with suppress(ValueError):  # it has ended since
                    asked.append(ray.get_actor(each["name"], NAMESPACE).wanted.remote())
        wanted = []
        for answer in ray.wait(asked, num_returns=len(asked), timeout=ANSWER_SECONDS)[0] if asked else []:
            with suppress(RayError):  # likewise
                wanted.append(ray.get(answer))
        return wanted


class Share:
    """How many workers with `options` this sweep may hold now: any number, unless others on the cluster have work."""

    def __init__(self, options: Mapping[str, float]) -> None:
        self._options, self._most, self._look_again = dict(options), inf, 0.0

    def __call__(self) -> float:
        if Neighbours.sign is not None and time.monotonic() >= self._look_again:
            self._most = part(slots(self._options, Cluster(room_of_nodes(), "")), Neighbours.others())
            self._look_again = time.monotonic() + LOOK_SECONDS
        return self._most


def part(workers: int, others: Sequence[int]) -> float:
    """What a sweep may hold of `workers` beside others that could use so many each, at least 1; inf beside none.

    Nobody is left more than it can use, and all else is shared evenly.
    """
    wanting = sorted(wanted for wanted in others if wanted)
    if not wanting:
        return inf
    for place, wanted in enumerate(wanting):
        workers -= min(wanted, workers // (len(wanting) + 1 - place))
    return max(1, workers)
