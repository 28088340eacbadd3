"""Work side by side on the driver: stages, each in a thread of its own, and what one of them waits for.

A stage hands out its pieces and waits for them, so threads suffice. The first error ends all stages: whoever waits, for
another stage or for a piece of work, gets Stopped at the next `check`.
"""

import threading
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar, copy_context
from functools import wraps
from typing import Generic, ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
LOOK_SECONDS = 0.1  # interval of checks while a stage waits for another
GRACE_SECONDS = 10  # for the other stages to end, after one of them has failed
_stop: ContextVar[threading.Event | None] = ContextVar("stop", default=None)
_turn = threading.RLock()


class Stopped(BaseException):
    """Another stage has failed, or the work was interrupted. Not an Exception, just as Ctrl-C is not."""


def stopped() -> bool:
    """Whether the stages beside this one have been stopped."""
    stop = _stop.get()
    return stop is not None and stop.is_set()


def check() -> None:
    """Raise Stopped if they have been."""
    if stopped():
        raise Stopped


def in_turn(function: Callable[P, T]) -> Callable[P, T]:
    """Of all functions that are so decorated, one runs at a time; it may call others."""
    @wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        with _turn:
            return function(*arguments, **options)
    return call


class Promise(Generic[T]):
    """A value that a stage will have."""

    def __init__(self) -> None:
        self._kept = threading.Event()
        self._value: list[T] = []

    def keep(self, value: T) -> None:
        self._value.append(value)
        self._kept.set()

    def get(self) -> T:
        """The value; waits for it."""
        while not self._kept.wait(LOOK_SECONDS):
            check()
        return self._value[0]


class Gathering(Promise[list[T]]):
    """Values by name, which come in any order; they are had, in the order of `names`, when the last has come."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self._values: dict[str, T | None] = dict.fromkeys(names)
        self._missing = set(self._values)
        self._look()

    def put(self, name: str, value: T) -> None:
        """Take a value, if it is one of these."""
        if name in self._missing:
            self._values[name] = value
            self._missing.remove(name)
            self._look()

    def _look(self) -> None:
        if not self._missing:
            self.keep([*self._values.values()])  # type: ignore[list-item]  # every None was replaced


class Flow:
    """A context in which stages run beside the caller; it ends when they have. Raises the first error of any."""

    def __init__(self) -> None:
        self._stop, self._threads, self._failures = threading.Event(), list[threading.Thread](), list[BaseException]()

    def __enter__(self) -> Self:
        self._token = _stop.set(self._stop)
        return self

    def start(self, stage: Callable[[], T]) -> Promise[T]:
        """Start a stage; the promise is its result."""
        promise = Promise[T]()

        def work() -> None:
            try:
                promise.keep(stage())
            except Stopped:
                pass
            except BaseException as error:  # of any stage's code, even Unread: raised by `__exit__`, if it is the first
                self._failures.append(error)
                self._stop.set()

        thread = threading.Thread(target=copy_context().run, args=(work,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return promise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        until = None
        if error is not None:
            self._stop.set()
            until = time.monotonic() + GRACE_SECONDS
        for thread in self._threads:
            thread.join(until and max(0.0, until - time.monotonic()))
        _stop.reset(self._token)
        if self._failures and (error is None or isinstance(error, (Exception, Stopped))):
            raise self._failures[0] from None
