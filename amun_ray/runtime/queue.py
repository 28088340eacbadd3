"""How work is distributed: bounded, pulled by free workers, while workers may die and hosts may join."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from math import inf
from typing import Any, TypeVar

import ray
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from amun_ray.base.errors import Diverged, UserError
from amun_ray.base.flow import check
from amun_ray.base.log import say
from amun_ray.base.progress import bar
from amun_ray.runtime.losses import KEPT, reason
from amun_ray.runtime.neighbours import Neighbours
from amun_ray.storage.sharing import make_all
from amun_ray.storage.store import Store, Unit

T = TypeVar("T")
LOST = (RayActorError, WorkerCrashedError, NodeDiedError, LocalRayletDiedError, OutOfMemoryError)  # the worker is gone
TRIES = 3
IN_FLIGHT = 1000  # tasks submitted to Ray at once: more than any cluster runs, few enough to track
RESERVE = 8  # actors requested beyond those that have started: a joining host with eight GPUs is used at once
LOOK_SECONDS = 1  # interval of checks whether to go on
PATIENCE_SECONDS = 30  # wait without any started worker before saying so


def result_of(reference: "ray.ObjectRef[Any]") -> Any:
    """`ray.get`, with the package's own exceptions raised as themselves instead of wrapped by Ray."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, (UserError, Diverged)):
            raise error.cause from None
        raise


def run_tasks(submit: Callable[[Any], "ray.ObjectRef[Any]"], items: Iterable[Any], *,
              limit: Callable[[], float] = lambda: IN_FLIGHT,
              weight: Callable[[Any], int] = lambda item: 1) -> Iterator[tuple[Any, Any]]:
    """Submit a task per item, in order, as long as all together weigh at most `limit`; yield `(item, result)` as they
    finish, in any order.

    The driver holds no more results than that, whatever the number of items. Ray runs as many tasks as fit in the
    cluster; a node that joins takes waiting ones. Ray itself retries tasks lost with their worker (`max_retries` of the
    remote function). `limit` is asked again and again, since a cluster may grow; alone a task may weigh more.
    """
    waiting, held = iter(items), 0
    running: dict[ray.ObjectRef[Any], Any] = {}
    item = next(waiting, None)
    while running or item is not None:
        while item is not None and (not running or held + weight(item) <= limit()):
            running[submit(item)] = item
            held += weight(item)
            item = next(waiting, None)
        for ready in _look(list(running)):
            done = running.pop(ready)
            held -= weight(done)
            yield done, result_of(ready)


def _look(references: "list[ray.ObjectRef[Any]]") -> "list[ray.ObjectRef[Any]]":
    """One of them that is ready; none if none is within LOOK_SECONDS.

    Raises:
        Stopped: a stage beside this one has failed.
    """
    check()
    return ray.wait(references, num_returns=1, timeout=LOOK_SECONDS, fetch_local=False)[0]


def make_missing(store: Store, items: Sequence[T], unit: Callable[[T], Unit],
                 submit: Callable[[T], "ray.ObjectRef[Any]"], *,
                 shown: tuple[str, str], over: Callable[[T, bool], None] = lambda item, new: None,
                 limit: Callable[[], float] = lambda: IN_FLIGHT,
                 weight: Callable[[T], int] = lambda item: 1) -> set[str]:
    """Make the units that `store` lacks, one task each; returns the digests of those made here.

    Units in the store are checked first (see `Store.result`). `submit` starts the task of an item, which returns
    whether it made the unit (see `sharing.make_once`). `over` is called with each item, and whether its unit was made
    here, as soon as that exists. `shown`: the label and unit of the progress bar. `limit`, `weight`: see `run_tasks`.
    """
    label, noun = shown
    alike: dict[str, list[T]] = {}  # items by the digest of their unit
    for item in items:
        alike.setdefault(unit(item).digest, []).append(item)
    pending = [same[0] for same in alike.values() if store.result(unit(same[0])) is None]
    missing = {unit(item).digest for item in pending}
    for item in chain.from_iterable(same for each, same in alike.items() if each not in missing):
        over(item, False)
    new: set[str] = set()
    with Neighbours.wanting(len(pending)), bar(label, len(pending), noun) as progress:
        run = partial(run_tasks, submit, limit=limit, weight=weight)
        for item, result in make_all(store, pending, unit, run):
            new |= {unit(item).digest} if result else set()
            progress.stored += not result
            progress.advance()
            with progress.external_write_mode():  # clears the bar for other output
                for each in alike[unit(item).digest]:
                    over(each, bool(result))
    return new


