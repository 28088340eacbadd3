"""What a person sees while a stage works: what, how far, how much longer. Only a terminal gets the moving bar."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tqdm import tqdm

from amun_ray.base.log import say


class Progress(tqdm):  # type: ignore[type-arg]  # not generic at run time
    """A bar that counts even where it is not drawn, and knows what was already in the store."""

    done = 0
    stored = 0
    noun = ""  # what is counted; tqdm keeps no `unit` where it draws nothing

    def advance(self, count: int = 1) -> None:
        self.done += count
        self.update(count)
        for tell in _watchers.get():
            tell(f"{self.done} of {self.total} {self.noun}")


_watchers: ContextVar[tuple[Callable[[str], None], ...]] = ContextVar("watchers", default=())  # of this stage


@contextmanager
def watched(tell: Callable[[str], None]) -> Iterator[None]:
    """Until the context ends, call `tell` whenever a bar moves, with how far it is: `3 of 12 trials`."""
    token = _watchers.set((*_watchers.get(), tell))
    try:
        yield
    finally:
        _watchers.reset(token)


@contextmanager
def bar(label: str, total: int, unit: str) -> Iterator[Progress]:
    """A progress bar with rate and time left on a terminal, silence elsewhere; a closing line on both.

    Interrupted work gets the line too: how much of it is done.
    """
    started = time.monotonic()
    with Progress(total=total, desc=f"  {label}", unit=unit, disable=None, leave=False, file=sys.stderr) as progress:
        progress.noun = unit
        try:
            yield progress
        except BaseException:
            if total:
                say(f"  {label}: {progress.done} of {total} {unit} are finished")
            raise
    if total:
        say(f"  {label}: {total} {unit} {_how(progress, total, time.monotonic() - started)}")


def _how(progress: Progress, total: int, seconds: float) -> str:
    """The time, where any work was done."""
    if progress.stored == total:
        return "from the store"
    return f"in {seconds:.1f} s" + (f", {progress.stored} of them from the store" if progress.stored else "")
