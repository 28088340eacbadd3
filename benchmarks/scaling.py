"""The adversarial stage with 1 and 2 workers, beside the same work without Ray; and a driver with hundreds of workers.

    python benchmarks/scaling.py [--json FILE] [--rounds 12] [--shards 4]

About 4 minutes on two cores that nothing else uses. One shard is 256 samples of 32 x 32,
the default of a config, that `nearest` attacks on a ResNet-20 of random weights with one thread and
writes into the store: a second or so. Measured are
- plain: a loop in a fresh process over `craft_shard`, what an actor runs, without Ray;
- 1 and 2 workers: the same shards through `ActorQueue` and `Crafter`, as the stage hands them out;
- plain x 2: two such loops side by side with half of the shards each: what the machine loses by using both cores.
All workers are started, and have made a shard, before the clock: the start, once per stage, is a row of its own. Ray's
workers keep the driver's priority here (Ray lowers it otherwise), so that they and the plain loops meet other programs
as equals.

The speed of a shared machine varies by more than what is measured. So rounds are short, each way runs once per round,
in rotating order, and only times of the same round are divided by each other. Goals are judged by the median of these
ratios, with the quartiles beside it. `core_share_percent` says how much of a core a plain loop got: below 95, other
programs were measured too, and the script says so.

The simulation of a cluster: no-op shards on 4 fake nodes. A process per worker is more than one machine holds, so each
of 16 actor processes stands for 16 workers, by as many threads. The driver cannot tell: it has 256 slots, each of which
holds one shard at a time. Nodes, actors and driver share this machine's cores, so a real cluster is faster.

The simulation of a sweep, which is arithmetic (docs/scale.md): the paper's protocol for CIFAR-10 on 64 and 512 GPUs,
the share of their time without work, before and with `search.together: auto` and `resources.widen`.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112, Ray spells it so

import numpy as np
import ray
from claims import ROOT, Row, at_least, at_most, command, count, end, in_turns, row, show

from amun_ray.attacks import Prepared
from amun_ray.base.device import take_device
from amun_ray.config.schema import Sweep
from amun_ray.data.dataset import Dataset
from amun_ray.runtime.bench import SharedWorkspace
from amun_ray.runtime.cluster import start_here
from amun_ray.runtime.queue import ActorQueue
from amun_ray.stages.adversaries import Crafter, craft_shard
from amun_ray.storage.store import Store, Unit
from amun_ray.training.parts import Part, place
from amun_ray.work.artifacts import store_weights
from amun_ray.work.units import Shard, Target, Trained

sys.path.append(str(ROOT / "docs"))
import scale

SHARD_SIZE, SIZE, CLASSES = 256, 32, 10
NODES, PROCESSES, THREADS = 4, 16, 16  # of the simulation
NO_OPS = 20_000
QUIET_PERCENT = 95
ORIGINAL = Unit("models", {"made by": "benchmarks/scaling.py"})


def make_dataset(images: int) -> Dataset:
    """`images` training images of noise and as many labels; no time here depends on what they show."""
    rng = np.random.default_rng(0)
    return Dataset("noise", rng.integers(0, 256, (images + 1, 3, SIZE, SIZE), np.uint8),
                   rng.integers(0, CLASSES, images + 1), images, CLASSES)


def make_workspace(folder: str, dataset: Dataset) -> SharedWorkspace:
    """The workspace of a sweep that only attacks a ResNet-20."""
    sweep = Sweep(name="scaling", data={"name": "digits"}, model={"name": "resnet20"}, forget={"fraction": 0.1},
                  training={"lr": 0.1, "epochs": 1}, methods={"amun": None},
                  attack={"search": {"name": "nearest", "precision": "float32"}, "shard_size": SHARD_SIZE})
    return SharedWorkspace.open(sweep, Store(folder), dataset)


def plain(workspace: SharedWorkspace, dataset: Dataset, shards: list[Shard], pipe: Any) -> None:
    """The body of a process without Ray: at every message one pass over its shards; answers with its CPU seconds."""
    take_device(1)  # as an actor does, which keeps the memory that it frees
    model = Prepared(workspace.new_model(0), workspace.sweep.attack.search)
    parts = {shard.number: place(dataset.pixels[shard.rows], dataset.labels[shard.rows], augment=False, device="cpu")
             for shard in shards}

    def one(shard: Shard) -> None:
        craft_shard(workspace, Part(*parts[shard.number]), model, shard)

    one(shards[0])
    pipe.send("ready")
    while pipe.recv():
        begun = time.process_time()
        for shard in shards:
            one(shard)
        pipe.send(time.process_time() - begun)


@contextmanager
def processes(workspace: SharedWorkspace, dataset: Dataset, halves: list[list[Shard]]) -> Iterator[Callable[[], float]]:
    """A process for each list of shards. The function makes all of them work through their list once; its result is
    the mean CPU time of a process, in seconds."""
    context, pipes, started = multiprocessing.get_context("spawn"), [], []
    for shards in halves:
        mine, theirs = context.Pipe()
        started.append(context.Process(target=plain, args=(workspace, dataset, shards, theirs), daemon=True))
        started[-1].start()
        pipes.append(mine)
    for pipe in pipes:
        pipe.recv()

    def once() -> float:
        for pipe in pipes:
            pipe.send(True)
        return sum(pipe.recv() for pipe in pipes) / len(pipes)

    yield once
    for pipe, process in zip(pipes, started, strict=True):
        pipe.send(False)
        process.join()


@contextmanager
def workers(workspace: SharedWorkspace, shards: list[Shard], actors: int) -> Iterator[Callable[[], None]]:
    """`actors` actors of the stage, started and warm; the function works through `shards` once."""
    shared, state = ray.put(workspace), [ray.put({key: value.numpy() for key, value in
                                                  workspace.new_model(0).state_dict().items()})]

    def work(todo: list[Shard]) -> None:
        for _ in queue.run(todo, lambda actor, shard: actor.work.remote(craft_shard, shard, state)):
            pass

    with ActorQueue(lambda: ray.remote(Crafter).options(num_cpus=1).remote(shared), actors, most=actors) as queue:
        work(shards[:2 * actors])
        yield lambda: work(shards)


Round = dict[str, tuple[float, float]]  # way -> its seconds, and the CPU seconds of a process where the way tells them


def compare(folder: str, per_round: int, rounds: int) -> tuple[list[Round], float]:
    """The times of each way to make `per_round` shards, and the seconds that two workers took to start."""
    dataset = make_dataset(per_round * SHARD_SIZE)
    start_here(num_cpus=3, log_to_driver=False, logging_level="error")
    workspace = make_workspace(folder, dataset)
    weights = store_weights(workspace.store, ORIGINAL, workspace.new_model(0).state_dict())
    shards = Target(Trained("original 0", ORIGINAL, weights, 0.0), "all", dataset.train_rows).shards(workspace)
    with processes(workspace, dataset, [shards]) as alone, \
            processes(workspace, dataset, [shards[::2], shards[1::2]]) as side_by_side, \
            workers(workspace, shards, 1) as one:
        begun = time.perf_counter()
        with workers(workspace, shards, 2) as two:
            start = time.perf_counter() - begun
            ways = {"plain": alone, "1 worker": one, "2 workers": two, "plain x 2": side_by_side}
            found = [{way: (seconds, cpu or 0.0) for way, (seconds, cpu) in one.items()}
                     for one in in_turns(ways, rounds)]
    ray.shutdown()
    return found, start


@ray.remote(num_cpus=1, max_concurrency=THREADS)
class Idle:
    """Stands for THREADS workers, whose shards take no time."""

    def work(self, number: int) -> None:
        return


class Slot:
    """One of the workers that an actor stands for; to the queue it is an actor."""

    def __init__(self, actor: Any) -> None:
        self.actor, self.work, self.__ray_ready__ = actor, actor.work, actor.__ray_ready__


class SlotQueue(ActorQueue):
    """An `ActorQueue` whose actors are slots, which Ray stops with their cluster."""

    def __exit__(self, *_: object) -> None:
        return


def simulate() -> list[float]:
    """Shards per second that a driver hands out to PROCESSES * THREADS slots and collects."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(NODES):
        cluster.add_node(num_cpus=PROCESSES // NODES)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    actors = [Idle.remote() for _ in range(PROCESSES)]
    ray.get([actor.__ray_ready__.remote() for actor in actors])
    slots = iter([Slot(actor) for actor in actors for _ in range(THREADS)])

    def work(shards: int) -> None:
        for _ in queue.run(range(shards), lambda slot, number: slot.work.remote(number)):
            pass

    with SlotQueue(lambda: next(slots), PROCESSES * THREADS, most=PROCESSES * THREADS) as queue:
        work(NO_OPS // 10)
        rates = []
        for _ in range(3):
            begun = time.perf_counter()
            work(NO_OPS)
            rates.append(NO_OPS / (time.perf_counter() - begun))
    ray.shutdown()
    cluster.shutdown()
    return rates


def sweeps() -> list[Row]:
    """The share of the GPUs' time without work in the simulation of a sweep, and how long the sweep takes."""
    ways, rows = scale.EXPERIMENTS[0].ways(), []
    for gpus, goal in ((64, 10), (512, 35)):
        before, after = ((scale.idle_percent(gpus, *way), way[0] / 60) for way in (
            ways["side by side"](gpus), ways["and `resources.widen`"](gpus)))
        rows += [row(f"idle_percent_{gpus}_before", before[0], f"% of {gpus} GPUs' time, simulated"),
                 row(f"idle_percent_{gpus}", after[0], f"% of {gpus} GPUs' time, simulated", at_most(goal)),
                 row(f"sweep_minutes_{gpus}_before", before[1], "min, simulated"),
                 row(f"sweep_minutes_{gpus}", after[1], "min, simulated")]
    return rows


def measure(folder: str, per_round: int, rounds: int) -> list[Row]:
    """All rows of the benchmark."""
    rates = simulate()
    found, start = compare(folder, per_round, rounds)

    def ratios(divide: Callable[[float, float, float, float], float]) -> list[float]:
        """`divide`, applied to the seconds of plain, 1 worker, 2 workers and plain x 2, for each round."""
        return [divide(*(each[name][0] for name in ("plain", "1 worker", "2 workers", "plain x 2"))) for each in found]

    shares = [100 * min(each[name][1] / each[name][0] for name in ("plain", "plain x 2")) for each in found]
    slots = f"shards/s to {PROCESSES * THREADS} slots ({PROCESSES} processes x {THREADS})"
    return [
        row("efficiency_2_workers", ratios(lambda plain, one, two, twice: one / (2 * two)), "of 2 x 1 worker",
            at_least(0.9)),
        row("efficiency_2_processes_without_ray", ratios(lambda plain, one, two, twice: plain / (2 * twice)),
            "of 2 x 1 process"),
        row("efficiency_of_ray_alone", ratios(lambda plain, one, two, twice: twice / two),
            "of 2 processes without Ray"),
        row("ray_overhead_percent", ratios(lambda plain, one, two, twice: 100 * (one / plain - 1)),
            "% of the plain loop", at_most(5)),
        row("core_share_percent", shares, "% of a core that a plain loop got", at_least(QUIET_PERCENT)),
        row("shard_seconds", ratios(lambda plain, one, two, twice: plain / per_round), f"s for {SHARD_SIZE} samples"),
        row("start_of_2_workers_seconds", start, "s, once per stage"),
        row("shards_per_second_simulated", rates, slots),
        *sweeps(),
    ]


def main() -> None:
    """Measure, print, and write the rows where asked."""
    parser = command(__doc__)
    parser.add_argument("--rounds", type=count, default=12, help="how often everything is timed (default: %(default)s)")
    parser.add_argument("--shards", type=count, default=4, help="in one round, even (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(folder, options.shards, options.rounds)
    show(rows, options.json)
    if not next(entry["met"] for entry in rows if entry["name"] == "core_share_percent"):
        print("The machine was busy with other programs, which were measured too. Run it again when it is not.")


if __name__ == "__main__":
    end(main)
