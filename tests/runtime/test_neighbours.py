"""Sweeps at once on one cluster: the part of each by hand, and that queue and search keep to it."""

from math import inf
from types import SimpleNamespace

import pytest
import ray
from searching import case, sweep, without_ray

from amun_ray.runtime import neighbours
from amun_ray.runtime import queue as queue_module
from amun_ray.runtime.cluster import Cluster
from amun_ray.runtime.neighbours import Neighbours, Share, part
from amun_ray.runtime.queue import ActorQueue
from amun_ray.stages.studies import Studies


@pytest.mark.parametrize(("workers", "others", "expected"), [
    (4, [], inf),
    (4, [0, 0], inf),  # they have nothing to do
    (4, [100], 2),
    (5, [100], 3),
    (6, [100, 100], 2),
    (9, [1, 100], 4),  # 1 is enough for one of them, the rest of 8 is halved
    (64, [1], 63),
    (1, [100], 1),
    (2, [100, 100, 100], 1),
])
def test_what_a_sweep_may_hold(workers, others, expected):
    assert part(workers, others) == expected


class Ref:
    """A task that is over."""

    def __init__(self, result=None):
        self.result = result


class Worker:
    """An actor of no process, which has started at once; `held` has all that are alive."""

    def __init__(self, held):
        self.held = held
        held.append(self)

    @property
    def __ray_ready__(self):
        return SimpleNamespace(remote=Ref)


def test_a_queue_gives_up_workers_beyond_its_share_when_they_have_finished_and_takes_them_back(monkeypatch):
    held, running, over = [], [], []
    monkeypatch.setattr(queue_module, "ray", SimpleNamespace(
        wait=lambda refs, **_: (refs[:1], []), kill=lambda worker: held.remove(worker), get=lambda ref: ref.result))

    def submit(worker, item):
        assert worker in held
        running.append(len(held))
        return Ref(item)

    def share():
        return inf if len(over) < 20 else 2 if len(over) < 40 else 3
    with ActorQueue(lambda: Worker(held), 4, most=4, share=share) as queue:
        for item, result in queue.run(range(60), submit):
            assert item == result
            over.append(item)
    assert sorted(over) == list(range(60))
    assert running[15] == 4
    assert set(running[30:39]) == {2}
    assert set(running[50:]) == {3}
    assert held == []


def test_a_search_starts_no_trial_beyond_its_share(tmp_path):
    settings = sweep({"trials": 8, "sampler": "random", "together": 8})
    studies = Studies(without_ray(settings, tmp_path), [case()], print)
    studies.share = lambda: 2
    assert [studies.suggest(f"trial {number}") is None for number in range(4)] == [False, False, True, True]
    studies.share = lambda: 3
    assert [studies.suggest(f"trial {number}") is None for number in range(4, 6)] == [False, True]


def test_a_sign_says_what_its_sweep_could_use_and_goes_with_it(local_ray, monkeypatch):
    sign = local_ray.remote(neighbours._Sign)
    other = sign.options(num_cpus=0, name="other", namespace=neighbours.NAMESPACE).remote()
    monkeypatch.setattr(neighbours, "LOOK_SECONDS", 0)
    share = Share({"num_cpus": 0.5, "num_gpus": 0.0})  # of which this Ray holds four
    assert share() == inf, "no cluster was joined"
    with Neighbours.beside(Cluster((), "test", joined=True)):
        assert ray.get([other.wanted.remote(), Neighbours.sign.wanted.remote()]) == [0, 0]  # both have started
        assert Neighbours.others() == [0]
        assert share() == inf
        with Neighbours.wanting(7):
            assert ray.get(Neighbours.sign.wanted.remote()) == 7
            ray.get(other.want.remote(3))
            assert share() == 2
        assert ray.get(Neighbours.sign.wanted.remote()) == 0
        ray.kill(other)
        assert share() == inf
