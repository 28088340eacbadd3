"""What tests/stages/test_stress.py runs, each in a process with a Ray of its own; prints what it found as JSON.
By hand with `PYTHONPATH=tests:tests/stages:.`

    python tests/stages/stressing.py long FOLDER TRIALS     a search of so many trials, all in one worker
    python tests/stages/stressing.py spot FOLDER DEATHS     a search whose node is taken away so many times
    python tests/stages/stressing.py share FOLDER           two sweeps at once on one cluster
    python tests/stages/stressing.py job FOLDER             `ray job submit` beside 200 MB of results
    python tests/stages/stressing.py short FOLDER           a search whose worker Ray ends for want of memory
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from ray.tune.execution.experiment_state import _ExperimentCheckpointManager
from searching import cases, gap, known, sweep, with_ray
from torch import Tensor, nn

from amun_ray.base.errors import UserError
from amun_ray.base.names import allow
from amun_ray.data.dataset import Dataset
from amun_ray.runtime.losses import in_one_line
from amun_ray.runtime.neighbours import Neighbours, Share
from amun_ray.runtime.queue import ActorQueue, run_tasks
from amun_ray.stages.search import best_settings
from amun_ray.unlearn import Method, Task
from amun_ray.work.trials import Trial

allow("stressing")
LEAN = {"include_dashboard": False, "include_log_monitor": False}


def searched(folder: Path, trials: int, each: Any = lambda count: None, gate: str = "",
             method: str = "searching:PLAIN", options: Any = None, at_once: int = 1) -> list[Trial]:
    """A search, whose trials do nothing; `each` is called after each trial with how many are over."""
    settings = sweep({"trials": trials, "sampler": "random"}, {method: {"access": ["retain"]}}, gate)
    over: list[Trial] = []

    def on_trial(trial: Trial, stored: bool) -> None:
        over.append(trial)
        each(len(over))
    best_settings(with_ray(settings, folder / "store"), cases(), options or {"num_cpus": 1, "num_gpus": 0}, at_once,
                  on_trial)
    for trial in over:  # so that none is lost or told wrongly
        if trial.finished:
            assert abs(trial.result["average_gap"][0] - gap(trial.settings.lr, 1)) < 1e-9
    return over


@contextmanager
def snapshots() -> Iterator[list[float]]:
    """The seconds of each of Tune's snapshots in this context."""
    seconds, sync = [], _ExperimentCheckpointManager.sync_up_experiment_state

    def timed(self: Any, *arguments: Any, **options: Any) -> None:
        begun = time.monotonic()
        sync(self, *arguments, **options)
        seconds.append(time.monotonic() - begun)
    _ExperimentCheckpointManager.sync_up_experiment_state = timed
    yield seconds
    _ExperimentCheckpointManager.sync_up_experiment_state = sync


def size(folder: str | Path) -> dict[str, int]:
    """What lies in a folder: files, and their bytes."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and not path.is_symlink()]
    return {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}


def long(folder: Path, trials: str) -> dict[str, Any]:
    """The private memory of driver and worker, Ray's logs and Tune's folder as the search goes on; Tune's snapshots."""
    from amun_ray.runtime.cluster import start_here
    start_here(num_cpus=1, log_to_driver=False, logging_level="error")
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    seen: list[dict[str, Any]] = []
    begun = time.monotonic()

    def look(count: int) -> None:
        if count % 100 == 0:
            workers = [one for one in psutil.Process().children(recursive=True)
                       if "ImplicitFunc" in " ".join(one.cmdline())]
            seen.append({"trials": count, "seconds": time.monotonic() - begun, "workers": len(workers),
                         "worker": max((one.memory_full_info().uss for one in workers), default=0),
                         "driver": psutil.Process().memory_full_info().uss, "logs": size(session / "logs"),
                         "session": size(session), "tune": size(folder / "store" / "scratch")})
            print(json.dumps(seen[-1]), file=sys.stderr, flush=True)
    with snapshots() as taken:
        searched(folder, int(trials), each=look)
    wall = time.monotonic() - begun
    ray.shutdown()
    return {"seen": seen, "seconds": wall, "snapshots": sum(taken), "taken": len([one for one in taken if one > 0.01])}


