"""Runs into the rows of one table, with what their numbers support."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from amun_ray.base.seeds import generator
from amun_ray.metrics import (
    GAP_TERMS,
    Comparison,
    Summary,
    bootstrap_interval,
    compare,
    is_unchanged,
    keeps_accuracies,
    summarize,
)
from amun_ray.reporting.columns import ACCESS, ATTACKS, COLUMNS
from amun_ray.work.units import Hyperparameters

ENOUGH_CASES = 6  # fewer pairs give the exact Wilcoxon test no p-value below 5 %: 2 / 2**5 = 0.0625


@dataclass(frozen=True)
class Row:
    """One line of the table: `scores` of every run, in percent, on which case each was, and the MLflow runs."""

    method: str
    access: str | None
    settings: Hyperparameters | None
    scores: Sequence[Mapping[str, float]]
    cases: Sequence[tuple[int, str]]  # (original, forget set) of each entry of `scores`
    run_ids: Sequence[str]
    failed: str | None = None  # why there are no scores

    @property
    def name(self) -> str:
        return f"{self.method} {ACCESS[self.access]}".rstrip()

    @cached_property
    def summary(self) -> dict[str, Summary]:
        """Mean, standard deviation and n of each score."""
        return {term: summarize([one[term] for one in self.scores]) for term in (self.scores or [{}])[0]}

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % bootstrap interval of the mean of each score; runs of one case count as one. None with a single case."""
        groups = [sorted(set(self.cases)).index(case) for case in self.cases]
        if len(set(groups)) < 2:
            return {}
        return {term: bootstrap_interval([one[term] for one in self.scores], groups=groups,
                                         generator=generator(0, "interval", term)) for term in self.scores[0]}

    def by_case(self, term: str) -> dict[tuple[int, str], float]:
        """The mean of `term` over the runs of each case."""
        return {case: float(np.mean([one[term] for one, its in zip(self.scores, self.cases, strict=True)
                                     if its == case])) for case in sorted(set(self.cases))}

    def as_json(self) -> dict[str, Any]:
        chosen = self.settings._asdict() if self.settings else dict.fromkeys(Hyperparameters._fields)
        return {"method": self.method, "access": self.access, "lr": chosen["lr"], "schedule": chosen["schedule"],
                "epochs": chosen["epochs"], "settings": chosen["own"] or {},
                **({} if self.failed is None else {"failed": self.failed}),
                **{term: self.summary[term]._asdict() for term in COLUMNS if term in self.summary},
                "attacks": {term: summary._asdict() for term, summary in self.summary.items() if term not in COLUMNS},
                "interval_95": {term: list(ends) for term, ends in self.intervals.items()},
                "mlflow_run_ids": list(self.run_ids)}


def comparisons(rows: Sequence[Row]) -> tuple[Row, dict[str, Comparison]] | None:
    """The row with the least Avg. Gap, and every other method against it: paired over the cases that all have."""
    judged = [row for row in rows if row.settings is not None and row.failed is None]
    if len(judged) < 2:
        return None
    best = min(judged, key=lambda row: row.summary["average_gap"].mean)
    gaps = {row.name: row.by_case("average_gap") for row in judged}
    shared = sorted(set.intersection(*(set(values) for values in gaps.values())))
    if not shared:
        return None
    return best, compare({name: [values[case] for case in shared] for name, values in gaps.items()},
                         reference=best.name)


def marks(rows: Sequence[Row]) -> dict[str, str]:
    """What stands behind the name of a row: `least` Avg. Gap, `n.s.` not significantly different from that one, or
    `unchanged` for a method that did nothing, or `no setting worked`."""
    found = comparisons(rows)
    said = {}
    if found is not None:
        best, others = found
        said = {best.name: "least"} | {name: "n.s." for name, one in others.items() if not one.significant}
    said |= {row.name: "no setting worked" for row in rows if row.failed is not None}
    return said | {row.name: "unchanged" for row in rows if _did_nothing(row, rows)}


def _did_nothing(row: Row, rows: Sequence[Row]) -> bool:
    """Whether unlearn accuracy, retain accuracy and FT AUC of a method are all the original's."""
    return _beside_original(is_unchanged, row, rows)


def _beside_original(judge: Callable[[Mapping[str, float], Mapping[str, float]], bool], row: Row,
                     rows: Sequence[Row]) -> bool:
    """What `judge` says of the mean scores of a method and the original's; False where either is missing."""
    original = next((one for one in rows if one.method == "original"), None)
    if original is None or row.settings is None or row.failed is not None:
        return False
    return judge(*({term: one.summary[term].mean for term in GAP_TERMS} for one in (row, original)))


def data_frame(rows: Sequence[Row]) -> dict[str, list]:
    """The whole table, every column in percent as mean, std and n: `{"columns": names, "data": rows}`."""
    titles = COLUMNS | {term: title for term, (title, _, _) in ATTACKS.items()}
    terms = [term for term in titles if term in rows[0].summary]
    columns = ["method", "access", "note", *(f"{titles[term]}{kind}" for term in terms for kind in ("", " std")), "n"]
    said = marks(rows)
    data = [[row.method, ACCESS[row.access], said.get(row.name, ""),
             *(round(value, 4) if row.failed is None else None for term in terms
               for value in row.summary.get(term, (None, None))[:2]), len(row.scores)] for row in rows]
    return {"columns": columns, "data": data}


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader must not miss: n, the targets, methods that did nothing, differences that are noise."""
    lines = ["", "percent, mean +- standard deviation over originals x forget sets x runs "
                 f"(n = {max(len(row.scores) for row in rows)}). Every column should be near the retrain row; "
                 "Avg. Gap is the mean distance to it; that of the retrain row is between retrained models, the noise "
                 "floor below which nothing can be better."]
    lines += [f"warning: {row.name}: no setting worked: {row.failed}" for row in rows if row.failed is not None]
    idle = [row.name for row in rows if _did_nothing(row, rows)]
    if idle:
        lines.append("warning: did nothing, unlearn and retain accuracy and FT AUC are the original's: "
                     + ", ".join(idle))
    kept = [row.name for row in rows if row.name not in idle and _beside_original(keeps_accuracies, row, rows)]
    if kept:
        lines.append(f"unlearn and retain accuracy are the original's, FT AUC is not: {', '.join(kept)}")
    found = comparisons(rows)
    if found is not None:
        best, others = found
        cases, line = next(iter(others.values())).n, f"least Avg. Gap: {best.name}; "
        if cases < ENOUGH_CASES:
            line += f"with {cases} cases no difference from it can be significant, which takes {ENOUGH_CASES}"
        else:
            same = [name for name, one in others.items() if not one.significant]
            line += (f"not significantly different from it, n.s. (paired Wilcoxon over {cases} cases, Holm, 5 %): "
                     + (", ".join(same) or "none"))
        lines.append(line)
    return lines


def results_json(rows: Sequence[Row]) -> bytes:
    """The content of `results.json`."""
    return json.dumps([row.as_json() for row in rows], indent=1, allow_nan=False).encode()