class ActorQueue:
    """Work pulled by actors, each pinned to its device; an actor that dies is replaced, and its work redone.

    Only an actor that is ready gets work, one item at a time: a replacement that waits for a node to come back delays
    nothing, the last items are spread over all actors, and it is clear which item killed an actor. Handing out an item
    costs about a millisecond (benchmarks/scaling.py).

    While an item waits for an actor, `RESERVE` actors are requested beyond those that have started. On a full cluster
    they wait, at the cost of an entry in Ray's list; when a node joins or comes back they start, and more are
    requested. They also show an autoscaler that there is work for more nodes.

    Beside other sweeps the queue keeps to its `share`: an actor beyond it ends when it has finished its item.
    """

    def __init__(self, spawn: Callable[[], Any], workers: int, *, most: float = inf,
                 share: Callable[[], float] = lambda: inf) -> None:
        """Request `workers` actors, as many as fit in the cluster now; `most` is the limit for later, and `share` the
        limit at any moment."""
        self._spawn, self._workers, self._most, self._share = spawn, workers, most, share
        self._idle: list[Any] = []
        self._starting: dict[ray.ObjectRef[Any], Any] = {}
        self._running: dict[ray.ObjectRef[Any], tuple[Any, Any]] = {}
        self._lost: Counter[int] = Counter()  # id of an item -> actors lost over it
        self._failed_starts = 0
        self._told = False
        for _ in range(int(min(workers, share()))):
            self._greet(spawn())

    def __enter__(self) -> "ActorQueue":
        return self

    def __exit__(self, *_: object) -> None:
        for actor in [*self._idle, *self._starting.values(), *(actor for actor, _ in self._running.values())]:
            ray.kill(actor)

    def run(self, items: Iterable[Any],
            submit: Callable[[Any, Any], "ray.ObjectRef[Any]"]) -> Iterator[tuple[Any, Any]]:
        """Yield `(item, result)` for every item, in the order in which they finish; `submit(actor, item)` starts one.

        Items are drawn when an actor is free, plus one ahead, so `items` may be a generator of any length; None is not
        a valid item.

        Raises:
            UserError: an item has killed its worker `TRIES` times, or no worker can be started, with the last reason.
            UserError, Diverged, RayTaskError: raised by the work itself; it is not retried.
        """
        source = iter(items)
        waiting = next(source, None)
        while waiting is not None or self._running:
            self._shrink()
            while self._idle and waiting is not None:
                actor = self._idle.pop()
                self._running[submit(actor, waiting)] = actor, waiting
                waiting = next(source, None)
            if waiting is not None:
                self._reserve()
            for done in self._done():
                if done in self._starting:
                    self._admit(done)
                    continue
                actor, item = self._running.pop(done)
                try:
                    result = result_of(done)
                except LOST as error:
                    self._give_up(actor, item, error)
                    source, waiting = chain([waiting] if waiting is not None else [], source), item
                    continue
                self._idle.append(actor)
                self._lost.pop(id(item), None)
                yield item, result

    def _done(self) -> list["ray.ObjectRef[Any]"]:
        """All finished tasks; waits until there is one."""
        awaited, patient = [*self._running, *self._starting], time.monotonic() + PATIENCE_SECONDS
        while not _look(awaited):
            if time.monotonic() >= patient and not self._idle and not self._running and not self._told:
                say("  waiting for a worker: the cluster has none free; other stages or sweeps may hold them")
                self._told = True
        return ray.wait(awaited, num_returns=len(awaited), timeout=0, fetch_local=False)[0]

    def _greet(self, actor: Any) -> None:
        """Add `actor` to those awaited; it gets no work before it has started."""
        self._starting[actor.__ray_ready__.remote()] = actor

    def _reserve(self) -> None:
        """Request `RESERVE` actors beyond those that have started, unless starting has failed too often."""
        while (len(self._starting) < RESERVE and self._failed_starts < TRIES * self._workers
               and self._held < min(self._most, self._share())):
            self._greet(self._spawn())

    @property
    def _held(self) -> int:
        """How many actors there are, requested ones included."""
        return len(self._idle) + len(self._running) + len(self._starting)

    def _shrink(self) -> None:
        """Give up actors beyond this sweep's share: first those that have not started, then those without work."""
        while self._held > self._share() and (self._starting or self._idle):
            ray.kill(self._starting.popitem()[1] if self._starting else self._idle.pop())

    def _admit(self, ready: "ray.ObjectRef[Any]") -> None:
        """Accept an actor that has started. One that failed to start is replaced, a limited number of times."""
        actor = self._starting.pop(ready)
        try:
            result_of(ready)
        except LOST as error:
            ray.kill(actor)
            self._failed_starts += 1
            if self._failed_starts >= TRIES * self._workers and not (self._idle or self._running or self._starting):
                raise UserError(f"no worker can be started: {reason(str(error))}; {KEPT}") from error
        else:
            self._failed_starts = 0
            self._idle.append(actor)

    def _give_up(self, actor: Any, item: Any, error: Exception) -> None:
        """Drop an actor that was lost while working on `item`; another replaces it while work waits."""
        ray.kill(actor)  # one that is only unreachable would come back and hold the device that its replacement needs
        self._lost[id(item)] += 1
        if self._lost[id(item)] >= TRIES:
            raise UserError(f"{item} took its worker down {TRIES} times: {reason(str(error))}; {KEPT}") from error
        self._failed_starts = 0  # it had started, so actors can start
        idle, self._idle = self._idle, []
        for other in idle:  # it may be lost with the same node, and its item must not be blamed for that
            self._greet(other)