def reclaimed(task: Task) -> Iterator[int]:
    """The method `known`, on a node that is taken away as soon as a trial begins on it; the same trial lives later."""
    gate = Path(task.model.net.gate)
    try:
        (gate / f"{task.recipe.lr!r}").touch(exist_ok=False)
    except FileExistsError:
        yield from known(task)
        return
    (gate / "partial").write_text(ray.get_runtime_context().get_node_id())
    (gate / "partial").rename(gate / "node")
    time.sleep(600)


RECLAIMED = Method(access=frozenset({"retain"}), run=reclaimed)


def spot(folder: Path, deaths: str) -> dict[str, Any]:
    """A search of so many trials on spot nodes of one CPU: each loses its node as it begins, and another node comes."""
    from ray.cluster_utils import Cluster
    gate = folder / "gate"
    gate.mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **LEAN}, shutdown_at_exit=False)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")  # above: no signal handlers, which a
    # node that is added from a thread could not set
    nodes = {}

    def come() -> None:
        node = cluster.add_node(num_cpus=1, wait=False, **LEAN)
        nodes[node.node_id] = node

    def reclaim() -> None:
        while True:
            while not (gate / "node").exists():
                time.sleep(0.05)
            cluster.remove_node(nodes.pop((gate / "node").read_text()), allow_graceful=False)
            (gate / "node").unlink()
            come()
    come()
    threading.Thread(target=reclaim, daemon=True).start()
    begun = time.monotonic()
    over = searched(folder, int(deaths), gate=str(gate), method="stressing:RECLAIMED",
                    each=lambda count: print(count, time.monotonic() - begun, file=sys.stderr, flush=True))
    seconds = time.monotonic() - begun
    ray.shutdown()
    cluster.shutdown()
    return {"finished": sum(trial.finished for trial in over), "trials": len(over), "deaths": len([*gate.iterdir()]),
            "seconds": seconds}


def hold(log: str) -> None:
    """Hold a worker for a second, and note from when to when."""
    begun = time.time()
    time.sleep(1)
    with open(log, "a") as file:
        file.write(f"{begun} {time.time()}\n")


class Holder:
    """An actor that does the same."""

    def hold(self, log: str) -> None:
        hold(log)


def held(task: Task) -> Iterator[int]:
    """The method `known`, which holds its worker for a second."""
    hold(task.model.net.gate)
    yield from known(task)


HELD = Method(access=frozenset({"retain"}), run=held)


def lasting(task: Task) -> Iterator[int]:
    """The method `known`, after so long that Ray's look at the memory comes first."""
    time.sleep(30)
    yield from known(task)


LASTING = Method(access=frozenset({"retain"}), run=lasting)
LOW_MEMORY = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}  # each worker is too much
KINDS = ("tasks", "actors", "search")
ITEMS = {"first": 60, "second": 20}


def work(kind: str, count: int, log: Path) -> None:
    """So many items of a second, on workers with a GPU each, or two for a search."""
    options = {"num_cpus": 0.5, "num_gpus": 1}
    if kind == "search":
        searched(log.parent / log.name.replace("search", "store"), count, gate=str(log), method="stressing:HELD",
                 options=options | {"num_gpus": 2}, at_once=count)
    elif kind == "tasks":
        task = ray.remote(**options)(hold)
        with Neighbours.wanting(count):
            list(run_tasks(lambda item: task.remote(str(log)), range(count)))
    else:
        actor = ray.remote(**options)(Holder)
        with Neighbours.wanting(count), ActorQueue(actor.remote, 4, most=count, share=Share(options)) as queue:
            list(queue.run(range(count), lambda worker, item: worker.hold.remote(str(log))))


