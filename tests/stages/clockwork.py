"""A Ray of any number of workers without a process: pieces of work take seconds of a clock that is no real one.

The driver's own code runs, with its threads. The clock moves on when every one of them waits, so what begins when does
not depend on how fast this machine is. Whoever has asked first gets the next worker that is free; who asks for several
at once lets others pass until so many are.
"""

import heapq
import threading
from collections import deque
from collections.abc import Callable
from itertools import count
from types import SimpleNamespace

import ray

from amun_ray.base import flow


class Reference:
    """What a piece of work will come to."""

    def __init__(self):
        self.done, self.value = False, None


class Clockwork:
    """So many workers, a clock, and what was worked on when: (begin, end, title), in the order in which it began."""

    def __init__(self, workers: int) -> None:
        self.workers, self.free, self.now, self.pieces = workers, workers, 0.0, []
        self._asked, self._events, self._number = deque(), [], count()
        self._turn, self._threads, self._waiting = threading.Condition(), 1, []

    def install(self, monkeypatch) -> None:
        """In the place of Ray, and of the ways in which threads of a driver wait."""
        def wait(references, *, num_returns=1, timeout=None, fetch_local=True):
            if timeout != 0:
                self.wait(lambda: any(each.done for each in references))
            ready = [each for each in references if each.done][:num_returns]
            return ready, [each for each in references if each not in ready]

        def get(promise):
            self.wait(promise._kept.is_set)
            return promise._value[0]

        for name, stub in {"put": lambda value: value, "wait": wait, "kill": lambda actor: actor.end(),
                           "cluster_resources": lambda: {"GPU": float(self.workers)},
                           "get": lambda one: one.value if isinstance(one, Reference) else one}.items():
            monkeypatch.setattr(ray, name, stub)
        clock = self

        class Thread(threading.Thread):
            def start(self):
                with clock._turn:
                    clock._threads += 1
                super().start()

            def run(self):
                super().run()
                with clock._turn:
                    clock._threads -= 1
                    clock._turn.notify_all()

        monkeypatch.setattr(flow, "threading", SimpleNamespace(Thread=Thread, Event=threading.Event))
        monkeypatch.setattr(flow.Promise, "get", get)

    def wait(self, ready: Callable[[], bool]) -> None:
        """Wait in a thread of the driver. The last one of all to wait moves the clock to the next event."""
        with self._turn:
            self._waiting.append(ready)
            while not ready():
                if len(self._waiting) == self._threads and not any(each() for each in self._waiting):
                    self._step()
                self._turn.notify_all()
                if not ready():
                    self._turn.wait(0.05)
            self._waiting.remove(ready)

    def _step(self) -> None:
        assert self._events, f"everybody waits and nobody works, {self.now:g} s after the start"
        self.now, _, then = heapq.heappop(self._events)
        then()

    def work(self, title: str, seconds: float, then: Callable[[], None]) -> None:
        """A piece of work, which begins now."""
        with self._turn:
            end = self.now + seconds
            self.pieces.append((self.now, end, title))
            heapq.heappush(self._events, (end, next(self._number), then))

    def ask(self, granted: Callable[[], None], workers: int = 1) -> Callable[[], None]:
        """Ask for a worker, or several at once; returns what withdraws the request."""
        request = workers, granted
        with self._turn:
            self._asked.append(request)
            self._serve()

        def withdraw() -> None:
            with self._turn:
                if request in self._asked:
                    self._asked.remove(request)
        return withdraw

    def give_back(self, workers: int = 1) -> None:
        with self._turn:
            self.free += workers
            self._serve()

    def _serve(self) -> None:
        while (request := next((each for each in self._asked if each[0] <= self.free), None)) is not None:
            self._asked.remove(request)
            self.free -= request[0]
            request[1]()

    def task(self, title: Callable[..., str], seconds: Callable[[str, int], float], make: Callable[..., object],
             workers: Callable[..., int] = lambda *_: 1):
        """A function of Ray, which does `make` when it ends; `title`, `make` and `workers` get the arguments of each
        call, and `seconds` its title and workers."""
        def remote(*arguments):
            reference, taken = Reference(), workers(*arguments)

            def end():
                reference.value, reference.done = make(*arguments), True
                self.give_back(taken)

            self.ask(lambda: self.work(title(*arguments), seconds(title(*arguments), taken), end), taken)
            return reference
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=remote), remote=remote)


    def actors(self, title: str, seconds: Callable[[str], float]):
        """What `ray.remote` makes of a class."""
        return lambda _: SimpleNamespace(options=lambda **_: SimpleNamespace(
            remote=lambda *_: Actor(self, title, seconds)))


class Actor:
    """An actor of Ray, which holds a worker from its start until it is killed; its pieces of work have one `title`."""

    def __init__(self, clock: Clockwork, title: str, seconds: Callable[[str], float]) -> None:
        self._clock, self._title, self._seconds, self._started, self._ready = clock, title, seconds, False, Reference()
        self.__ray_ready__ = SimpleNamespace(remote=lambda: self._ready)
        self.work = SimpleNamespace(remote=self._work)
        self._withdraw = clock.ask(self._start)

    def _start(self):
        self._started = self._ready.done = True

    def end(self):
        self._clock.give_back() if self._started else self._withdraw()

    def _work(self, *_):
        reference = Reference()

        def end():
            reference.value, reference.done = (None, [], 1.0), True
        self._clock.work(self._title, self._seconds(self._title), end)
        return reference


class Tune:
    """In the place of Tune, as it is with `reuse_actors` and `max_concurrent_trials`: it asks for at most `at_once`
    trials, and for a worker for each. A worker whose trial is over goes on with the next one that waits; if none does,
    one worker is kept while more are to come."""

    def __init__(self, clock: Clockwork, title: Callable[..., str], seconds: Callable[[str], float],
                 make: Callable[..., None]) -> None:
        self._clock, self._title, self._seconds, self._make = clock, title, seconds, make
        self._waiting, self._ended, self._running, self._kept = {}, deque(), 0, False

    def run(self, studies, at_once: int) -> None:
        suggested = 0
        while True:
            while len(self._waiting) + self._running < at_once:
                config = studies.suggest(str(suggested))
                if not isinstance(config, dict):
                    break
                self._stage(str(suggested), config)
                suggested += 1
            if not self._waiting and not self._running:
                break
            self._clock.wait(lambda: bool(self._ended))
            trial, config = self._ended.popleft()
            self._make(config)
            self._running -= 1
            studies.on_trial_complete(trial, {})
            self._go_on(suggested < studies.total)

    def _stage(self, trial: str, config) -> None:
        if self._kept:
            self._kept = False
            self._begin(trial, config)
            return
        self._waiting[trial] = config, None
        withdraw = self._clock.ask(lambda: self._begin(trial, config))
        if trial in self._waiting:
            self._waiting[trial] = config, withdraw

    def _go_on(self, more: bool) -> None:
        if self._waiting:
            trial, (config, withdraw) = next(iter(self._waiting.items()))
            withdraw()
            self._begin(trial, config)
        elif more and not self._kept:
            self._kept = True
        else:
            self._clock.give_back()

    def _begin(self, trial: str, config) -> None:
        self._waiting.pop(trial, None)
        self._running += 1
        title = self._title(config)
        self._clock.work(title, self._seconds(title), lambda: self._ended.append((trial, config)))
