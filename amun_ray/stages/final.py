"""Stage 4: the best settings of each method, applied to the final forget sets, several seeds each.

Cost: (methods and accesses) x originals x final forget sets x runs, each fine-tuning for the chosen number of epochs;
all are independent, so time falls with the number of workers. Storage: one weights file and one logits file per run.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import ray

from amun_ray.base.errors import Diverged, UserError
from amun_ray.runtime.bench import SharedWorkspace, bench
from amun_ray.runtime.queue import make_missing
from amun_ray.stages.cases import OpenCase, run_case
from amun_ray.storage.sharing import make_once, overtaken
from amun_ray.unlearn import Contender
from amun_ray.work import bounded
from amun_ray.work.artifacts import cpu_state, store_logits, store_weights
from amun_ray.work.units import LOGITS, WEIGHTS, Hyperparameters, Run, Unlearned


def final_models(workspace: SharedWorkspace, contender: Contender, settings: Hyperparameters,
                 cases: Sequence[OpenCase], options: dict[str, Any]) -> list[Unlearned]:
    """The final models of one method, in the order (case, run); those in the store are not made again."""
    return unlearned_models(workspace, [Run.of(workspace, contender, settings, case, number) for case in cases
                                        for number in range(workspace.sweep.final.runs)], options,
                            f"unlearning by {contender}")


def check_sound(unlearned: Sequence[Unlearned]) -> None:
    """Raise UserError with the first reason, if every run of every method failed."""
    if all("failed" in model.result for model in unlearned):
        raise UserError(f"no final run succeeded: {unlearned[0].run.contender}: {unlearned[0].result['failed']}")


def unlearned_models(workspace: SharedWorkspace, runs: Sequence[Run], options: dict[str, float],
                     label: str = "unlearning") -> list[Unlearned]:
    """The models of `runs`, in their order; a run that diverged says so in its result."""
    shared, task = ray.put(workspace), _unlearn.options(max_retries=3, **options)
    new = make_missing(workspace.store, runs, lambda run: run.unit, lambda run: task.remote(shared, run),
                       shown=(label, "models"))
    return [Unlearned(run, workspace.store.made(run.unit), run.unit.digest not in new) for run in runs]


@ray.remote
def _unlearn(workspace: SharedWorkspace, run: Run) -> bool:
    return make_once(workspace.store, run.unit, lambda: make_unlearned(workspace, run))


def make_unlearned(workspace: SharedWorkspace, run: Run) -> None:
    """One run, in a worker; if it diverges, its result is the reason."""
    store, started, curve = workspace.store, time.monotonic(), []
    assert isinstance(run.case, OpenCase), "a run travels with its arrays"
    try:
        for epoch in run_case(workspace, run.case, run.contender, run.settings, run.number):
            curve.append(epoch.scores)
    except Diverged as error:
        store.finish(run.unit, {"failed": f"epoch {len(curve) + 1}: {error}", "seconds": time.monotonic() - started})
        return
    seconds = time.monotonic() - started
    if overtaken(store, run.unit):
        return
    store_logits(store, run.unit, epoch.logits)
    weights = store_weights(store, run.unit, cpu_state(epoch.model))
    store.finish(run.unit, {"scores": curve[-1], "curve": curve, "weights": weights, "seconds": seconds,
                            "cost": asdict(epoch.report)} | bounded.measured(epoch.model, bench(workspace).pixels),
                 [LOGITS, WEIGHTS])
