"""Which nodes a sweep begins on: the promised ones, and only with the same package and store."""

import pytest

from amun_ray.errors import UserError
from amun_ray.stages import nodes
from amun_ray.store import Store


@pytest.fixture(scope="module")
def two_nodes():
    import ray
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.usefixtures("two_nodes")
def test_nodes_with_the_same_package_and_store_pass(tmp_path):
    store = Store(str(tmp_path / "store"))
    nodes.check_nodes(store)
    assert list((tmp_path / "store" / "scratch").iterdir()) == []


@pytest.mark.usefixtures("two_nodes")
def test_another_package_on_a_node_is_named_with_both_versions(tmp_path, monkeypatch):
    monkeypatch.setattr("amun_ray.__version__", "9.9")  # here; the nodes import their own
    with pytest.raises(UserError, match=r"amun_ray 0\.\S+ \(content \w{8}\) there, 9\.9 \(content \w{8}\) here"):
        nodes.check_nodes(Store(str(tmp_path)))


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
