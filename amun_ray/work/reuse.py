"""What the store already holds of a sweep, found without starting anything."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from amun_ray.storage.store import Store
from amun_ray.unlearn import Contender
from amun_ray.work.estimate import Pieces, pieces
from amun_ray.work.evidence import Evidence
from amun_ray.work.plan import Plan
from amun_ray.work.trainings import Trainings, wanted_trainings
from amun_ray.work.units import Hyperparameters, Target, Trained, Workspace, case_inputs, rows_digest

Lineage = Mapping[str, Any]  # of a case, as stored in units, as far as known
Known = dict[tuple[int, str], Lineage]  # by original and name of the forget set


def left(plan: Plan, store: Store) -> Pieces:
    """The pieces of work still missing from `store`.

    Models and adversarial sets are looked up by address. A trial or an unlearned model counts as held if everything but
    its searched settings agrees: the settings are known only once the search runs again.
    """
    whole = pieces(plan)
    workspace = plan.workspace(store)
    wanted = wanted_trainings(workspace, plan)
    have = [store.result(training.unit(workspace)) is not None for training in wanted.every]
    trainings = tuple(rows for rows, there in zip(whole.trainings, have, strict=True) if not there)
    originals = {k: Trained(training.name, training.unit(workspace), result["weights"], result["seconds"])
                 for k, training in enumerate(wanted.originals)
                 if (result := store.result(training.unit(workspace))) is not None}
    targets = {case.key: Target(originals[case.original], case.name, case.rows) for case in plan.cases
               if case.original in originals and not plan.waits}
    attacked = whole.attacked - sum(_made(workspace, target) for target in targets.values())
    cases = _lineages(plan, workspace, wanted, targets) if not trainings else {}
    search = [cases[case.key] for case in plan.held_out] if cases else []
    return Pieces(trainings, attacked, _minus(whole.trials, _trials(workspace, search)),
                  _minus(whole.final, _final(workspace, [cases[case.key] for case in plan.final if cases])))


def describe(plan: Plan, todo: Pieces, store: Store) -> str:
    """What is already there of every stage, as one line."""
    whole = pieces(plan)
    reused = "; ".join(f"{count - todo.counts[stage][0]} of {count} {what}"
                       for stage, (count, what) in whole.counts.items())
    return f"  reused      {reused}; from {store.uri}"


def _made(workspace: Workspace, target: Target) -> int:
    """The number of images of a set whose shards exist."""
    store, unit, shards = workspace.store, target.unit(workspace), target.shards(workspace)
    return sum(len(shard.rows) for shard in shards if store.has(unit, shard.name) and not store.fault(unit, shard.name))


def _lineages(plan: Plan, workspace: Workspace, wanted: Trainings, targets: Mapping[tuple[int, str], Target]) -> Known:
    """The lineage in units of each case whose models all exist."""
    references = [Trained(training.name, training.unit(workspace), None, 0.0) for training in wanted.references]
    mean = Evidence.of(workspace, plan.dataset.labels, references).digest
    return {key: {"original": target.original.weights, "forget": rows_digest(target.rows),
                  "adversarial": target.unit(workspace).digest, "references": mean} for key, target in targets.items()}


def _trials(workspace: Workspace, cases: Sequence[Lineage]) -> Counter[Contender]:
    """How many trials of each contender there are on these cases."""
    search = workspace.sweep.search
    return Counter(contender for contender, inputs in _alike(workspace, "trials")
                   if inputs["settings"]["epochs"] == search.epochs and _are(cases, inputs["cases"])
                   and inputs.get("objective", "average_gap") == search.objective)


def _final(workspace: Workspace, cases: Sequence[Lineage]) -> Counter[Contender]:
    """How many unlearned models of each contender there are; for each case at most as many as the sweep needs."""
    finished = {(contender, place, inputs["cases"][0]["seed"]) for contender, inputs in _alike(workspace, "unlearned")
                for place, case in enumerate(cases) if _are([case], inputs["cases"])}
    runs = Counter((contender, place) for contender, place, _ in finished)
    counted: Counter[Contender] = Counter()
    for (contender, _), count in runs.items():
        counted[contender] += min(count, workspace.sweep.final.runs)
    return counted


def _alike(workspace: Workspace, kind: str) -> Iterator[tuple[Contender, dict[str, Any]]]:
    """The contender and the inputs of every unit of a kind with this sweep's settings."""
    sweep = workspace.sweep
    for inputs in workspace.store.inputs(kind):
        contender = Contender(*inputs["contender"])
        if contender not in sweep.contenders:
            continue
        wanted = case_inputs(workspace, contender, Hyperparameters(0.0, "never", 0, {}), [], run=0)
        fixed = wanted["settings"]["own"].keys() - set(sweep.chosen(contender.method).search)
        if all(inputs[key] == value for key, value in wanted.items() if key not in ("settings", "cases")) and all(
                inputs["settings"]["own"].get(key) == wanted["settings"]["own"][key] for key in fixed):
            yield contender, inputs


def _are(cases: Sequence[Lineage], units: Sequence[Lineage]) -> bool:
    """Whether a unit's cases are `cases`, as far as they are known."""
    return len(cases) == len(units) and all(there.get(key) == value for case, there in zip(cases, units, strict=True)
                                            for key, value in case.items())


def _minus(whole: Mapping[Contender, int], done: Counter[Contender]) -> dict[Contender, int]:
    return {contender: max(0, count - done[contender]) for contender, count in whole.items()}
