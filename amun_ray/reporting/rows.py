"""Stage 5: runs into one table - printed, written as results.json - and what its numbers support."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from amun_ray.base.files import write_whole
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
from amun_ray.stages.cases import Settings

COLUMNS = {"unlearn_accuracy": "Unlearn", "retain_accuracy": "Retain", "test_accuracy": "Test",
           "forget_test_auc": "FT AUC", "average_gap": "Avg. Gap"}
# What the other columns are: name, the value of a model that has forgotten, and what it says
ATTACKS = {
    "mis": ("MIS", "as retrained", "forgotten samples that a support vector classifier of confidences calls unseen"),
    "average_gap_mis": ("Avg. Gap (MIS)", "0", "Avg. Gap with MIS in the place of FT AUC"),
    "forget_retain_auc": ("FR AUC", "as retrained", "RMIA: retained told from forgotten"),
    "retain_test_auc": ("RT AUC", "as retrained", "RMIA: retained told from unseen, the most that the attack can"),
    "rmia_forget_test_tpr_at_1pct_fpr": ("RMIA TPR@1%", "1", "forgotten samples found while 1 % of unseen are accused"),
    "rmia_forget_test_tpr_at_0.1pct_fpr": ("RMIA TPR@0.1%", "0.1", "the same while 0.1 % of unseen are accused"),
    "lira_forget_test_auc": ("LiRA AUC", "50", "LiRA: forgotten told from unseen"),
    "lira_forget_test_tpr_at_1pct_fpr": ("LiRA TPR@1%", "1", "forgotten samples found while 1 % of unseen are accused"),
    "lira_forget_test_tpr_at_0.1pct_fpr": ("LiRA TPR@0.1%", "0.1", "the same while 0.1 % of unseen are accused"),
    "lira_forget_called_member": ("U-LiRA", "as retrained", "forgotten samples likelier trained on than never seen"),
    **{f"{signal}_forget_{kind}": (f"{title} {suffix}", good, meaning)
       for signal, title in {"loss": "Loss", "confidence": "Confidence", "entropy": "Entropy",
                             "modified_entropy": "Modified entropy"}.items()
       for kind, suffix, good, meaning in (
           ("test_auc", "AUC", "50", "forgotten told from unseen by this number alone"),
           ("called_member", "threshold", "as retrained", "forgotten samples above their class's best threshold"))},
}
SHOWN = ("mis", "average_gap_mis", "rmia_forget_test_tpr_at_1pct_fpr", "rmia_forget_test_tpr_at_0.1pct_fpr",
         "lira_forget_test_auc", "modified_entropy_forget_test_auc")  # of these, below the table of the command
ENOUGH_CASES = 6  # fewer pairs give the exact Wilcoxon test no p-value below 5 %: 2 / 2**5 = 0.0625
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

    @cached_property
    def summary(self) -> dict[str, Summary]:
        """Mean, standard deviation and n of each score."""
        return {term: summarize([one[term] for one in self.scores]) for term in self.scores[0]}

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
        chosen = self.settings._asdict() if self.settings else dict.fromkeys(Settings._fields)
        return {"method": self.method, "access": self.access, "lr": chosen["lr"], "schedule": chosen["schedule"],
                "epochs": chosen["epochs"], "settings": chosen["own"] or {},
                **{term: self.summary[term]._asdict() for term in COLUMNS},
                "attacks": {term: summary._asdict() for term, summary in self.summary.items() if term not in COLUMNS},
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


def marks(rows: Sequence[Row]) -> dict[str, str]:
    """What stands behind the name of a row: `least` Avg. Gap, `n.s.` not significantly different from that one, or
    `unchanged` for a method that did nothing."""
    found = comparisons(rows)
    said = {}
    if found is not None:
        best, others = found
        said = {best.name: "least"} | {name: "n.s." for name, one in others.items() if not one.significant}
    return said | {row.name: "unchanged" for row in rows if _did_nothing(row, rows)}


def _did_nothing(row: Row, rows: Sequence[Row]) -> bool:
    """Whether unlearn accuracy, retain accuracy and FT AUC of a method are all the original's."""
    return _beside_original(is_unchanged, row, rows)


def _beside_original(judge: Callable[[Mapping[str, float], Mapping[str, float]], bool], row: Row,
                     rows: Sequence[Row]) -> bool:
    """What `judge` says of the mean scores of a method and the original's; False where either is missing."""
    original = next((one for one in rows if one.method == "original"), None)
    if original is None or row.settings is None:
        return False
    return judge(*({term: one.summary[term].mean for term in GAP_TERMS} for one in (row, original)))


def data_frame(rows: Sequence[Row]) -> dict[str, list]:
    """The whole table, every column in percent as mean, std and n: `{"columns": names, "data": rows}`."""
    titles = COLUMNS | {term: title for term, (title, _, _) in ATTACKS.items()}
    terms = [term for term in titles if term in rows[0].summary]
    columns = ["method", "access", "note", *(f"{titles[term]}{kind}" for term in terms for kind in ("", " std")), "n"]
    said = marks(rows)
    data = [[row.method, ACCESS[row.access], said.get(row.name, ""),
             *(round(value, 4) for term in terms for value in row.summary[term][:2]), len(row.scores)] for row in rows]
    return {"columns": columns, "data": data}


def write_results(rows: Sequence[Row], folder: Path) -> Path:
    """Write `results.json`, whole or not at all; returns its path."""
    content = json.dumps([row.as_json() for row in rows], indent=1, allow_nan=False)
    return write_whole(folder / "results.json", content.encode())


def table(rows: Sequence[Row]) -> str:
    """The rows as text, each number mean +- standard deviation in percent; the retrained row is the target. Below it
    the other attacks, where there are any."""
    said = marks(rows)
    text = _aligned([["method", "access", *COLUMNS.values(), "lr, schedule, epochs", ""]] + [
        [row.method, ACCESS[row.access], *(_cell(row, term) for term in COLUMNS), _settings(row),
         said.get(row.name, "")] for row in rows])
    shown = [term for term in SHOWN if term in rows[0].summary]
    if shown:
        text += ["", *_aligned([["other attacks", "", *(ATTACKS[term][0] for term in shown)],
                                ["a good value", "", *(ATTACKS[term][1] for term in shown)]] + [
            [row.method, ACCESS[row.access], *(_cell(row, term) for term in shown)] for row in rows], heads=2)]
    return "\n".join(text + notes(rows))


def _cell(row: Row, term: str) -> str:
    return f"{row.summary[term].mean:.2f} +- {row.summary[term].std:.2f}"


def _aligned(lines: Sequence[Sequence[str]], heads: int = 1) -> list[str]:
    """Lines of cells as lines of text, the first `heads` of them above a rule."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    ruled = [*lines[:heads], ["-" * width for width in widths], *lines[heads:]]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in ruled]


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
