"""Stage 5: runs into one table - printed, written as results.json - and what its numbers support."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from amun_ray.metrics import GAP_TERMS, Comparison, Summary, bootstrap_interval, compare, is_unchanged, summarize
from amun_ray.seeds import generator
from amun_ray.stages.cases import Settings

COLUMNS = {"unlearn_accuracy": "Unlearn", "retain_accuracy": "Retain", "test_accuracy": "Test",
           "forget_test_auc": "FT AUC", "average_gap": "Avg. Gap"}
ACCESS = {"retain": "with D_R", "forget_only": "only D_F", None: ""}


@dataclass(frozen=True)
class Row:
    """One line of the table: `scores` of every run, in percent, on which case each was, and the MLflow runs."""

    method: str
    access: str | None
    settings: Settings | None
    scores: Sequence[Mapping[str, float]]
    cases: Sequence[tuple[int, str]]  # (original, forget set) of each entry of `scores`
    run_ids: Sequence[str]

    @property
    def name(self) -> str:
        return f"{self.method} {ACCESS[self.access]}".rstrip()

    @property
    def summary(self) -> dict[str, Summary]:
        """Mean, standard deviation and n of each column."""
        return {term: summarize([one[term] for one in self.scores]) for term in COLUMNS}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % bootstrap interval of each column's mean; runs of one case count as one. None with a single case."""
        groups = [sorted(set(self.cases)).index(case) for case in self.cases]
        if len(set(groups)) < 2:
            return {}
        return {term: bootstrap_interval([one[term] for one in self.scores], groups=groups,
                                         generator=generator(0, "interval", term)) for term in COLUMNS}

    def by_case(self, term: str) -> dict[tuple[int, str], float]:
        """The mean of `term` over the runs of each case."""
        return {case: float(np.mean([one[term] for one, its in zip(self.scores, self.cases, strict=True)
                                     if its == case])) for case in sorted(set(self.cases))}

    def as_json(self) -> dict[str, Any]:
        chosen = self.settings._asdict() if self.settings else dict.fromkeys(Settings._fields)
        return {"method": self.method, "access": self.access, "lr": chosen["lr"], "schedule": chosen["schedule"],
                "epochs": chosen["epochs"], "settings": chosen["own"] or {},
                **{term: summary._asdict() for term, summary in self.summary.items()},
                "interval_95": {term: list(ends) for term, ends in self.intervals.items()},
                "mlflow_run_ids": list(self.run_ids)}


def comparisons(rows: Sequence[Row]) -> tuple[Row, dict[str, Comparison]] | None:
    """The row with the least Avg. Gap, and every other method against it: paired over the cases that all have."""
    judged = [row for row in rows if row.settings is not None]
    if len(judged) < 2:
        return None
    best = min(judged, key=lambda row: row.summary["average_gap"].mean)
    gaps = {row.name: row.by_case("average_gap") for row in judged}
    shared = sorted(set.intersection(*(set(values) for values in gaps.values())))
    if not shared:
        return None
    return best, compare({name: [values[case] for case in shared] for name, values in gaps.items()},
                         reference=best.name)


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
    """What a reader must not miss: n, the targets, methods that did nothing, differences that are noise."""
    lines = ["", "percent, mean +- standard deviation over originals x forget sets x runs "
                 f"(n = {max(len(row.scores) for row in rows)}). Every column should be near the retrain row; "
                 "Avg. Gap is the mean distance to it."]
    original = {term: summary.mean for row in rows if row.method == "original" for term, summary in row.summary.items()}
    for row in rows:
        if original and row.settings and is_unchanged({term: row.summary[term].mean for term in GAP_TERMS}, original):
            lines.append(f"warning: {row.name}: unlearn and retain accuracy are the original model's; "
                         "this method did nothing")
    found = comparisons(rows)
    if found is not None:
        best, others = found
        same = [name for name, one in others.items() if not one.significant]
        cases = next(iter(others.values())).n
        lines.append(f"least Avg. Gap: {best.name}; not significantly different from it (paired Wilcoxon over {cases} "
                     f"cases, Holm, 5 %): {', '.join(same) or 'none'}"
                     + ("; with at most 5 cases no difference can be" if cases <= 5 else ""))
    return lines
