"""How work is handed out: bounded, pulled by whoever is free, and undisturbed by a worker that dies."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, NodeDiedError, RayTaskError, WorkerCrashedError

from amun_ray.errors import Diverged, UserError

LOST = (ActorDiedError, ActorUnavailableError, WorkerCrashedError, NodeDiedError)  # not the work's fault
TRIES = 3


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

    Only an actor that is ready holds work, so that a replacement which waits for a node to come back holds up nothing.
    `in_flight` items per actor hide the hand-out behind the work. The driver holds one result at a time.
    """

    def __init__(self, spawn: Callable[[], Any], workers: int, in_flight: int = 2) -> None:
        self._spawn, self._in_flight = spawn, in_flight
        self._load: dict[Any, int] = {}
        self._starting: dict[ray.ObjectRef, Any] = {}
        self._running: dict[ray.ObjectRef, tuple[Any, Any]] = {}
        self._lost: Counter = Counter()
        self._failed_starts = 0
        for _ in range(workers):
            self._start_one()

    def __enter__(self) -> "ActorQueue":
        return self

    def __exit__(self, *_: object) -> None:
        for actor in [*self._load, *self._starting.values()]:
            ray.kill(actor)

    def run(self, items: Iterable[Any], submit: Callable[[Any, Any], ray.ObjectRef]) -> Iterator[tuple[Any, Any]]:
        """Yield `(item, result)` for every item, in the order in which they finish; `submit(actor, item)` starts one.

        Raises:
            RuntimeError: an item has taken its worker down `TRIES` times, or no worker can be started.
        """
        source, again = iter(items), deque()
        while True:
            for actor in [free for free in self._load if self._load[free] < self._in_flight]:
                while self._load[actor] < self._in_flight:
                    item = again.popleft() if again else next(source, None)
                    if item is None:
                        break
                    self._load[actor] += 1
                    self._running[submit(actor, item)] = (actor, item)
            if not self._running and not (self._starting and (again or not self._load)):
                return
            done, _ = ray.wait([*self._running, *self._starting], num_returns=1)
            if done[0] in self._starting:
                self._admit(done[0])
                continue
            actor, item = self._running.pop(done[0])
            try:
                result = result_of(done[0])
            except LOST as error:
                self._replace(actor)
                self._lost[id(item)] += 1
                if self._lost[id(item)] >= TRIES:
                    raise RuntimeError(f"work {item} took its worker down {TRIES} times: {error}") from error
                again.append(item)
                continue
            self._load[actor] -= 1
            yield item, result

    def _start_one(self) -> None:
        actor = self._spawn()
        self._starting[actor.__ray_ready__.remote()] = actor

    def _admit(self, ready: ray.ObjectRef) -> None:
        actor = self._starting.pop(ready)
        try:
            result_of(ready)
        except LOST as error:
            self._failed_starts += 1
            if self._failed_starts >= TRIES and not self._load:
                raise RuntimeError(f"no worker can be started: {error}") from error
            self._start_one()
        else:
            self._failed_starts, self._load[actor] = 0, 0

    def _replace(self, actor: Any) -> None:
        if self._load.pop(actor, None) is not None:
            self._start_one()
