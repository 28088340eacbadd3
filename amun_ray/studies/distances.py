"""How near the adversarial images are: final radii, distances, and one attack against another, image by image.

Cost: the adversarial sets of the final cases by a second attack.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from amun_ray import plots
from amun_ray.attacks import AttackSettings
from amun_ray.base.status import Status
from amun_ray.config.readings import READINGS
from amun_ray.reporting.finding import Finding
from amun_ray.stages.again import attacked
from amun_ray.studies.done import Done
from amun_ray.work.artifacts import columns
from amun_ray.work.units import AdversarialSet

SAYS = ("the L2 distance of adversarial images from the clean ones, in pixels of [0, 1], of those that the original "
        "gets right; the share with the same wrong label is that of both attacks.")
Read = Mapping[str, np.ndarray]  # status, eps, l2, label: each (n,) over all final cases


def study(done: Done) -> Finding:
    """The sweep's attack against `nearest`, or if it is that, against the paper's."""
    mine = done.plan.sweep.attack.search
    other = AttackSettings() if mine.name != "nearest" else AttackSettings(**READINGS["attack.search"]["paper"])
    made = attacked(done.experiment, done.models, other)
    keys = [case.key for case in done.plan.final]
    sets = {mine.name: [done.sets[key] for key in keys], other.name: [made[key] for key in keys]}
    read = {name: _read(done, each) for name, each in sets.items()}
    figures = {"distances_pairs": plots.png(plots.paired({name: each["l2"] for name, each in read.items()},
                                                        _both(read)))}
    for name, each in read.items():
        flipped = each["status"] == Status.FLIPPED
        if flipped.any():
            figures |= {f"distances_eps_{name}": plots.png(plots.eps_histogram(
                each["eps"][flipped], failed=int((each["status"] == Status.FAILED).sum()))),
                f"distances_l2_{name}": plots.png(plots.l2_histogram(each["l2"][flipped]))}
    seconds = {name: sum(one.seconds for one in {one.unit.digest: one for one in each}.values())
               for name, each in sets.items()}
    return Finding("distances", SAYS, HEAD, table(read, seconds), figures)


HEAD = ["attack", "flipped (%)", "mean", "median", "95 % below", "nearer of the two (%)", "same label (%)",
        "device-seconds"]


def table(read: Mapping[str, Read], seconds: Mapping[str, float]) -> list[list[str]]:
    """A row for each of the two attacks."""
    both, names = _both(read), list(read)
    l2 = {name: each["l2"] for name, each in read.items()}
    same = _share((read[names[0]]["label"] == read[names[1]]["label"])[both])
    rows = []
    for name, rival in zip(names, reversed(names), strict=True):
        flipped, right = read[name]["status"] == Status.FLIPPED, read[name]["status"] != Status.ALREADY_WRONG
        mine = l2[name][flipped]
        numbers = [f"{value:.4f}" for value in (mine.mean(), np.median(mine), np.quantile(mine, 0.95))] if len(
            mine) else ["", "", ""]
        rows.append([name, _share(flipped[right]), *numbers, _share((l2[name] < l2[rival])[both]), same,
                     f"{seconds[name]:.1f}"])
    return rows


def _both(read: Mapping[str, Read]) -> np.ndarray:
    """(n,) bool: the images that both attacks flipped."""
    return np.logical_and(*(each["status"] == Status.FLIPPED for each in read.values()))


def _share(found: np.ndarray) -> str:
    return f"{100 * found.mean():.1f}" if len(found) else ""


def _read(done: Done, sets: Sequence[AdversarialSet]) -> Read:
    store = done.workspace.store
    read = [columns(partial(store.read, one.unit), one.shards, ("status", "eps", "l2", "label")) for one in sets]
    return {key: np.concatenate([one[key] for one in read]) for key in read[0]}
