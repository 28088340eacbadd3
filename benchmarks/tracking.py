"""How long a sweep that is resumed takes to find what MLflow has of it, with thousands of runs in one experiment.

    python benchmarks/tracking.py [--json FILE] [--runs 5000]

A minute or less, on a SQLite database in a temporary folder. A sweep logs one trial as a sweep does, with metrics and
parameters; the database gets copies of that run, each with a key of its own. Then, as at every start, a new client
resumes the run of the sweep and logs a trial that is there already: it must be found, and no run may be added. CPU
seconds are measured: with SQLite the client does all the work, and other programs share the machine.
"""

import sqlite3
import tempfile
import time
from pathlib import Path

from claims import at_most, command, count, end, row, show
from mlflow import MlflowClient

from amun_ray.tracking import Tracker, database_uri
from amun_ray.tracking.event import Event
from amun_ray.tracking.tracker import KEY


def trial(parent: str, number: int) -> Event:
    """A finished trial, with the metrics of ten epochs."""
    return Event(key=f"trial {number}", name=f"trial {number}", parent=parent, status="FINISHED",
                 params={"lr": 0.01, "schedule": "never", "epochs": 10},
                 metrics=[(name, float(step), step) for name in ("average_gap", "test_accuracy") for step in range(10)])


def opened(folder: Path) -> Tracker:
    return Tracker(database_uri(folder / "mlflow.db"), "many", (folder / "artifacts").as_uri(),
                   spool=folder / "spool", say=print)


def copy_runs(database: Path, run: str, wanted: int) -> None:
    """Copies of a run with its metrics, parameters and tags, until there are `wanted`."""
    with sqlite3.connect(database) as connection:
        for table in ("runs", "metrics", "latest_metrics", "params", "tags"):
            names = [entry[1] for entry in connection.execute(f"PRAGMA table_info({table})")]
            rows = connection.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", [run]).fetchall()
            copies = []
            for number in range(1, wanted):
                for one in rows:
                    values = dict(zip(names, one, strict=True)) | {"run_uuid": f"{number:032x}"}
                    if values.get("key") == KEY:
                        values["value"] = values["value"].replace("trial 0", f"trial {number}")
                    copies.append(tuple(values.values()))
            connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(names))})", copies)


def measure(runs: int) -> tuple[float, int]:
    """CPU seconds of a resumed start that finds its last trial, and how many runs that added."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = opened(folder)
        parent = first.start(Event(key="sweep", name="sweep", status="RUNNING"))
        run = first.log(trial(parent, 0))
        assert run is not None, "a local database answers"
        copy_runs(folder / "mlflow.db", run, runs)
        begun = time.process_time()
        again = opened(folder)
        assert again.start(Event(key="sweep", name="sweep", status="RUNNING")) == parent
        found = again.log(trial(parent, runs - 1))
        seconds = time.process_time() - begun
        assert found == f"{runs - 1:032x}", "the last trial is one of the copies"
        client = MlflowClient(tracking_uri=database_uri(folder / "mlflow.db"))
        (experiment,) = [one.experiment_id for one in client.search_experiments() if one.name == "many"]
        there, token = 0, None
        while there == 0 or token:
            page = client.search_runs([experiment], max_results=1000, page_token=token)
            there, token = there + len(page), page.token
        return seconds, there - runs - 1


def main() -> None:
    parser = command(__doc__)
    parser.add_argument("--runs", type=count, default=5000, help="runs in the experiment")
    options = parser.parse_args()
    seconds, added = measure(options.runs)
    show([row(f"a resumed start finds its last trial among {options.runs:,} runs", seconds, "CPU s", at_most(10)),
          row("runs that this added", added, "runs", at_most(0))], options.json)


if __name__ == "__main__":
    end(main)
