"""How the stages share a store with other sweeps: each unit is made once, by the first to claim it."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from amun_ray.base.flow import check
from amun_ray.base.log import say
from amun_ray.storage.leases import claim, host_and_process, release, taken_by
from amun_ray.storage.store import Store, Unit, digest

LOOK_SECONDS = 1  # interval of checks on the work of other sweeps
T = TypeVar("T")


def make_once(store: Store, unit: Unit, make: Callable[[], Any]) -> bool:
    """In a worker: make `unit` unless it is finished or another sweep is making it; returns whether it was made here.

    Removes a damaged unit first. If `make` raises, its sweep keeps the claim and decides what happens to the unit.
    """
    if not claim(store, unit.folder):
        return False
    missing = not store.is_sound(unit)
    if missing:
        store.remove_folder(unit.folder)
        make()
    release(store, unit.folder)
    return missing


def overtaken(store: Store, unit: Unit) -> bool:
    """In a worker that has made `unit`: whether another sweep, which took this one for dead, finished it first."""
    return store.is_sound(unit)


def make_all(store: Store, items: Sequence[T], unit: Callable[[T], Unit],
             run: Callable[[Iterable[T]], Iterator[tuple[T, bool]]]) -> Iterator[tuple[T, bool]]:
    """On the driver: `(item, made here)` for every item as its unit is finished, here or by another sweep.

    `run` hands items out to workers that call `make_once`. Units that other sweeps are making are waited for, and made
    here if those sweeps end without finishing them.
    """
    ready, waits = list(items), _Patience()
    elsewhere: list[T] = []
    while ready or elsewhere:
        for item, result in run(ready):
            if result or store.is_sound(unit(item)):
                yield item, result
            else:
                elsewhere.append(item)
        waiting, ready, elsewhere = elsewhere, [], []
        for item in waiting:
            free = store.is_sound(unit(item)) or taken_by(store, unit(item).folder) is None
            (ready if free else elsewhere).append(item)
        if elsewhere and not ready:
            waits.wait(f"  waiting for {len(elsewhere)} of them, which another sweep is making")


def claimed(store: Store, items: Sequence[T], unit: Callable[[T], Unit]) -> Iterator[list[T]]:
    """On the driver: lists of `items` that no other sweep is making; waits for more until all are done.

    The yielded items belong to this sweep until the next list is requested.
    """
    left, waits = list(items), _Patience()
    while left:
        mine: list[T] = []
        others: list[T] = []
        for item in left:
            (mine if claim(store, unit(item).folder) else others).append(item)
        if mine:
            yield mine
            for item in mine:
                release(store, unit(item).folder)
        else:
            waits.wait(f"  waiting for {len(others)} of them, which another sweep is making")
        left = others


def hold(store: Store, name: str, what: str) -> None:
    """Claim `name`; while another sweep has it, wait and say so."""
    waits = _Patience()
    while not claim(store, name):
        owner = taken_by(store, name)
        if owner is not None:
            host, process = host_and_process(owner)
            waits.wait(f"{what} belongs to a sweep that is still running (host {host}, process {process}); waiting "
                       "for it to end. To run both at once, give another --output; both can use the same storage")


class _Patience:
    """Waits, and says once why."""

    def __init__(self) -> None:
        self._told = False

    def wait(self, reason: str) -> None:
        if not self._told:
            say(reason)
            self._told = True
        check()
        time.sleep(LOOK_SECONDS)


def run_key(sweep: Mapping[str, Any], store: Store, server: str) -> str:
    """The key of a sweep's run on an MLflow server: that of what identifies the `sweep`, whose last start's run each
    start resumes; or one of its own, where the same sweep runs twice at the same time."""
    key = digest(sweep)
    alone = claim(store, f"run-{key}-{digest(server.encode())}")
    return key if alone else f"{key}-{digest(store.owner.encode())}"
