"""Stage 5: runs into one table - printed, written as results.json - and the figures that go with it."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amun_ray.metrics import GAP_TERMS, Summary, is_unchanged, summarize
from amun_ray.stages.cases import Settings

COLUMNS = {"unlearn_accuracy": "Unlearn", "retain_accuracy": "Retain", "test_accuracy": "Test",
           "forget_test_auc": "FT AUC", "average_gap": "Avg. Gap"}
ACCESS = {"retain": "with D_R", "forget_only": "only D_F", None: ""}


@dataclass(frozen=True)
class Row:
    """One line of the table: `scores` of every run, in percent, and the MLflow runs that they come from."""

    method: str
    access: str | None
    settings: Settings | None
    scores: Sequence[Mapping[str, float]]
    run_ids: Sequence[str]

    @property
    def summary(self) -> dict[str, Summary]:
        """Mean, standard deviation and n of each column."""
        return {term: summarize([one[term] for one in self.scores]) for term in COLUMNS}

    def as_json(self) -> dict[str, Any]:
        chosen = self.settings._asdict() if self.settings else dict.fromkeys(Settings._fields)
        return {"method": self.method, "access": self.access, "lr": chosen["lr"], "schedule": chosen["schedule"],
                "epochs": chosen["epochs"], "settings": chosen["own"] or {},
                **{term: summary._asdict() for term, summary in self.summary.items()},
                "mlflow_run_ids": list(self.run_ids)}


def write_results(rows: Sequence[Row], folder: Path) -> Path:
    """Write `results.json`, whole or not at all; returns its path."""
    path, partial = folder / "results.json", folder / f".results-{os.getpid()}.partial"
    partial.write_text(json.dumps([row.as_json() for row in rows], indent=1, allow_nan=False))
    os.replace(partial, path)
    return path


def table(rows: Sequence[Row]) -> str:
    """The rows as text, each number mean +- standard deviation in percent; the retrained row is the target."""
    head = ["method", "access", *COLUMNS.values(), "lr, schedule, epochs"]
    body = [[row.method, ACCESS[row.access],
             *(f"{summary.mean:.2f} +- {summary.std:.2f}" for summary in row.summary.values()), _settings(row)]
            for row in rows]
    widths = [max(len(line[column]) for line in [head, *body]) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
             for line in [head, ["-" * width for width in widths], *body]]
    return "\n".join(lines + notes(rows))


def _settings(row: Row) -> str:
    if row.settings is None:
        return "<- the target" if row.method == "retrain" else ""
    own = "".join(f", {key}={value:.3g}" for key, value in row.settings.own.items())
    return f"{row.settings.lr:.2e}, {row.settings.schedule}, {row.settings.epochs}{own}"


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader of the table must not miss: n, the targets, and methods that did nothing."""
    lines = ["", "percent, mean +- standard deviation over originals x forget sets x runs "
                 f"(n = {max(len(row.scores) for row in rows)}). Every column should be near the retrain row; "
                 "Avg. Gap is the mean distance to it."]
    original = {term: summary.mean for row in rows if row.method == "original" for term, summary in row.summary.items()}
    for row in rows:
        if row.settings and is_unchanged({term: row.summary[term].mean for term in GAP_TERMS}, original):
            lines.append(f"warning: {row.method} {ACCESS[row.access]}: unlearn and retain accuracy are the original "
                         "model's; this method did nothing")
    return lines
