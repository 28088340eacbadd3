"""Stage 4: the best settings of every method, applied to the forget sets that count, several seeds each.

Cost: (methods and accesses) x originals x final forget sets x runs, each a fine-tuning of the chosen number of epochs;
all of them are independent, so time falls with the number of workers. Storage: one weights file and one logits file per
run.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray

from amun_ray.base.errors import Diverged, UserError
from amun_ray.base.progress import bar
from amun_ray.runtime.bench import Workspace
from amun_ray.runtime.queue import run_tasks
from amun_ray.stages.cases import Case, Contender, Settings, case_inputs, run_case
from amun_ray.stages.originals import cpu_state, store_logits, store_weights
from amun_ray.storage.sharing import make_all, make_once
from amun_ray.storage.store import Unit


@dataclass(frozen=True, eq=False)
class Run:
    """One unlearned model to make: which method, with what, on which case, with which seed."""

    contender: Contender
    settings: Settings
    case: Case
    number: int
    unit: Unit


@dataclass(frozen=True)
class Unlearned:
    """One unlearned model: the run it came from, its stored result (`failed`: the reason), and whether an earlier start
    made it."""

    run: Run
    result: dict[str, Any]
    reused: bool = False


def final_models(workspace: Workspace, best: Mapping[Contender, Settings], cases: Sequence[Case],
                 options: dict) -> list[Unlearned]:
    """Every unlearned model of the sweep, in the order (method, case, run); what the store holds is not made again.

    Raises:
        UserError: every run of a method failed; the first reason is in the message.
    """
    runs = [Run(contender, settings, case, number, _unit(workspace, contender, settings, case, number))
            for contender, settings in best.items() for case in cases
            for number in range(workspace.sweep.final.runs)]
    pending = [run for run in runs if not workspace.store.has(run.unit)]
    shared, task = ray.put(workspace), _unlearn.options(max_retries=3, **options)
    new: set[Run] = set()
    with bar("unlearning", len(pending), "models") as progress:
        for finished, made in make_all(workspace.store, pending, lambda run: run.unit, lambda runs: run_tasks(
                lambda run: task.remote(shared, run), runs)):
            new |= {finished} if made else set()
            progress.stored += not made
            progress.update()
    made = [Unlearned(run, workspace.store.result(run.unit), run not in new) for run in runs]
    for contender in best:
        mine = [one for one in made if one.run.contender == contender]
        if all("failed" in one.result for one in mine):
            raise UserError(f"{contender}: no final run succeeded: {mine[0].result['failed']}")
    return made


def _unit(workspace: Workspace, contender: Contender, settings: Settings, case: Case, number: int) -> Unit:
    return Unit("unlearned", case_inputs(workspace, contender, settings, [case], number))


@ray.remote
def _unlearn(workspace: Workspace, run: Run) -> bool:
    return make_once(workspace.store, run.unit, lambda: make_unlearned(workspace, run))


def make_unlearned(workspace: Workspace, run: Run) -> None:
    """One run, in a worker; one that diverges is finished with its reason."""
    store, started, curve = workspace.store, time.monotonic(), []
    try:
        for epoch in run_case(workspace, run.case, run.contender, run.settings, run.number):
            curve.append(epoch.scores)
    except Diverged as error:
        store.finish(run.unit, {"failed": f"epoch {len(curve) + 1}: {error}", "seconds": time.monotonic() - started})
        return
    seconds = time.monotonic() - started
    if store.has(run.unit):  # by another sweep, which took this one for dead
        return
    store_logits(store, run.unit, epoch.logits)
    weights = store_weights(store, run.unit, cpu_state(epoch.model))
    store.finish(run.unit, {"scores": curve[-1], "curve": curve, "weights": weights, "seconds": seconds,
                            "cost": asdict(epoch.report)})
