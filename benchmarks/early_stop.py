"""What `search.stop_early` saves and what it loses, by the stored curves of searches that ran without it.

    python benchmarks/early_stop.py [--json FILE] [--store amun_output/NAME/mlflow.db ...] [--original 20.4 ...]

Seconds. Of each store the last sweep is taken: the trials of each method and access in their order, in rounds of
`--together`, end where the limits end them that the earlier rounds set. The suggestions stay those of the search that
ran: a sampler that knows of stopped trials would have made others. `--original`: the objective of the original models
on the held-out sets, one of each store; not needed where the trials have it. Rows, over all stores and of each:
- early_stop_cost_share: epochs that are run, of all.
- early_stop_same_best_percent: searches whose best is the same trial at the same epoch as without stopping.
- early_stop_lost: by how many points the best of a search is worse, at most.
"""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import mlflow
from claims import Row, at_least, at_most, command, count, end, row, show

from amun_ray.base.errors import UserError
from amun_ray.work import stopping

NUMBER = re.compile(r"trial (\d+)$")  # at the end of a trial's name
OBJECTIVE = "average_gap"
EARLY = ("stopped", "past")  # tags of a trial that ended early

Curve = Sequence[float]  # the objective of a trial after each epoch


class Search(NamedTuple):
    """The curves of a search, in the order of the trials, and the objective of the original models."""

    curves: Sequence[Curve]
    original: float


class Best(NamedTuple):
    """The best of a search: its value, its trial, and its epoch, from 0; the first of equals."""

    value: float
    trial: int
    epoch: int


class Replay(NamedTuple):
    """A search with stopping: how many epochs it runs, and its best; None if no trial is finished."""

    epochs: int
    best: Best | None


def best_of(curves: Sequence[Curve]) -> Best | None:
    """The best of these, of which a hopeless one is empty."""
    return min((Best(value, trial, epoch) for trial, curve in enumerate(curves) for epoch, value in enumerate(curve)),
               default=None)


def replay(search: Search, together: int) -> Replay:
    """A search that meets these curves in this order, in rounds as `stages/study.py` has them."""
    longest, spent = max(map(len, search.curves)), 0
    seen: list[Curve] = []  # as far as it ran, of each trial that is over; a hopeless one is empty

    def limits(*, first: bool = False) -> stopping.Limits:
        best = best_of(seen)
        return stopping.limits(search.original, [] if best is None else seen[best.trial], longest, first=first)

    def run(curve: Curve, bounds: stopping.Limits) -> tuple[Curve, bool]:  # as far as it runs, and whether hopeless
        nonlocal spent
        over = stopping.end(curve, bounds, longest)
        ran = curve if over is None else curve[:over.epoch]
        spent += len(ran)
        return ran, over is not None and over.hopeless

    for start in range(0, len(search.curves), together):
        batch, bounds = search.curves[start:start + together], limits(first=start == 0)
        ran = [run(curve, bounds) for curve in batch]
        seen += [[] if hopeless else curve for curve, hopeless in ran]
        if any(seen):
            continue
        again = min(range(len(batch)), key=lambda trial: min(ran[trial][0]))
        seen[again], _ = run(batch[again], limits())
        bounds = limits()
        for trial, (curve, _) in enumerate(ran):
            if trial != again and stopping.end(curve, bounds, longest) is None:
                whole, hopeless = run(batch[trial], bounds)
                seen[trial] = [] if hopeless else whole
    return Replay(spent, best_of(seen))


def searches(store: Path, original: float | None) -> list[Search]:
    """Every search of the last sweep in an MLflow database."""
    if not store.is_file():
        raise UserError(f"--store: {store}: no such file; run a sweep with --set search.stop_early=false, and name its "
                        "mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{store.resolve()}")
    client = mlflow.MlflowClient()
    runs = mlflow.search_runs(search_all_experiments=True, filter_string="tags.stage = 'trial'",
                              order_by=["attributes.start_time DESC"], output_format="list")
    found: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(dict)
    for run in runs:
        tags, values = run.data.tags, [each.value for each in client.get_metric_history(run.info.run_id, OBJECTIVE)]
        number = NUMBER.search(run.info.run_name)
        if tags["mlflow.parentRunId"] != runs[0].data.tags["mlflow.parentRunId"] or number is None or not values:
            continue  # another sweep, or a trial that failed before its first epoch was over
        if ended := next(filter(tags.get, EARLY), None):
            raise UserError(f"--store: {run.info.run_name} ended early ({tags[ended]}); run the sweep with --set "
                            "search.stop_early=false")
        found[tags["method"], tags["access"]][int(number[1])] = values
        original = run.data.metrics.get(f"original_{OBJECTIVE}", original)
    if not found:
        raise UserError(f"--store: {store} has no trial")
    if original is None:
        raise UserError(f"--original: {store} does not have the objective of the original models; name it")
    return [Search([trials[number] for number in sorted(trials)], original) for trials in found.values()]


def compare(found: Sequence[Search], together: int, name: str = "early_stop") -> list[Row]:
    """The rows, over these searches."""
    goals = (at_most(0.6), at_least(100), at_most(0))
    replays = [replay(search, together) for search in found]
    free = [best_of(search.curves) for search in found]
    lost = [math.inf if with_it.best is None or best is None else with_it.best.value - best.value
            for best, with_it in zip(free, replays, strict=True)]
    same = [with_it.best == best for best, with_it in zip(free, replays, strict=True)]
    values = (sum(each.epochs for each in replays) / sum(len(curve) for search in found for curve in search.curves),
              100 * sum(same) / len(same), max(lost))
    return [*(row(f"{name}_{what}", value, unit, goal) for what, value, unit, goal in zip(
                ("cost_share", "same_best_percent", "lost"), values, ("x", "%", "points"), goals, strict=True)),
            row(f"{name}_searches", len(found), ""),
            row(f"{name}_trials", sum(len(search.curves) for search in found), "")]


def main() -> None:
    """Replay and report."""
    parser = command(__doc__)
    parser.add_argument("--store", type=Path, nargs="+", default=[Path("amun_output/cifar10_small/mlflow.db")],
                        help="of MLflow")
    parser.add_argument("--original", type=float, nargs="+", default=[], help="objective of the originals, of each")
    parser.add_argument("--together", type=count, default=4, help="trials of a round")
    options = parser.parse_args()
    found = {store.parent.name: searches(store, original)
             for store, original in zip_longest(options.store, options.original)}
    rows = compare([search for each in found.values() for search in each], options.together)
    if len(found) > 1:
        rows += [one for name, each in found.items() for one in compare(each, options.together, name)]
    show(rows, options.json)


if __name__ == "__main__":
    end(main)
