"""What `search.stop_early` saves and what it loses, by the stored curves of a search that ran without it.

    python benchmarks/early_stop.py [--json FILE] [--store amun_output/NAME/mlflow.db] [--startup 4] [--together 4]

Seconds. For each sweep in the file, method and access the trials are taken in their order, in rounds of `--together`.
Once `--startup` of them are whole, those of a round are stopped by the limits that the earlier ones set. The
suggestions stay those of the search that ran: a sampler that knows of stopped trials would have made others. Rows:
- early_stop_cost_share: epochs that are run, of all.
- early_stop_same_best_percent: searches whose best trial is the one that it is without stopping.
- early_stop_lost: by how many points the best of a search is worse, at most.
"""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mlflow
from claims import Row, at_least, at_most, command, count, end, row, show

from amun_ray.base.errors import UserError
from amun_ray.work.trials import limits, stopped_after

NUMBER = re.compile(r"trial (\d+)$")  # at the end of a trial's name
OBJECTIVE = "average_gap"


class Replay(NamedTuple):
    """A search with stopping: how many epochs it runs, and its best value; infinite if none is whole."""

    epochs: int
    best: float


def replay(curves: Sequence[Sequence[float]], startup: int, together: int) -> Replay:
    """A search that meets these `curves`, the objective of each trial by epoch, in this order."""
    whole: list[Sequence[float]] = []
    epochs = 0
    for start in range(0, len(curves), together):
        bounds = limits(whole) if len(whole) >= startup else ()
        met = [(curve, stopped_after(curve, bounds)) for curve in curves[start:start + together]]
        epochs += sum(stop or len(curve) for curve, stop in met)
        whole += [curve for curve, stop in met if stop is None]
    return Replay(epochs, min(map(min, whole), default=math.inf))


def searches(store: Path) -> list[list[list[float]]]:
    """The curves of every search in an MLflow database, in the order of the trials."""
    if not store.is_file():
        raise UserError(f"--store: {store}: no such file; run a sweep with --set search.stop_early=false, and name its "
                        "mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{store.resolve()}")
    client = mlflow.MlflowClient()
    found: dict[tuple[str, str, str], dict[int, list[float]]] = defaultdict(dict)
    for run in mlflow.search_runs(search_all_experiments=True, filter_string="tags.stage = 'trial'",
                                  output_format="list"):
        if "stopped" in run.data.tags:
            raise UserError(f"--store: {run.info.run_name} was stopped early; run the sweep with --set "
                            "search.stop_early=false")
        values = [metric.value for metric in client.get_metric_history(run.info.run_id, OBJECTIVE)]
        number = NUMBER.search(run.info.run_name)
        if number is not None and values:  # the others failed before their first epoch was over
            search = run.data.tags["mlflow.parentRunId"], run.data.tags["method"], run.data.tags["access"]
            found[search][int(number[1])] = values
    if not found:
        raise UserError(f"--store: {store} has no trial")
    return [[trials[number] for number in sorted(trials)] for trials in found.values()]


def compare(found: Sequence[Sequence[Sequence[float]]], startup: int, together: int) -> list[Row]:
    """The rows, over all searches."""
    replays = [replay(curves, startup, together) for curves in found]
    lost = [with_it.best - min(map(min, curves)) for curves, with_it in zip(found, replays, strict=True)]
    return [row("early_stop_cost_share", sum(each.epochs for each in replays) / sum(len(curve) for curves in found for
                                                                                  curve in curves), "x", at_most(0.6)),
            row("early_stop_same_best_percent", 100 * sum(each == 0 for each in lost) / len(lost), "%", at_least(100)),
            row("early_stop_lost", max(lost), "points", at_most(0)),
            row("searches", len(found), ""),
            row("trials", sum(map(len, found)), "")]


def main() -> None:
    """Replay and report."""
    parser = command(__doc__)
    parser.add_argument("--store", type=Path, default=Path("amun_output/cifar10_small/mlflow.db"), help="of MLflow")
    parser.add_argument("--startup", type=count, default=4, help="whole trials before any is stopped")
    parser.add_argument("--together", type=count, default=4, help="trials of a round")
    options = parser.parse_args()
    show(compare(searches(options.store), options.startup, options.together), options.json)


if __name__ == "__main__":
    end(main)
