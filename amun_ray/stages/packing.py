"""How many workers share a GPU, with `resources.gpus: auto`: as many as its memory holds, and only while more gain.

A small network leaves a large GPU waiting for the next kernel launch, which a neighbour fills. How much that gains is
measured on one GPU of the cluster, in each start that has more pieces of work than GPUs; no result depends on it.

Cost of measuring: 1, 2, 3, 4 ... workers, one number after the other: the start of these, and a hundred steps of a
training by each.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import ray
from ray.exceptions import RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from amun_ray.attacks import craft
from amun_ray.base.device import gpu_memory
from amun_ray.base.errors import Diverged
from amun_ray.base.log import say
from amun_ray.base.tensors import to_unit
from amun_ray.runtime.bench import SharedWorkspace, bench
from amun_ray.runtime.cluster import Cluster, fit_on_gpu, gpu_share, room_of_nodes, slots
from amun_ray.runtime.queue import run_tasks
from amun_ray.stages.pace import step_seconds
from amun_ray.storage.store import digest
from amun_ray.work.units import Training
from amun_ray.work.width import share, widths

Options = dict[str, float]  # `num_cpus` and `num_gpus` of a worker

NUMBERS = 1, 2, 3, 4, 6, 8, 12, 16  # of workers on a GPU
GAIN = 1.05  # in steps a second of all of them: where the next number gains less, no more share a GPU
PATIENCE_SECONDS = 60  # that the measurement waits for a GPU without work

UNKNOWN = {1.0: 1.0}  # where nothing was measured: each has a whole GPU

_measuring = threading.Lock()
_measured: dict[str, dict[float, float]] = {}  # what `_steps` found, by what is trained


class Pace(NamedTuple):
    """What a worker that trains beside others on a GPU has measured."""

    seconds: float  # of a step
    memory: tuple[int, int] | None  # see `gpu_memory`


def shared(workspace: SharedWorkspace, options: Options, pieces: int, kind: str,
           most: Callable[[], int] = lambda: max(NUMBERS)) -> Options:
    """The `options` of a worker by which so many pieces of work, of equal length, are over earliest. `most` says how
    many of them fit on a GPU; it is asked where as many would share one."""
    gpus = _gpus(workspace, options)
    if not gpus or pieces <= gpus:
        return options
    steps = _steps(workspace, options)
    if share(pieces, gpus, steps) < 1:
        fitting = gpu_share(most())
        found = share(pieces, gpus, {each: seconds for each, seconds in steps.items() if each >= fitting})
        _say(found, f"{pieces} {kind}")
        return options | {"num_gpus": found}
    return options


def shares(workspace: SharedWorkspace, options: Options, lengths: Sequence[float]) -> list[float]:
    """The share of a GPU of each of several trainings; `lengths` as in `work.width.widths`."""
    gpus = _gpus(workspace, options)
    if not gpus or len(lengths) <= gpus:
        return [1.0] * len(lengths)
    found = widths(lengths, gpus, _steps(workspace, options))
    for each in sorted({*found}, reverse=True):
        _say(each, f"{found.count(each)} trainings")
    return found


def _say(found: float, pieces: str) -> None:
    say(f"resources.gpus: {pieces}, {round(1 / found)} on a GPU")


def _gpus(workspace: SharedWorkspace, options: Options) -> int:
    """How many GPUs there are to be shared."""
    automatic = workspace.sweep.resources.gpus == "auto" and options["num_gpus"]
    return slots(options, Cluster(room_of_nodes(), "")) if automatic else 0


def _steps(workspace: SharedWorkspace, options: Options) -> dict[float, float]:
    """The seconds of a step of a training by the share of a GPU that each of those on it has. What was measured is kept
    for later stages."""
    key = digest(workspace.model_inputs)
    by_cpus = min(int(cpus / gpus / options["num_cpus"]) for cpus, gpus in room_of_nodes() if gpus)
    with _measuring:
        found = _measured.get(key) or steps_by_share(partial(side_by_side, workspace, options), by_cpus)
        if found is not UNKNOWN:
            _measured[key] = found
        return found


def steps_by_share(measure: Callable[[int], Pace | None], most: int) -> dict[float, float]:
    """The seconds of a step by the share of a GPU, for all numbers of workers up to `most` that fit on one, until the
    next number gains too little. `measure` returns the pace of each of so many workers on a GPU; None if they do not
    run."""
    alone = measure(1)
    if alone is None or alone.memory is None:
        return UNKNOWN
    steps, rate, gains = {1.0: alone.seconds}, 1 / alone.seconds, []
    for number in NUMBERS[1:]:
        if number > min(most, fit_on_gpu(*alone.memory)) or (beside := measure(number)) is None:
            break
        gained, rate = number / beside.seconds / rate, number / beside.seconds
        gains.append(f"{number} trainings at once are {rate * alone.seconds:.3g} times as fast as one")
        if gained < GAIN:
            break
        steps[gpu_share(number)] = beside.seconds
    say(f"resources.gpus: measured on a GPU: {', '.join(gains) or 'one training fills its memory, or its CPUs'}")
    return steps


def side_by_side(workspace: SharedWorkspace, options: Options, number: int) -> Pace | None:
    """The slowest pace of `number` workers that train on one GPU at once; None if there was no GPU without work, or not
    all of them got through."""
    group = placement_group([{"GPU": 1, "CPU": number * options["num_cpus"]}])
    try:
        if not group.wait(PATIENCE_SECONDS):
            say(f"resources.gpus: no GPU was without work for {PATIENCE_SECONDS} s, to measure how many workers share "
                "one: each has a whole one")
            return None
        shared_workspace, gate = ray.put(workspace), ray.remote(_Gate).options(num_cpus=0).remote(number)
        task = _train_beside.options(
            num_cpus=options["num_cpus"], num_gpus=gpu_share(number),
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0))
        paces = [pace for _, pace in run_tasks(
            lambda _: task.remote(shared_workspace, gate, number), range(number))]
    except (RayError, Diverged):
        return None
    finally:
        remove_placement_group(group)
    return max(paces, key=lambda pace: pace.seconds)


@ray.remote(max_retries=0)
def _train_beside(workspace: SharedWorkspace, gate: Any, number: int) -> Pace:
    """The pace of one of `number` workers; a single one attacks, too, and so knows what memory either takes."""
    rows = np.arange(workspace.train_size, dtype=np.int64)
    seconds = step_seconds(workspace, Training("measured", rows, 0), warm=lambda: ray.get(gate.passed.remote()))
    if number == 1:
        attack_once(workspace)
    return Pace(sum(seconds) / len(seconds), gpu_memory())


def attack_once(workspace: SharedWorkspace) -> None:
    """Attack as many samples as a shard has, on a model that has learnt nothing."""
    attack, here = workspace.sweep.attack, bench(workspace)
    settings = attack.search
    if settings.values.get("eps_init", 1.0) is None:
        settings = replace(settings, eps_init=settings.row.smallest)
    part = here.part(np.arange(min(attack.shard_size, workspace.train_size), dtype=np.int64))
    craft(workspace.new_model(0).to(here.device), to_unit(part.own_images), part.labels, settings=settings)


class _Gate:
    """Lets workers pass when so many are at it."""

    def __init__(self, number: int) -> None:
        self._missing, self._open = number, asyncio.Event()

    async def passed(self) -> None:
        self._missing -= 1
        if not self._missing:
            self._open.set()
        await self._open.wait()
