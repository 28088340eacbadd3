"""Which nodes a sweep begins on: the promised ones, with all that workers need; and that it uses those that join."""

import itertools
import time
from types import SimpleNamespace

import pytest

from amun_ray.base.errors import UserError
from amun_ray.runtime import nodes
from amun_ray.runtime.queue import ActorQueue, run_tasks
from amun_ray.storage.store import Store

PATIENCE_SECONDS = 300


@pytest.fixture(scope="module")
def two_nodes():
    """The cluster, a head and one more node; and `place`, a method of an actor or a task that says where it runs."""
    import ray
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")

    def place(_):
        time.sleep(0.05)
        return ray.get_runtime_context().get_node_id()

    class Placed:
        def place(self, item):
            return place(item)
    yield SimpleNamespace(add=lambda: cluster.add_node(num_cpus=1), task=ray.remote(place), actor=ray.remote(Placed))
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.usefixtures("two_nodes")
def test_nodes_with_the_same_package_and_store_pass(tmp_path):
    store = Store(str(tmp_path / "store"))
    nodes.check_nodes(store)
    assert not [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


@pytest.mark.usefixtures("two_nodes")
def test_another_package_on_a_node_is_named_with_both_versions(tmp_path, monkeypatch):
    monkeypatch.setattr("amun_ray.__version__", "9.9")  # here; the nodes import their own
    with pytest.raises(UserError, match=r"amun_ray 0\.\S+ \(content \w{8}\) there, 9\.9 \(content \w{8}\) here"):
        nodes.check_nodes(Store(str(tmp_path)))


@pytest.mark.usefixtures("two_nodes")
def test_a_module_of_the_users_own_is_missed_on_every_node_by_name(tmp_path):
    with pytest.raises(UserError) as refusal:
        nodes.check_nodes(Store(str(tmp_path / "store")), ["json", "mine.networks"])
    lines = str(refusal.value).splitlines()
    assert len(lines) == 2
    assert all(line.startswith("node ") and "module 'mine.networks' cannot be imported" in line for line in lines)


def test_one_node_is_asked_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(nodes, "live_nodes", lambda: [{}])
    nodes.check_nodes(Store(str(tmp_path / "none")))
    assert not (tmp_path / "none").exists()


def test_waiting_ends_when_the_nodes_are_there(monkeypatch, capsys):
    found = iter([1, 1, 2, 3])
    monkeypatch.setattr(nodes, "live_nodes", lambda: [{}] * next(found))
    monkeypatch.setattr(nodes.time, "sleep", lambda _: None)
    nodes.await_nodes(3)
    assert capsys.readouterr().out == "Ray: waiting up to 300 s for 3 nodes, 1 so far\n"


def test_a_node_that_does_not_come_is_said_and_holds_nothing_up(monkeypatch, capsys):
    monkeypatch.setattr(nodes, "live_nodes", lambda: [{}])
    nodes.await_nodes(2, seconds=0)
    assert "only 1 of 2 nodes came" in capsys.readouterr().out


def until_a_node_joins(two_nodes, work):
    """Draw items for `work` until it has run on a node that was added after the first result; how many it ran on more.

    On a busy machine the first worker of a new node takes a minute to start.
    """
    seen, added, deadline = set(), False, time.monotonic() + PATIENCE_SECONDS

    def items():
        for number in itertools.count():
            if len(seen) > before or time.monotonic() > deadline:
                return
            yield f"item {number}"

    before = len(nodes.live_nodes())
    for _, node in work(items()):
        seen.add(node)
        if not added:
            two_nodes.add()
            added = True
    return len(seen) - before


def test_actors_start_on_a_node_that_joins(two_nodes):
    with ActorQueue(two_nodes.actor.remote, 2) as queue:
        assert until_a_node_joins(two_nodes, lambda items: queue.run(
            items, lambda actor, item: actor.place.remote(item))) == 1


def test_tasks_that_wait_go_to_a_node_that_joins(two_nodes):
    assert until_a_node_joins(two_nodes, lambda items: run_tasks(two_nodes.task.remote, items, limit=lambda: 20)) == 1
