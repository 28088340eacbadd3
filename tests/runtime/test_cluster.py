"""How many workers a cluster holds, as Ray places them: a share lies on one GPU, a worker on one node. And its end."""

import signal
import subprocess
import sys

import pytest
import ray

from amun_ray.runtime.cluster import Cluster, end, slots


@pytest.mark.parametrize(("nodes", "gpus", "expected"), [
    ([(64, 2)], 0.4, 4),  # two of 0.4 on each GPU; the 0.2 that are left of both are no third of one
    ([(64, 8)], 0.15, 48),
    ([(64, 2)], 1 / 3, 6),
    ([(64, 3)], 0.1, 30),  # 0.1 is no float
    ([(64, 3)], 0.6, 3),
    ([(64, 3)], 1.0, 3),
    ([(64, 5)], 2.0, 2),  # more than one GPU for a worker
    ([(64, 2), (64, 1), (64, 0)], 0.4, 6),  # node by node
    ([(64, 3), (64, 3)], 2.0, 2),
    ([(3, 2)], 0.4, 3),  # CPUs are what is short
    ([(3, 0), (4, 1)], 0.0, 7),
])
def test_workers_that_a_cluster_holds(nodes, gpus, expected):
    assert slots({"num_cpus": 1, "num_gpus": gpus}, Cluster(tuple(nodes), "test")) == expected


def test_rays_autoscaler_ends_before_the_rest_and_nothing_else_does(monkeypatch):
    """Its command line is that of Ray's own process, which knows no shorter end than a second."""
    script = ray.__path__[0] + "/autoscaler/_private/monitor.py"
    waiting = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with (subprocess.Popen([*waiting, script], stdin=subprocess.PIPE) as autoscaler,
          subprocess.Popen(waiting, stdin=subprocess.PIPE) as other):
        monkeypatch.setattr(ray, "shutdown", lambda: ended.append(autoscaler.wait(60)))
        ended = []
        end()
        assert ended == [-signal.SIGKILL]
        assert other.poll() is None