def sharer(folder: Path, name: str) -> None:
    """One of two sweeps; the second begins each kind of work when the first has begun it."""
    from amun_ray.runtime.cluster import connect
    with Neighbours.beside(connect()):
        (folder / f"{name}-ready").touch()
        await_all(folder / "first-ready", folder / "second-ready")
        for kind in KINDS:
            if name == "second":
                await_all(folder / f"{kind}-first")
            (folder / f"{kind}-{name}-asks").write_text(str(time.time()))
            work(kind, ITEMS[name], folder / f"{kind}-{name}")
            (folder / f"{kind}-{name}-done").touch()
            await_all(folder / f"{kind}-first-done", folder / f"{kind}-second-done")


def await_all(*files: Path) -> None:
    while not all(file.exists() for file in files):
        time.sleep(0.05)


def share(folder: Path) -> dict[str, Any]:
    """Two sweeps on a node of four fake GPUs: how long the second waited, and its part while it had work."""
    from ray.cluster_utils import Cluster
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 4, **LEAN})
    drivers = [subprocess.Popen([sys.executable, __file__, "sharer", folder, name],
                                env=os.environ | {"RAY_ADDRESS": cluster.address}) for name in ITEMS]
    assert [driver.wait() for driver in drivers] == [0, 0]
    cluster.shutdown()
    found = {}
    for kind in KINDS:
        first, second = ([[float(time) for time in line.split()] for line in (folder / f"{kind}-{name}").open()]
                         for name in ITEMS)
        begin, end = min(second)[0], max(end for _, end in second)
        beside = [item for item in first if item[0] < end and item[1] > begin]
        found[kind] = {"waited": begin - float((folder / f"{kind}-second-asks").read_text()), "seconds": end - begin,
                       "percent": 100 * len(second) / (len(second) + len(beside)),
                       "first_ended_after": max(end for _, end in first) - end}
    return found


def short(folder: Path) -> dict[str, Any]:
    """A search on a node without memory to spare: what it ends with, and after how many seconds."""
    from amun_ray.runtime.cluster import start_here
    os.environ |= LOW_MEMORY
    start_here(num_cpus=1, log_to_driver=False, logging_level="error")
    begun = time.monotonic()
    try:
        with in_one_line():
            searched(folder, 1, method="stressing:LASTING")
    except UserError as error:
        return {"error": str(error), "seconds": time.monotonic() - begun}
    return {}


class Mean(nn.Module):
    """A network of one layer, on the mean of each channel."""

    def __init__(self, *, channels: int, classes: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.mean((2, 3)))


def big() -> Dataset:
    """150 MB of images of noise, 1,000 of 224 x 224, the brighter ones of the second class."""
    draw, labels = np.random.default_rng(0), np.arange(1000) % 2
    pixels = draw.integers(0, 128, (1000, 3, 224, 224), np.uint8) + (64 * labels).astype(np.uint8)[:, None, None, None]
    return Dataset("big", pixels, labels, 800, 2)


def job(folder: Path) -> dict[str, Any]:
    """`ray job submit --working-dir .` where a sweep has left 200 MB: what the jobs say, a look around and a sweep."""
    from ray.cluster_utils import Cluster

    from amun_ray.stages.output_folder import check_folder
    output = folder / "amun_output" / "mine"
    check_folder(output)
    (output / "weights").write_bytes(os.urandom(200 << 20))
    shutil.copy(Path(__file__).parents[1] / "small_sweep.yaml", folder / "mine.yaml")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    cluster = Cluster(initialize_head=True, head_node_args={
        "num_cpus": 1, "include_dashboard": True, "dashboard_port": port, "include_log_monitor": False})

    def submit(*command: str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address",
                               f"http://127.0.0.1:{port}", "--working-dir", ".", "--", *command], cwd=folder,
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout
    found = {"look": submit("find", ".", "-type", "f"), "sweep": submit(
        sys.executable, "-m", "amun_ray.sweep", "--config", "mine.yaml")}
    cluster.shutdown()
    return found


if __name__ == "__main__":
    kind, place, *rest = sys.argv[1:]
    print(json.dumps(globals()[kind](Path(place), *rest)))
