"""`search.together: auto`: as many trials of a method at a time as fill the cluster at the first start.

Suggestions depend on that number, so the store keeps it: the sweep goes on with it on any other cluster.
"""

import math
from dataclasses import replace
from typing import TypeVar

from amun_ray.base.log import say
from amun_ray.storage.store import Unit
from amun_ray.work.units import Workspace

W = TypeVar("W", bound=Workspace)


def with_width(workspace: W, workers: int) -> W:
    """The workspace of a sweep with a number in `search.together`; for `auto` that of the store or, at a first start,
    that by which the trials of all methods occupy `workers` workers."""
    sweep = workspace.sweep
    if sweep.search.together != "auto":
        return workspace
    unit = Unit("widths", {"search": sweep.inputs(mode="json")["search"], "seed": sweep.seed,
                           "contenders": [list(contender) for contender in sweep.contenders],
                           "dataset": workspace.data_digest, "model": workspace.network.identity["model"]})
    if (kept := workspace.store.result(unit)) is None:
        together = math.ceil(workers / len(sweep.contenders))
        kept = workspace.store.finish(unit, {"together": together, "workers": workers})
    say(f"search.together: {kept['together']} trials of a method at a time, for the {kept['workers']} workers of the "
        "first start")
    search = sweep.search.model_copy(update={"together": kept["together"]})
    return replace(workspace, sweep=sweep.model_copy(update={"search": search}))
