"""Stage 2: the nearest adversarial example of every sample to be forgotten, built in shards by actors pinned to their
devices.

Cost: (originals x forget sets x samples per set) searches, in shards of `attack.shard_size`; time falls with the number
of devices until there is one shard per device. A shard depends on the settings alone, so any number of workers gives
the same bytes. Storage: `4 C H W` bytes per sample. Memory of the driver: one row of numbers per sample, never its
image.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import ray
import torch

from amun_ray.attacks import AttackCost, Capacity, Prepared, calibrate, craft, report
from amun_ray.base.errors import UserError
from amun_ray.base.log import Notes, say
from amun_ray.base.progress import bar
from amun_ray.base.seeds import generator
from amun_ray.base.tensors import to_unit
from amun_ray.data import shards
from amun_ray.runtime.bench import SharedWorkspace, bench, load_state
from amun_ray.runtime.neighbours import Neighbours, Share
from amun_ray.runtime.queue import ActorQueue
from amun_ray.storage.sharing import claimed
from amun_ray.storage.store import COMPLETE, Store
from amun_ray.training.parts import Part
from amun_ray.work.artifacts import columns, numpy_state
from amun_ray.work.units import RADIUS, WEIGHTS, AdversarialSet, Shard, Target

CALIBRATION_SAMPLES = 100
SECONDS = "seconds"  # key in the result of a finished set, next to its report


Task = Callable[[SharedWorkspace, Part, Prepared, Shard], Any]


def calibrate_set(workspace: SharedWorkspace, part: Part, model: Prepared, _: Shard) -> float:
    """The first radius of a set, calibrated on `part`, a sample of it."""
    return calibrate(model, to_unit(part.own_images), part.labels, settings=workspace.sweep.attack.search)


def craft_shard(workspace: SharedWorkspace, part: Part, model: Prepared, shard: Shard) -> None:
    """Attack the samples of a shard, `part`, and write it into the store."""
    settings = workspace.sweep.attack.search
    if shard.radius is not None:
        settings = replace(settings, eps_init=shard.radius)
    rows = craft(model, to_unit(part.own_images), part.labels, settings=settings, indices=shard.rows)
    passes = {key: str(value) for key, value in rows.cost._asdict().items()}
    workspace.store.write(shard.unit, shard.name, shards.encode(rows.columns, metadata=shard.lineage | passes))
    workspace.store.vouch(shard.unit, shard.name)


class Crafter:
    """An actor: one device, its capacity, and the last model it attacked. The logic is in functions without Ray."""

    def __init__(self, workspace: SharedWorkspace) -> None:
        self.workspace = workspace
        self.prepared: Prepared | None = None
        self.loaded: str | None = None
        self.capacity = Capacity(workspace.sweep.attack.search.batch_size)
        self.notes = Notes(logging.WARNING)
        logging.getLogger("amun_ray").addHandler(self.notes)

    def work(self, task: Task, shard: Shard, state: "Sequence[ray.ObjectRef[Any]]") -> tuple[Any, list[str], float]:
        """The result of `task` on the samples of `shard`, its warnings, and the seconds it took."""
        here, started = bench(self.workspace), time.monotonic()
        if self.prepared is None or self.loaded != shard.original.weights:
            model = load_state(self.workspace.new_model(0).to(here.device), ray.get(state[0]))
            self.prepared = Prepared(model, self.workspace.sweep.attack.search, self.capacity)
            self.loaded = shard.original.weights
        try:
            result = task(self.workspace, here.part(shard.rows), self.prepared, shard)
        except UserError as error:
            raise UserError(f"{shard}: {error}") from error
        return result, self.notes.take(), time.monotonic() - started


def adversarial_sets(workspace: SharedWorkspace, targets: Sequence[Target], options: dict[str, Any],
                     workers: int) -> list[AdversarialSet]:
    """Build the missing parts of the sets of `targets`; the result is in their order.

    A finished shard is never rebuilt; one that is corrupt or belongs to other work is reported and rebuilt. To find
    those, every shard of these sets is read once, one at a time. Each set is calibrated and made by one sweep: this one
    waits for sets that another is making.

    Args:
        options: of one worker, `num_cpus` and `num_gpus`.
        workers: how many fit in the cluster now; nodes that join later are used too.

    Raises:
        UserError: rows that do not form a forget set, or a model that cannot be attacked.
    """
    sets = {target.unit(workspace).digest: target.shards(workspace) for target in targets}  # equal targets are one set
    finished: dict[str, AdversarialSet] = {}
    for mine in claimed(workspace.store, list(sets.values()), lambda pieces: pieces[0].unit):
        seconds = _complete(workspace, {pieces[0].unit.digest: pieces for pieces in mine}, options, workers)
        finished |= {pieces[0].unit.digest: _finished(workspace.store, pieces, seconds.get(pieces[0].unit.digest))
                     for pieces in mine}
    return [finished[target.unit(workspace).digest] for target in targets]


def _complete(workspace: SharedWorkspace, sets: Mapping[str, Sequence[Shard]], options: dict[str, Any],
              workers: int) -> Mapping[str, float]:
    """Build the shards missing from `sets`; returns the seconds that workers spent on each incomplete set."""
    if not (missing := [shard for pieces in sets.values() for shard in _missing(workspace, pieces)]):
        return {}
    uncalibrated = {shard.unit.digest: None for shard in missing if _uncalibrated(workspace, shard)}
    originals = {shard.original.weights: shard.original.unit for shard in missing}
    states = {weights: [ray.put(numpy_state(workspace.store, unit, WEIGHTS))] for weights, unit in originals.items()}
    shared, crafter = ray.put(workspace), ray.remote(Crafter).options(**options)
    with (Neighbours.wanting(len(missing)),
          ActorQueue(lambda: crafter.remote(shared), min(workers, len(missing)), most=len(missing),
                     share=Share(options)) as queue):
        return _build(queue, missing, [_sample(workspace, sets[key]) for key in uncalibrated], states)


def _build(queue: ActorQueue, missing: Sequence[Shard], samples: Sequence[Shard],
           states: "Mapping[str | None, Sequence[ray.ObjectRef[Any]]]") -> Mapping[str, float]:
    """Calibrate on each of `samples`, then craft the `missing` shards; each warning is shown once. Returns the seconds
    that workers spent on each set, by the digest of its unit."""
    printed: set[str] = set()
    spent: defaultdict[str, float] = defaultdict(float)

    def done(task: Task, pieces: Iterator[Shard]) -> Iterator[tuple[Shard, Any]]:
        for shard, (result, notes, seconds) in queue.run(
                pieces, lambda actor, shard: actor.work.remote(task, shard, states[shard.original.weights])):
            spent[shard.unit.digest] += seconds
            for note in notes:
                if note not in printed:
                    say(f"  {shard}: {note}")
                    printed.add(note)
            yield shard, result

    with bar("adversarial examples", sum(len(shard.rows) for shard in missing), "samples") as progress:
        progress.set_postfix_str(f"calibrating {RADIUS}" if samples else "")
        radii = {sample.unit.digest: radius for sample, radius in done(calibrate_set, iter(samples))}
        ready = (replace(shard, radius=radii.get(shard.unit.digest, shard.radius)) for shard in missing)
        for number, (shard, _) in enumerate(done(craft_shard, ready), 1):
            progress.set_postfix_str(f"{number}/{len(missing)} shards")
            progress.advance(len(shard.rows))
    return spent


def _missing(workspace: SharedWorkspace, pieces: Sequence[Shard]) -> list[Shard]:
    """The shards of one set that must be built; a bad one is reported and removed.

    A half-finished set keeps its first radius, which is stored in its shards and must be the same in all.
    """
    store, radius, missing = workspace.store, None, []
    complete = store.has(pieces[0].unit)
    for shard in pieces:
        fault, there = store.fault(shard.unit, shard.name), store.has(shard.unit, shard.name)
        if there and fault is None:
            content = store.content(shard.unit, shard.name)
            reason = shards.verify(content, replace(shard, radius=radius).lineage)
            fault = reason and f"{store.path(shard.unit, shard.name)}: {reason}"
        if fault is not None:
            say(f"  {fault}; it is made again")
        if fault is not None or not there:
            store.remove(f"{shard.unit.folder}/{shard.name}")
            store.remove(f"{shard.unit.folder}/{COMPLETE}")  # the set's report covers this shard
            missing.append(shard)
        elif _uncalibrated(workspace, replace(shard, radius=radius)):
            radius = float(shards.decode(content)[1][RADIUS])
    if missing and complete:  # from now on each shard needs a voucher of its own
        return _missing(workspace, pieces)
    return [replace(shard, radius=radius) for shard in missing]


def _uncalibrated(workspace: SharedWorkspace, shard: Shard) -> bool:
    """Whether the attack has a first radius that still has to be calibrated."""
    return shard.radius is None and workspace.sweep.attack.search.values.get("eps_init", 1.0) is None


def _sample(workspace: SharedWorkspace, pieces: Sequence[Shard]) -> Shard:
    """The rows on which to calibrate the set of `pieces`: a random few."""
    rows = np.concatenate([shard.rows for shard in pieces])
    order = torch.randperm(len(rows), generator=generator(workspace.sweep.seed, "calibration")).numpy()
    return replace(pieces[0], rows=np.sort(rows[order[:CALIBRATION_SAMPLES]]))


def _finished(store: Store, pieces: Sequence[Shard], seconds: float | None) -> AdversarialSet:
    """The set of `pieces`, all of which exist; its report is made once. `seconds`: spent on it now, or None.

    Shares are in percent, quantiles in pixel units, passes per sample; see `amun_ray.attacks.report`.
    """
    unit = pieces[0].unit
    result = store.result(unit) if store.has(unit) else None
    if result is None:
        metadata = [shards.decode(store.content(unit, shard.name))[1] for shard in pieces]
        cost = sum((AttackCost(*(int(each[key]) for key in AttackCost._fields)) for each in metadata), AttackCost())
        result = report(columns(partial(store.content, unit), len(pieces), ("status", "eps", "l2")), cost)
        if RADIUS in metadata[0]:
            result[RADIUS] = float(metadata[0][RADIUS])
        store.finish(unit, result | {SECONDS: seconds or 0.0}, [shard.name for shard in pieces])
    earlier = result.pop(SECONDS, 0.0)
    return AdversarialSet(unit, len(pieces), result, earlier if seconds is None else seconds, seconds is None)
