"""Work is handed out once, in bounded numbers, and survives the death of workers."""

import os
import signal
import time

import pytest

from amun_ray.base.errors import Diverged, UserError
from amun_ray.base.flow import Flow
from amun_ray.runtime import queue as queue_module
from amun_ray.runtime.queue import TRIES, ActorQueue, run_tasks


@pytest.fixture(scope="module")
def worker(local_ray, tmp_path_factory):
    """An actor class that notes each item it begins, and can be told to die."""
    log = tmp_path_factory.mktemp("log")

    @local_ray.remote(num_cpus=1)
    class Worker:
        def work(self, item):
            (log / f"{item}-{len(list(log.glob(f'{item}-*')))}").touch()
            if item == "dies once" and len(list(log.glob("dies once-*"))) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if item == "always dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if str(item).startswith("together"):
                while len(list(log.glob("together*"))) <= TRIES:
                    time.sleep(0.02)
            if item == "user error":
                raise UserError("row 3 is empty")
            return f"{item} done"

    return Worker, log


def drain(worker, items, workers=2, most=2):
    with ActorQueue(lambda: worker.remote(), workers, most=most) as queue:
        return dict(queue.run(items, lambda actor, item: actor.work.remote(item)))


def test_every_item_is_worked_once(worker):
    cls, log = worker
    items = [f"item {number}" for number in range(20)]
    assert drain(cls, items) == {item: f"{item} done" for item in items}
    assert all(len(list(log.glob(f"{item}-*"))) == 1 for item in items)


def test_no_items_are_no_work(worker):
    assert drain(worker[0], []) == {}


def test_a_worker_killed_by_a_signal_is_replaced_and_its_item_done(worker):
    cls, log = worker
    items = ["dies once", *(f"beside {number}" for number in range(6))]
    assert drain(cls, items) == {item: f"{item} done" for item in items}
    assert len(list(log.glob("dies once-*"))) == 2


def test_an_item_that_always_kills_its_worker_is_named(worker):
    with pytest.raises(UserError, match=f"always dies took its worker down {TRIES} times"):
        drain(worker[0], ["always dies"], workers=1)


def test_a_users_mistake_arrives_as_itself(worker):
    with pytest.raises(UserError, match="row 3 is empty"):
        drain(worker[0], ["user error"])


def test_workers_that_cannot_start_are_said_so(local_ray):
    @local_ray.remote(num_cpus=1)
    class Broken:
        def __init__(self):
            raise OSError("no such library")

    with pytest.raises(UserError, match="no worker can be started"):
        drain(Broken, ["item"], workers=1, most=1)


def test_the_driver_holds_a_bounded_number_of_tasks(local_ray):
    """A million items are more than any driver may submit at once; the source is pulled as results come back."""
    pulled = []

    def source():
        for number in range(1_000_000):
            pulled.append(number)
            yield number

    tasks = run_tasks(lambda number: local_ray.put(number), source(), limit=lambda: 8)
    for count, (item, result) in zip(range(1, 201), tasks, strict=False):
        assert item == result
        assert len(pulled) <= count + 8  # one of them waits to be submitted


def test_tasks_are_submitted_in_order_while_all_together_weigh_no_more_than_the_limit_which_may_grow(local_ray):
    weights, running, submitted, limits = [5, 3, 2, 1] * 5, [], [], [4]

    def weight():
        return sum(weights[number] for number in running)

    def submit(number):
        assert not running or weight() + weights[number] <= limits[-1]
        running.append(number)
        submitted.append(number)
        return local_ray.put(number)

    tasks = run_tasks(submit, range(20), limit=lambda: limits[-1], weight=weights.__getitem__)
    for count, (item, _) in enumerate(tasks):
        assert len(submitted) == 20 or weight() + weights[len(submitted)] > limits[-1]
        running.remove(item)
        limits.append(4 if count < 3 else 7)
    assert (submitted, running) == ([*range(20)], [])


def test_a_task_that_diverges_arrives_as_itself(local_ray):
    @local_ray.remote
    def diverge():
        raise Diverged("epoch 2")

    with pytest.raises(Diverged, match="epoch 2"):
        list(run_tasks(lambda _: diverge.remote(), [1], limit=lambda: 1))


def test_actors_that_died_idle_are_replaced_and_no_item_is_blamed(worker, local_ray):
    """A node that is lost near the end takes its idle actors with it; each would fail the item it is given."""
    actors = []

    def spawn():
        actors.append(worker[0].options(num_cpus=0).remote())
        return actors[-1]

    with ActorQueue(spawn, TRIES + 1, most=TRIES + 1) as queue:
        together = [f"together {number}" for number in range(TRIES + 1)]  # one each, so all have started
        assert len(list(queue.run(together, lambda actor, item: actor.work.remote(item)))) == len(together)
        for actor in actors[:]:
            local_ray.kill(actor)
        after = dict(queue.run(["after"], lambda actor, item: actor.work.remote(item)))
    assert after == {"after": "after done"}


def test_waiting_for_room_is_said(local_ray, monkeypatch):
    class Said(Exception):
        pass

    def say(text):
        raise Said(text)

    monkeypatch.setattr(queue_module, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(queue_module, "say", say)
    elsewhere = local_ray.remote(resources={"another machine": 1})(Stub)
    with pytest.raises(Said, match="the cluster has none free"):
        drain(elsewhere, ["item"])


class Stub:
    """An actor without a method of its own."""


class Row:
    """A result that counts how many of its kind are alive."""

    alive = most = 0

    def __init__(self):
        Row.alive += 1
        Row.most = max(Row.most, Row.alive)

    def __del__(self):
        Row.alive -= 1


class FakeActor:
    """An actor of no process: ready at once, and done with whatever it gets."""

    @property
    def __ray_ready__(self):
        return self

    def remote(self):
        return Row()


class FakeRay:
    """A Ray in which every task has finished by the time it is asked for."""

    def __init__(self):
        self.killed = 0

    def wait(self, references, *, num_returns, timeout, fetch_local):
        return references, []

    def get(self, reference):
        return reference

    def kill(self, actor):
        self.killed += 1


def test_a_million_rows_leave_no_more_than_one_result_per_worker_in_memory(monkeypatch):
    workers, drawn, done = 64, 0, 0

    def rows():
        nonlocal drawn
        for number in range(1_000_000):
            drawn += 1
            assert drawn <= done + workers + 1, "items are drawn as workers get free, and one ahead"
            yield number

    ray = FakeRay()
    monkeypatch.setattr(queue_module, "ray", ray)
    with ActorQueue(FakeActor, workers, most=workers) as queue:
        for _ in queue.run(rows(), lambda actor, number: Row()):
            done += 1
    assert done == 1_000_000
    assert Row.most <= 2 * workers
    assert ray.killed == workers


def test_tasks_are_not_waited_for_once_a_stage_beside_them_has_failed(monkeypatch):
    looks = iter(range(1000))

    def none_is_ready(tasks, **_):
        next(looks)
        time.sleep(0.01)
        return [], tasks
    monkeypatch.setattr(queue_module.ray, "wait", none_is_ready)

    def fails_beside():
        with Flow() as flow:
            flow.start(lambda: {}["mine"])
            list(run_tasks(str, [1]))

    with pytest.raises(KeyError, match="mine"):
        fails_beside()
    assert next(looks, None) is not None
