"""What follows from the cluster: `search.together: auto`, `resources.widen` and `resources.gpus: auto`.

Numbers depend on the first two: suggestions on how many trials are asked for at a time, and the rounding of a model's
weights on how many GPUs train it. So the store keeps what the first start found, and the sweep goes on with it on any
other cluster. How many workers share a GPU changes no number, and each start finds that anew.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from heapq import heappop, heappush
from itertools import chain, combinations
from typing import Any, TypeVar

from amun_ray.base.log import say
from amun_ray.storage.store import Store, Unit
from amun_ray.work.units import Workspace

W = TypeVar("W", bound=Workspace)
N = TypeVar("N", int, float)
SPLITS = 200  # numbers of trainings that are tried as the wider ones
STEP = 1e-4  # of Ray's shares of a GPU


def with_width(workspace: W, workers: int) -> W:
    """The workspace of a sweep with a number in `search.together`; for `auto` that of the store or, at a first start,
    that of `rounds`."""
    sweep = workspace.sweep
    if sweep.search.together != "auto":
        return workspace
    unit = Unit("widths", search_inputs(workspace))
    if (kept := workspace.store.result(unit)) is None:
        together = at_a_time(sweep.search.trials, len(sweep.contenders), workers)
        kept = workspace.store.finish(unit, {"together": together, "workers": workers})
    say(f"search.together: {kept['together']} trials of a method at a time, for the {kept['workers']} workers of the "
        "first start")
    search = sweep.search.model_copy(update={"together": kept["together"]})
    return replace(workspace, sweep=sweep.model_copy(update={"search": search}))


def search_inputs(workspace: Workspace) -> dict[str, Any]:
    """What makes two searches the same, wherever they run."""
    sweep = workspace.sweep
    return {"search": sweep.inputs(mode="json")["search"], "seed": sweep.seed,
            "contenders": [list(contender) for contender in sweep.contenders],
            "dataset": workspace.data_digest, "model": workspace.network.identity["model"]}


def at_a_time(trials: int, contenders: int, workers: int) -> int:
    """How many of the `trials` of a contender are asked for at a time, so that those of all contenders occupy `workers`
    workers: in rounds of one size, since a small last one would leave most workers without work."""
    return math.ceil(trials / max(1, round(trials * contenders / workers)))


def kept_widths(store: Store, trainings: Sequence[Unit], lengths: Sequence[float],
                cluster: Callable[[], tuple[int, Mapping[int, float]]]) -> list[int]:
    """How many GPUs train each of `trainings`: as the store says or, at a first start, by `widths`; `cluster` returns
    the GPUs that there are, and the seconds of a step with each number of them."""
    unit = Unit("training_widths", {"trainings": [training.digest for training in trainings]})
    if (kept := store.result(unit)) is None:
        gpus, steps = cluster()
        kept = store.finish(unit, {"widths": widths(lengths, gpus, steps), "gpus": gpus,
                                   "speeds": {str(number): steps[1] / step for number, step in steps.items()}})
    groups = ", ".join(f"{count} training{'s' * (count > 1)} on {number} GPU{'s' * (number > 1)} each"
                       for number, count in Counter(kept["widths"]).items())
    speeds = ", ".join(f"{number} are {speed:.3g} times" for number, speed in kept["speeds"].items() if number != "1")
    say(f"resources.widen: {groups}, for the {kept['gpus']} GPUs of the first start" + (
        f"; measured: {speeds} as fast as one" if speeds else ""))
    return list(kept["widths"])


def widths(lengths: Sequence[float], gpus: int, steps: Mapping[N, float]) -> list[N]:
    """How many GPUs train each of several models, so that all are there earliest, and then with the least GPU time.

    The first ones get one number of GPUs each, and the others that or a smaller one: so GPUs that a training leaves
    always suffice for the next.

    Args:
        lengths: of the trainings, in the order in which they are handed out, in any unit.
        gpus: how many there are; a training takes any of them.
        steps: the seconds of a step with each number of GPUs, or share of one, that may train a model; 1 is one of
            them.
    """
    total, stride = len(lengths), math.ceil(len(lengths) / SPLITS)
    alike = ([number] * total for number in sorted(steps))
    split = ([wide] * first + [narrow] * (total - first)
             for narrow, wide in combinations(sorted(steps), 2) for first in range(1, total, stride))
    return min(chain(alike, split), key=lambda numbers: _over(lengths, numbers, gpus, steps))


def share(pieces: int, gpus: int, steps: Mapping[float, float]) -> float:
    """The share of a GPU for each of so many pieces of equal length, so that all are over earliest, and then the
    largest; `steps` as in `widths`."""
    return min(sorted(steps, reverse=True),
               key=lambda each: _over([1.0] * pieces, [each] * pieces, gpus, steps)[0])


def _over(lengths: Sequence[float], numbers: Sequence[N], gpus: int,
          steps: Mapping[N, float]) -> tuple[float, float]:
    """When the last training is over, and the GPU time of all, if each begins in its turn, once its GPUs are free."""
    running: list[tuple[float, float]] = []
    now, free, end, spent = 0.0, float(gpus), 0.0, 0.0
    for length, number in zip(lengths, numbers, strict=True):
        while free < number - STEP:
            now, given_back = heappop(running)
            free += given_back
        free -= number
        heappush(running, (now + length * steps[number], number))
        end, spent = max(end, now + length * steps[number]), spent + number * length * steps[number]
    return float(f"{end:.9g}"), spent
