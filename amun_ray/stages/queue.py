"""How work is handed out: bounded, pulled by whoever is free, and undisturbed by a worker that dies."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import ray
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from amun_ray.errors import Diverged, UserError
from amun_ray.stages.progress import say

LOST = (RayActorError, WorkerCrashedError, NodeDiedError, LocalRayletDiedError, OutOfMemoryError)  # the worker is gone
TRIES = 3
PATIENCE_SECONDS = 30  # how long no worker may have started before that is said


def result_of(reference: ray.ObjectRef) -> Any:
    """`ray.get`, with the package's own exceptions raised as themselves instead of wrapped by Ray."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, (UserError, Diverged)):
            raise error.cause from None
        raise


def run_tasks(submit: Callable[[Any], ray.ObjectRef], items: Iterable[Any], *, limit: int) -> Iterator[tuple[Any, Any]]:
    """Submit a task per item, at most `limit` at once; yield `(item, result)` as they finish, in any order.

    The driver holds `limit` results at most, whatever the number of items. Tasks lost with their worker are retried
    by Ray itself (`max_retries` of the remote function).
    """
    waiting, running = iter(items), {}
    while True:
        while len(running) < limit and (item := next(waiting, None)) is not None:
            running[submit(item)] = item
        if not running:
            return
        (done, *_), _ = ray.wait(list(running), num_returns=1)
        yield running.pop(done), result_of(done)


class ActorQueue:
    """Work pulled by `workers` actors, each pinned to its device; an actor that dies is replaced, its work redone.

    Only an actor that is ready gets work, and one item at a time: a replacement that waits for a node to come back
    holds up nothing, the last items are spread over all actors, and it is clear which item an actor died of. The
    hand-out that is not hidden behind the work costs about a millisecond per item (benchmarks/scaling.py).
    """

    def __init__(self, spawn: Callable[[], Any], workers: int) -> None:
        self._spawn, self._workers = spawn, workers
        self._idle: list[Any] = []
        self._starting: dict[ray.ObjectRef, Any] = {}
        self._running: dict[ray.ObjectRef, tuple[Any, Any]] = {}
        self._lost: Counter = Counter()  # id of an item -> actors lost over it
        self._failed_starts = 0
        self._told = False
        for _ in range(workers):
            self._greet(spawn())

    def __enter__(self) -> "ActorQueue":
        return self

    def __exit__(self, *_: object) -> None:
        for actor in [*self._idle, *self._starting.values(), *(actor for actor, _ in self._running.values())]:
            ray.kill(actor)

    def run(self, items: Iterable[Any], submit: Callable[[Any, Any], ray.ObjectRef]) -> Iterator[tuple[Any, Any]]:
        """Yield `(item, result)` for every item, in the order in which they finish; `submit(actor, item)` starts one.

        Items are drawn when an actor is free for them, so `items` may be a generator of any length; None is no item.

        Raises:
            RuntimeError: an item has taken its worker down `TRIES` times, or no worker can be started.
            UserError, Diverged, RayTaskError: what the work itself raised; it is not tried again.
        """
        source = iter(items)
        while True:
            while self._idle and (item := next(source, None)) is not None:
                actor = self._idle.pop()
                self._running[submit(actor, item)] = actor, item
            if self._idle and not self._running:
                return
            for done in self._done():
                if done in self._starting:
                    self._admit(done)
                    continue
                actor, item = self._running.pop(done)
                try:
                    result = result_of(done)
                except LOST as error:
                    self._replace(actor, item, error)
                    source = chain([item], source)
                    continue
                self._idle.append(actor)
                self._lost.pop(id(item), None)
                yield item, result

    def _done(self) -> list[ray.ObjectRef]:
        """Everything that has finished; waits until something has."""
        awaited = [*self._running, *self._starting]
        while not ray.wait(awaited, num_returns=1, timeout=PATIENCE_SECONDS, fetch_local=False)[0]:
            if not self._idle and not self._running and not self._told:
                say(f"  waiting for the cluster: it has no room for any of {len(self._starting)} workers")
                self._told = True
        return ray.wait(awaited, num_returns=len(awaited), timeout=0, fetch_local=False)[0]

    def _greet(self, actor: Any) -> None:
        """Wait, among other things, for a sign of life from `actor`; it gets no work before."""
        self._starting[actor.__ray_ready__.remote()] = actor

    def _admit(self, ready: ray.ObjectRef) -> None:
        """Take in an actor that has started. One that could not is replaced, but not for ever."""
        actor = self._starting.pop(ready)
        try:
            result_of(ready)
        except LOST as error:
            ray.kill(actor)
            self._failed_starts += 1
            if self._failed_starts < TRIES * self._workers:
                self._greet(self._spawn())
            elif not (self._idle or self._running or self._starting):
                raise RuntimeError(f"no worker can be started: {error}") from error
        else:
            self._failed_starts = 0
            self._idle.append(actor)

    def _replace(self, actor: Any, item: Any, error: Exception) -> None:
        """Start another actor in the place of one that was lost with `item` in its hands."""
        ray.kill(actor)  # one that is only out of reach would come back and keep its device from the replacement
        self._lost[id(item)] += 1
        if self._lost[id(item)] >= TRIES:
            raise RuntimeError(f"work {item} took its worker down {TRIES} times: {error}") from error
        self._greet(self._spawn())
        idle, self._idle = self._idle, []
        for other in idle:  # it may be gone with the same node, and the item must not be blamed for that too
            self._greet(other)
