"""Stage 2: the nearest adversarial example of every sample to be forgotten, built in shards by actors pinned to their
devices.

Cost: (originals x forget sets x samples per set) searches, handed out in shards of `attack.shard_size`; time falls with
the number of devices until there is one shard per device. A shard is computed alone, from the settings alone, so one
worker and many give the same bytes. Storage: `4 C H W` bytes per sample. Memory of the driver: one row of numbers per
sample, never its image.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
import torch
from torch import nn

from amun_ray.attacks import Cost, calibrate, craft, report
from amun_ray.data import shards
from amun_ray.errors import UserError
from amun_ray.seeds import generator
from amun_ray.stages.originals import WEIGHTS, Trained, rows_digest
from amun_ray.stages.progress import bar, say
from amun_ray.stages.queue import ActorQueue
from amun_ray.stages.workspace import Workspace, bench, load_state, numpy_state
from amun_ray.store import Store, Unit
from amun_ray.tensors import to_unit
from amun_ray.training.parts import Part

CALIBRATION_SAMPLES = 100
RADIUS = "eps_init"  # metadata key of a shard: the first radius of its set, where the attack has one


@dataclass(frozen=True, eq=False)
class Target:
    """One adversarial set to build: the samples `rows` of the forget set `name`, against the model `original`."""

    original: Trained
    name: str
    rows: np.ndarray

    def unit(self, workspace: Workspace) -> Unit:
        attack = workspace.sweep.model_dump()["attack"]
        return Unit("adversarial_sets", {"original": self.original.weights, "dataset": workspace.data_digest,
                                         "rows": rows_digest(self.rows), "attack": attack})

    def shards(self, workspace: Workspace) -> list["Shard"]:
        """The rows in ascending order, cut by the config alone.

        Raises:
            UserError: no rows, or rows that are not distinct training rows.
        """
        rows = np.sort(self.rows)
        place = f"forget set {self.name!r}"
        if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
            raise UserError(f"{place}: rows must be integers (N,), found {rows.dtype} {rows.shape}")
        if not len(rows):
            raise UserError(f"{place}: it is empty; an adversarial set needs at least one row")
        if rows[0] < 0 or rows[-1] >= workspace.train_size:
            wrong = rows[0] if rows[0] < 0 else rows[-1]
            raise UserError(f"{place}: row {wrong} is outside the training rows 0..{workspace.train_size - 1}")
        if (twice := rows[1:][rows[1:] == rows[:-1]]).size:
            raise UserError(f"{place}: row {twice[0]} is there more than once")
        unit, size = self.unit(workspace), workspace.sweep.attack.shard_size
        return [Shard(f"{self.original.name}, {self.name}", self.original, unit, number, rows[start:start + size])
                for number, start in enumerate(range(0, len(rows), size))]


@dataclass(frozen=True, eq=False)
class Shard:
    """One piece of work: some rows of a set. `radius` is None until the set is calibrated, or if it need not be."""

    title: str
    original: Trained
    unit: Unit
    number: int
    rows: np.ndarray
    radius: float | None = None

    def __str__(self) -> str:
        return f"shard {self.number} of {self.title}"

    @property
    def name(self) -> str:
        return shard_name(self.number)

    @property
    def lineage(self) -> dict[str, str]:
        """What the shard's own metadata must say for it to be this shard."""
        found = {"set": self.unit.digest, "rows": rows_digest(self.rows),
                 **{key: self.unit.inputs[key] for key in ("original", "dataset")}}
        return found if self.radius is None else found | {RADIUS: repr(self.radius)}


@dataclass(frozen=True)
class AdversarialSet:
    """A finished set: where it is, how many shards it has, and its report."""

    unit: Unit
    shards: int
    report: dict


Task = Callable[[Workspace, Part, nn.Module, Shard], Any]


def calibrate_set(workspace: Workspace, part: Part, model: nn.Module, _: Shard) -> float:
    """The first radius of a set, from a sample of it, `part`."""
    return calibrate(model, to_unit(part.images), part.labels, settings=workspace.sweep.attack.search)


def craft_shard(workspace: Workspace, part: Part, model: nn.Module, shard: Shard) -> None:
    """Attack the samples of a shard, `part`, and write it into the store."""
    settings = workspace.sweep.attack.search
    if shard.radius is not None:
        settings = replace(settings, eps_init=shard.radius)
    rows = craft(model, to_unit(part.images), part.labels, settings=settings, indices=shard.rows)
    passes = {key: str(value) for key, value in rows.cost._asdict().items()}
    workspace.store.write(shard.unit, shard.name, shards.encode(rows.columns, metadata=shard.lineage | passes))


@ray.remote(max_restarts=0)
class Crafter:
    """One device, and the last model it attacked. The thinking is in functions that know nothing of Ray."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.model, self.loaded = workspace, None, None
        self.notes = Notes(logging.WARNING)
        logging.getLogger("amun_ray").addHandler(self.notes)

    def work(self, task: Task, shard: Shard, state: Sequence[ray.ObjectRef]) -> tuple[Any, list[str]]:
        """The result of `task` on the samples of `shard`, and the warnings it gave."""
        here = bench(self.workspace)
        if self.model is None:  # not in the constructor: what fails there reaches the driver as a dead actor
            self.model = self.workspace.new_model(0).to(here.device)
        if self.loaded != shard.original.weights:
            load_state(self.model, ray.get(state[0]))
            self.loaded = shard.original.weights
        try:
            result = task(self.workspace, here.part(shard.rows), self.model, shard)
        except UserError as error:
            raise UserError(f"{shard}: {error}") from error
        return result, self.notes.take()


class Notes(logging.Handler):
    """Keeps the warnings of a worker, whose own output nobody sees."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def take(self) -> list[str]:
        """The warnings since the last call."""
        taken, self.texts = self.texts, []
        return taken


