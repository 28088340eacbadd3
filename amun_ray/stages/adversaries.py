"""Stage 2: the nearest adversarial example of every sample to be forgotten, built in shards by actors pinned to their
devices.

Cost: (originals x forget sets x samples per set) searches, handed out in shards of `attack.shard_size`; time falls with
the number of devices until there is one shard per device. A shard is computed alone, from the settings alone, so one
worker and many give the same bytes. Storage: `4 C H W` bytes per sample. Memory of the driver: one row of numbers per
sample, never its image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import ray
import torch

from amun_ray.attacks import Cost, calibrate, craft, report
from amun_ray.data import shards
from amun_ray.seeds import generator
from amun_ray.stages.originals import WEIGHTS, Trained, rows_digest
from amun_ray.stages.progress import bar, say
from amun_ray.stages.queue import ActorQueue
from amun_ray.stages.workspace import Workspace, bench, load_state, numpy_state
from amun_ray.store import Store, Unit
from amun_ray.tensors import to_unit

CALIBRATION, CALIBRATION_SAMPLES = "eps_init.npy", 100


@dataclass(frozen=True, eq=False)
class Target:
    """One adversarial set to build: the samples `rows` of the forget set `name`, against the model `original`."""

    original: Trained
    name: str
    rows: np.ndarray

    def unit(self, workspace: Workspace) -> Unit:
        attack = workspace.sweep.model_dump()["attack"]
        return Unit("adversaries", {"original": self.original.weights, "dataset": workspace.data_digest,
                                    "rows": rows_digest(self.rows), "attack": attack})


@dataclass(frozen=True, eq=False)
class Shard:
    """One piece of work: the rows of one shard, or, with `number` None, the calibration sample of a set."""

    unit: Unit
    number: int | None
    rows: np.ndarray
    state: tuple[ray.ObjectRef]
    eps_init: float | None = None

    @property
    def name(self) -> str:
        return CALIBRATION if self.number is None else shard_name(self.number)

    @property
    def lineage(self) -> dict[str, str]:
        """What the shard's own metadata must say for it to be this shard."""
        return {"set": self.unit.digest, "original": self.unit.inputs["original"],
                "dataset": self.unit.inputs["dataset"], "rows": rows_digest(self.rows)}


@dataclass(frozen=True)
class AdversarialSet:
    """A finished set: where it is, how many shards it has, and its report."""

    unit: Unit
    shards: int
    report: dict


@ray.remote(max_restarts=0)
class Crafter:
    """One device, and the last model it attacked. The thinking is in `amun_ray.attacks`, which knows nothing of Ray."""

    def __init__(self, workspace: Workspace) -> None:
        self.here = bench(workspace)
        self.model, self.loaded = workspace.new_model(0).to(self.here.device), None

    def work(self, shard: Shard) -> None:
        """Calibrate or build one shard, and write the result into the store."""
        original = shard.unit.inputs["original"]
        if self.loaded != original:
            load_state(self.model, ray.get(shard.state[0]))
            self.loaded = original
        build(self.here, self.model, shard)


def build(here, model: torch.nn.Module, shard: Shard) -> None:
    """The work of one shard on this process's device."""
    part, settings = here.part(shard.rows), here.workspace.sweep.attack.search
    images, store = to_unit(part.images), here.workspace.store
    if shard.number is None:
        eps = calibrate(model, images, part.labels, settings=settings)
        store.write(shard.unit, shard.name, np.float64(eps).tobytes())
        return
    if shard.eps_init is not None:
        settings = replace(settings, eps_init=shard.eps_init)
    rows = craft(model, images, part.labels, settings=settings, indices=shard.rows)
    passes = {key: str(value) for key, value in rows.cost._asdict().items()}
    store.write(shard.unit, shard.name, shards.encode(rows.columns, metadata=shard.lineage | passes))


