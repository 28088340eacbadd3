"""How many GPUs train each model: as `resources.gpus` says or, with `auto` and `widen`, by the measured time of a step.

Cost of measuring, at the first start alone: the start of a training on 1, 2, 4 ... GPUs, side by side, and a hundred
steps of each. A step by several GPUs is rarely as much shorter: they exchange gradients and batch statistics, and each
has to launch as many kernels as one that trains alone.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import ray

from amun_ray.runtime.bench import SharedWorkspace
from amun_ray.runtime.cluster import Cluster, room_of_nodes, slots
from amun_ray.runtime.queue import run_tasks
from amun_ray.stages.pace import step_seconds
from amun_ray.stages.packing import shares
from amun_ray.stages.together import gpus_now, run_together
from amun_ray.storage.store import Unit
from amun_ray.work.units import Training
from amun_ray.work.width import kept_widths


def widths_of(workspace: SharedWorkspace, jobs: Sequence[tuple[Training, Unit]],
              options: dict[str, Any]) -> dict[str, float]:
    """How many workers train each model, or which share of a GPU a single one has, by the digest of its unit: one where
    it is loaded; `options` are those of one worker."""
    resources, store = workspace.sweep.resources, workspace.store
    trained = [(training, unit) for training, unit in jobs if not training.checkpoint]

    def lengths(chosen: Sequence[tuple[Training, Unit]]) -> list[float]:
        return [len(training.rows) * training.recipe(workspace).epochs for training, _ in chosen]

    def cluster() -> tuple[int, dict[int, float]]:
        rooms = [slots(options, Cluster((node,), "")) for node in room_of_nodes()]
        numbers = [2**power for power in range(min(room for room in rooms if room).bit_length())]
        return sum(rooms), measured(workspace, trained[0][0], options, numbers) if numbers[1:] else {1: 1.0}

    numbers = [resources.together] * len(trained)
    if resources.widen and options["num_gpus"] and not all(store.is_sound(unit) for _, unit in trained):
        numbers = kept_widths(store, [unit for _, unit in trained], lengths(trained), cluster)
    found = {unit.digest: 1.0 for _, unit in jobs} | {
        unit.digest: number for (_, unit), number in zip(trained, numbers, strict=True)}
    if resources.gpus == "auto" and max(numbers, default=1) == 1:
        missing = [(training, unit) for training, unit in trained if not store.is_sound(unit)]
        found |= {unit.digest: share for (_, unit), share in zip(
            missing, shares(workspace, options, lengths(missing)), strict=True)}
    return found


def measured(workspace: SharedWorkspace, training: Training, options: dict[str, Any],
             numbers: Sequence[int]) -> dict[int, float]:
    """The seconds of a step of `training` by each of `numbers` workers."""
    shared = ray.put(workspace)
    return dict(run_tasks(lambda number: _measure.remote(shared, training, number, options), numbers,
                          limit=gpus_now, weight=int))


@ray.remote(num_cpus=0, max_retries=3)
def _measure(workspace: SharedWorkspace, training: Training, workers: int, options: dict[str, Any]) -> float:
    return min(run_together(workspace.store, partial(step_seconds, workspace, training), workers, options))
