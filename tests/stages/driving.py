"""A stage 2 small enough for a test, a network that strikes down its own worker, and a driver that can be killed.

    python tests/stages/driving.py alone STORE GATE       the stage on a Ray of its own
    python tests/stages/driving.py cluster STORE GATE     the same on two nodes, one of which is lost on the way
"""

import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import ray
import torch
from torch import nn

from amun_ray import data
from amun_ray.base.names import allow
from amun_ray.base.seeds import generator
from amun_ray.config.schema import Sweep
from amun_ray.models import MODELS, build
from amun_ray.runtime.bench import SharedWorkspace
from amun_ray.stages.adversaries import adversarial_sets
from amun_ray.storage.store import Store, Unit
from amun_ray.training.augment import Augmentation
from amun_ray.training.loop import fit
from amun_ray.training.parts import place
from amun_ray.work.artifacts import cpu_state, store_weights
from amun_ray.work.units import WEIGHTS, AdversarialSet, Target, Trained

allow("driving")
ORIGINAL = Unit("models", {"made by": "tests"})
BROKEN = Unit("models", {"made by": "tests, with NaN among its weights"})
ROWS = np.arange(40, 100)
SHARD_SIZE = 8


def trapped(*, channels: int, classes: int, size: int, gate: str) -> nn.Module:
    """A `small_cnn` with two traps behind `gate`: see `strike` and `crowd`."""
    net = MODELS["small_cnn"](channels=channels, classes=classes, size=size, width=8)
    net.linear.register_forward_hook(lambda *_: strike(Path(gate)))
    net.linear.register_forward_hook(lambda layer, given, logits: crowd(Path(gate), len(logits)))
    return net


def arm(gate: Path, blow: str, store: Path) -> None:
    """The next attack, once there are two shards, suffers `blow`."""
    gate.mkdir(parents=True, exist_ok=True)
    (gate / "armed").write_text(json.dumps({"blow": blow, "driver": os.getpid(), "store": str(store)}))


def strike(gate: Path) -> None:
    """If the gate is armed, disarm it and strike: in the middle of a shard, since the network is being asked."""
    try:
        order = json.loads((gate / "armed").read_text())
        if len(shard_files(Path(order["store"]))) < 2:
            return
        (gate / "armed").rename(gate / "struck")  # one process alone succeeds
    except FileNotFoundError:
        return
    if order["blow"] == "worker":
        os.kill(os.getpid(), signal.SIGKILL)
    elif order["blow"] == "actor":
        ray.kill(ray.get_runtime_context().current_actor)
    elif order["blow"] == "driver":
        os.kill(order["driver"], signal.SIGKILL)
    elif order["blow"] == "node":
        (gate / "node.partial").write_text(ray.get_runtime_context().get_node_id())
        (gate / "node.partial").rename(gate / "node")
    time.sleep(600)


def crowd(gate: Path, images: int) -> None:
    """Out of memory, and noted, if the gate says for how many images there is room and these are more."""
    room = gate / "room"
    if room.exists() and images > int(room.read_text()):
        with (gate / "stumbles").open("a") as file:
            file.write(f"{images}\n")
        raise torch.OutOfMemoryError("CUDA out of memory")


def shard_files(store: Path) -> list[Path]:
    return sorted(store.glob("adversarial_sets/*/shard-*.parquet"))


def sweep(gate: Path) -> Sweep:
    """An attack with a first radius to calibrate, on digits."""
    search = {"name": "pgd_l2", "steps": 4, "doublings": 8, "shrink": 0}
    return Sweep(name="faults", data={"name": "digits", "train_size": 200},
                 model={"name": "driving:trapped", "options": {"gate": str(gate)}},
                 training={"lr": 0.1, "epochs": 6, "batch_size": 32}, forget={"fraction": 0.1}, methods={"amun": None},
                 attack={"search": search, "shard_size": SHARD_SIZE})


def train_original(store: Path, gate: Path) -> None:
    """Train the network that is attacked, and keep it in `store`; beside it one that is broken."""
    settings, dataset = sweep(gate), data.load("digits", train_size=200)
    mean, std = dataset.statistics
    model = build(settings.model.name, channels=1, classes=10, size=8, mean=mean, std=std, seed=0,
                  options=settings.model.options)
    part = place(dataset.pixels[:200], dataset.labels[:200], augment=False, device="cpu")
    for _ in fit(model, [part], recipe=settings.training, augmentation=Augmentation(), generator=generator(0, "test")):
        pass
    keep(store, ORIGINAL, model)
    nn.init.constant_(model.net.linear.weight, float("nan"))
    keep(store, BROKEN, model)


def keep(folder: Path, unit: Unit, model: nn.Module) -> None:
    store = Store(str(folder))
    store.finish(unit, {"weights": store_weights(store, unit, cpu_state(model))}, [WEIGHTS])


def copy_original(source: Path, store: Path) -> Path:
    """A new store with nothing but the trained network of `source`."""
    shutil.copytree(source / ORIGINAL.kind, store / ORIGINAL.kind)
    return store


def run(folder: Path, gate: Path, *, workers: int = 2, rows: np.ndarray = ROWS,
        unit: Unit = ORIGINAL, cpus: float = 0.5) -> AdversarialSet:
    """The stage, with Ray already there."""
    store = Store(str(folder))
    workspace = SharedWorkspace.open(sweep(gate), store, data.load("digits", train_size=200))
    original = Trained("original 0", unit, store.result(unit)["weights"], 0.0)
    target, options = Target(original, "final 0", rows), {"num_cpus": cpus, "num_gpus": 0}
    (made,) = adversarial_sets(workspace, [target], options, workers)
    return made


def alone(folder: Path, gate: Path) -> None:
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="error")
    arm(gate, "driver", folder)
    run(folder, gate)


def cluster(folder: Path, gate: Path) -> None:
    """A head without CPUs and two nodes; the node whose worker falls into the trap is removed, the other finishes."""
    from ray.cluster_utils import Cluster

    lean = {"include_dashboard": False, "include_log_monitor": False}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **lean})
    ray.init(address=nodes.address, log_to_driver=False, logging_level="error")
    workers = {node.node_id: node for node in (nodes.add_node(num_cpus=1, **lean) for _ in range(2))}

    def lose() -> None:
        while not (gate / "node").exists():
            time.sleep(0.05)
        nodes.remove_node(workers[(gate / "node").read_text()], allow_graceful=False)

    arm(gate, "node", folder)
    loss = threading.Thread(target=lose, daemon=True)
    loss.start()
    run(folder, gate, cpus=1)  # the worker in the trap holds its shard for ever
    loss.join()
    ray.shutdown()
    nodes.shutdown()
    print("finished without the node that was lost")


if __name__ == "__main__":
    {"alone": alone, "cluster": cluster}[sys.argv[1]](*map(Path, sys.argv[2:]))