def adversarial_sets(workspace: Workspace, targets: Sequence[Target], options: dict,
                     workers: int) -> list[AdversarialSet]:
    """Build what is missing of the sets of `targets`; the result is in their order.

    A finished shard is never built again; one that is corrupt or belongs to other work is named and rebuilt. To find
    those, every shard of these sets is read once, one at a time.

    Args:
        options: of one worker, `num_cpus` and `num_gpus`.
        workers: how many at most.

    Raises:
        UserError: rows that make no forget set, or a model that cannot be attacked.
    """
    sets = {target.unit(workspace).digest: target.shards(workspace) for target in targets}  # equal targets are one set
    missing = [shard for pieces in sets.values() for shard in _missing(workspace, pieces)]
    if missing:
        samples = [_sample(workspace, sets[digest]) for digest in
                   {shard.unit.digest: None for shard in missing if _uncalibrated(workspace, shard)}]
        states = {shard.original.weights: [ray.put(numpy_state(workspace.store, shard.original.unit, WEIGHTS))]
                  for shard in {shard.original.weights: shard for shard in missing}.values()}
        shared, crafter = ray.put(workspace), Crafter.options(**options)
        with ActorQueue(lambda: crafter.remote(shared), min(workers, len(missing))) as queue:
            _build(queue, missing, samples, states)
    return [_finished(workspace.store, sets[target.unit(workspace).digest]) for target in targets]


def _build(queue: ActorQueue, missing: Sequence[Shard], samples: Sequence[Shard],
           states: Mapping[str, Sequence[ray.ObjectRef]]) -> None:
    """Calibrate on every one of `samples`, then craft the `missing` shards; a warning is passed on once."""
    said: set[str] = set()

    def done(task: Task, pieces: Iterator[Shard]) -> Iterator[tuple[Shard, Any]]:
        for shard, (result, notes) in queue.run(
                pieces, lambda actor, shard: actor.work.remote(task, shard, states[shard.original.weights])):
            for note in notes:
                if note not in said:
                    say(f"  {shard}: {note}")
                    said.add(note)
            yield shard, result

    with bar("adversarial examples", sum(len(shard.rows) for shard in missing), "samples") as progress:
        progress.set_postfix_str(f"calibrating {RADIUS}" if samples else "")
        radii = {sample.unit.digest: radius for sample, radius in done(calibrate_set, iter(samples))}
        ready = (replace(shard, radius=radii.get(shard.unit.digest, shard.radius)) for shard in missing)
        for number, (shard, _) in enumerate(done(craft_shard, ready), 1):
            progress.set_postfix_str(f"{number}/{len(missing)} shards")
            progress.update(len(shard.rows))


def _missing(workspace: Workspace, pieces: Sequence[Shard]) -> list[Shard]:
    """The shards of one set that must be built; a bad one is named and removed.

    A set that is half done keeps its first radius, which its shards know: all of them must know the same.
    """
    store, radius, missing = workspace.store, None, []
    for shard in pieces:
        if not store.has(shard.unit, shard.name):
            missing.append(shard)
            continue
        content = store.read(shard.unit, shard.name).to_pybytes()
        reason = shards.verify(content, replace(shard, radius=radius).lineage)
        if reason is not None:
            say(f"  {store.path(shard.unit, shard.name)}: {reason}; it is built again")
            store.delete(shard.unit, shard.name)
            missing.append(shard)
        elif _uncalibrated(workspace, replace(shard, radius=radius)):
            radius = float(shards.decode(content)[1][RADIUS])
    return [replace(shard, radius=radius) for shard in missing]


def _uncalibrated(workspace: Workspace, shard: Shard) -> bool:
    """Whether the attack has a first radius, the config leaves it to calibration, and that is still to be done."""
    return shard.radius is None and workspace.sweep.attack.search.values.get("eps_init", 1.0) is None


def _sample(workspace: Workspace, pieces: Sequence[Shard]) -> Shard:
    """The rows that the set of `pieces` is calibrated on: a random few of all of them."""
    rows = np.concatenate([shard.rows for shard in pieces])
    order = torch.randperm(len(rows), generator=generator(workspace.sweep.seed, "calibration")).numpy()
    return replace(pieces[0], rows=np.sort(rows[order[:CALIBRATION_SAMPLES]]))


def _finished(store: Store, pieces: Sequence[Shard]) -> AdversarialSet:
    """The set of `pieces`, all of which are there; its report is made once.

    Shares are in percent, quantiles in pixel units, passes per sample; see `amun_ray.attacks.report`.
    """
    unit = pieces[0].unit
    found = store.result(unit)
    if found is None:
        metadata = [shards.decode(store.read(unit, shard.name))[1] for shard in pieces]
        cost = sum((Cost(*(int(one[key]) for key in Cost._fields)) for one in metadata), Cost())
        found = report(_columns(store, unit, len(pieces), ("status", "eps", "l2")), cost)
        if RADIUS in metadata[0]:
            found[RADIUS] = float(metadata[0][RADIUS])
        store.finish(unit, found)
    return AdversarialSet(unit, len(pieces), found)


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