def adversarial_sets(workspace: Workspace, targets: Sequence[Target], options: dict,
                     workers: int) -> list[AdversarialSet]:
    """Build what is missing of the sets of `targets`; the result is in their order.

    A finished shard is never built again; one that is corrupt or belongs to other work is named and rebuilt. To find
    those, every shard of these sets is read once, one at a time.
    """
    units = [target.unit(workspace) for target in targets]
    states = {target.original.weights: (ray.put(numpy_state(workspace.store, target.original.unit, WEIGHTS)),)
              for target in targets}
    cut = [list(_cut(workspace, target, unit, states)) for target, unit in zip(targets, units, strict=True)]
    pending = [shard for pieces in cut for shard in pieces if not _sound(workspace.store, shard)]
    calibrations = _calibrations(workspace, targets, units, states, pending)
    if pending:
        shared = ray.put(workspace)
        crafter = Crafter.options(**options)
        workers = min(workers, len(pending))
        with ActorQueue(lambda: crafter.remote(shared), workers) as queue, \
                bar("adversarial examples", sum(len(shard.rows) for shard in pending), "samples") as progress:
            for _ in queue.run(calibrations, lambda actor, shard: actor.work.remote(shard)):
                progress.set_postfix_str("calibrating eps_init")
            ready = (_calibrated(workspace, shard) for shard in pending)
            for shard, _ in queue.run(ready, lambda actor, shard: actor.work.remote(shard)):
                progress.update(len(shard.rows))
    return [AdversarialSet(unit, len(pieces), _report(workspace.store, unit, pieces))
            for unit, pieces in zip(units, cut, strict=True)]


def _cut(workspace: Workspace, target: Target, unit: Unit, states: dict) -> Iterator[Shard]:
    size = workspace.sweep.attack.shard_size
    for number, start in enumerate(range(0, len(target.rows), size)):
        yield Shard(unit, number, target.rows[start:start + size], states[target.original.weights])


def _sound(store: Store, shard: Shard) -> bool:
    """Whether the shard is there and is what it should be; a bad one is named and removed."""
    if not store.has(shard.unit, shard.name):
        return False
    reason = shards.verify(store.read(shard.unit, shard.name), shard.lineage)
    if reason is None:
        return True
    say(f"  {store.path(shard.unit, shard.name)}: {reason}; it is built again")
    store.delete(shard.unit, shard.name)
    return False


def _calibrations(workspace: Workspace, targets: Sequence[Target], units: Sequence[Unit], states: dict,
                  pending: Sequence[Shard]) -> list[Shard]:
    """A calibration for every set that has shards to build and no radius to start from."""
    if not _calibrates(workspace):
        return []
    needed, pieces = {shard.unit.digest for shard in pending}, []
    for target, unit in zip(targets, units, strict=True):
        if unit.digest in needed and not workspace.store.has(unit, CALIBRATION):
            order = torch.randperm(len(target.rows), generator=generator(workspace.sweep.seed, "calibration"))
            sample = np.sort(target.rows[order.numpy()[:CALIBRATION_SAMPLES]])
            pieces.append(Shard(unit, None, sample, states[target.original.weights]))
            needed.remove(unit.digest)
    return pieces


def _calibrates(workspace: Workspace) -> bool:
    """Whether the attack has a first radius, and the config leaves it to calibration."""
    return workspace.sweep.attack.search.values.get("eps_init", 1.0) is None


def _calibrated(workspace: Workspace, shard: Shard) -> Shard:
    if not _calibrates(workspace):
        return shard
    return replace(shard, eps_init=_eps_init(workspace.store, shard.unit))


def _eps_init(store: Store, unit: Unit) -> float:
    return float(np.frombuffer(store.read(unit, CALIBRATION), np.float64)[0])


def _report(store: Store, unit: Unit, pieces: Sequence[Shard]) -> dict[str, float]:
    """Shares in percent, quantiles in pixel units, passes per sample; see `amun_ray.attacks.report`."""
    if (known := store.result(unit)) is not None:
        return known
    cost = Cost()
    for shard in pieces:
        _, metadata = shards.decode(store.read(unit, shard.name))
        cost += Cost(*(int(metadata[key]) for key in Cost._fields))
    found = report(_columns(store, unit, len(pieces), ("status", "eps", "l2")), cost)
    if store.has(unit, CALIBRATION):
        found["eps_init"] = _eps_init(store, unit)
    return store.finish(unit, found)


def numbers(store: Store, made: AdversarialSet) -> dict[str, np.ndarray]:
    """`status`, `eps` and `l2` of every row of a set, each (N,)."""
    return _columns(store, made.unit, made.shards, ("status", "eps", "l2"))


def read_adversaries(store: Store, made: AdversarialSet) -> tuple[np.ndarray, np.ndarray]:
    """The adversarial images (M, C, H, W) float32 in [0, 1] and their labels (M,) int64; failed rows are left out."""
    rows = _columns(store, made.unit, made.shards, ("status", "image", "label"))
    kept = rows["status"] != shards.Status.FAILED
    return rows["image"][kept], rows["label"][kept]


def _columns(store: Store, unit: Unit, count: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of a whole set, read shard by shard."""
    read = []
    for number in range(count):
        rows, _ = shards.decode(store.read(unit, shard_name(number)))
        read.append({key: rows[key] for key in keys})
    return {key: np.concatenate([rows[key] for rows in read]) for key in keys}


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.parquet"
