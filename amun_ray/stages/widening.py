"""How many GPUs train each model: as `resources.gpus` says or, with `resources.widen`, by the measured time of a step.

Cost of measuring, at the first start alone: the start of a training on 1, 2, 4 ... GPUs, side by side, and a hundred
steps of each. A step by several GPUs is rarely as much shorter: they exchange gradients and batch statistics, and each
has to launch as many kernels as one that trains alone.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import ray

from amun_ray.base.seeds import generator
from amun_ray.runtime.bench import SharedWorkspace, bench
from amun_ray.runtime.cluster import Cluster, room_of_nodes, slots
from amun_ray.runtime.queue import run_tasks
from amun_ray.stages.together import gpus_now, run_together
from amun_ray.storage.store import Unit
from amun_ray.training.group import Group
from amun_ray.training.loop import fit
from amun_ray.work.units import Training
from amun_ray.work.width import kept_widths

STEPS, ROUNDS = 25, 3  # a round of steps to warm up comes before these
STILL = 1e-9  # a learning rate by which no model diverges


def widths_of(workspace: SharedWorkspace, jobs: Sequence[tuple[Training, Unit]],
              options: dict[str, Any]) -> dict[str, int]:
    """How many workers train each model, by the digest of its unit: one where it is loaded; `options` are those of one
    worker."""
    resources, store = workspace.sweep.resources, workspace.store
    loaded = {unit.digest: 1 for training, unit in jobs if training.checkpoint}
    trainings = [training for training, _ in jobs if not training.checkpoint]
    units = [unit for training, unit in jobs if not training.checkpoint]

    def cluster() -> tuple[int, dict[int, float]]:
        rooms = [slots(options, Cluster((node,), "")) for node in room_of_nodes()]
        numbers = [2**power for power in range(min(room for room in rooms if room).bit_length())]
        return sum(rooms), measured(workspace, trainings[0], options, numbers) if numbers[1:] else {1: 1.0}

    if resources.widen and options["num_gpus"] and not all(map(store.is_sound, units)):
        lengths = [len(training.rows) * training.recipe(workspace).epochs for training in trainings]
        numbers = kept_widths(store, units, lengths, cluster)
    else:
        numbers = [resources.together] * len(units)
    return loaded | {unit.digest: number for unit, number in zip(units, numbers, strict=True)}


def measured(workspace: SharedWorkspace, training: Training, options: dict[str, Any],
             numbers: Sequence[int]) -> dict[int, float]:
    """The seconds of a step of `training` by each of `numbers` workers."""
    shared = ray.put(workspace)
    return dict(run_tasks(lambda number: _measure.remote(shared, training, number, options), numbers,
                          limit=gpus_now, weight=int))


@ray.remote(num_cpus=0, max_retries=3)
def _measure(workspace: SharedWorkspace, training: Training, workers: int, options: dict[str, Any]) -> float:
    return run_together(workspace.store, partial(step_seconds, workspace, training), workers, options)


def step_seconds(workspace: SharedWorkspace, training: Training, group: Group) -> float:
    """The seconds of a step of `training` by the processes of `group`: the shortest of ROUNDS means over STEPS."""
    here, recipe = bench(workspace), replace(training.recipe(workspace), epochs=1 + ROUNDS, lr=STILL)
    rows = training.rows[:STEPS * recipe.batch_size]
    model = workspace.new_model(training.seed).to(here.device)
    ends = []
    for _ in fit(model, [here.part(rows)], recipe=recipe, augmentation=workspace.sweep.data.augmentation,
                 generator=generator(training.seed, "order"), group=group):
        ends.append(time.monotonic())  # of an epoch, which waits for the device
    return min(end - begin for begin, end in pairwise(ends)) * recipe.batch_size / len(rows)
