"""Runs into the rows of one table, with what their numbers support."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from amun_ray.base.space import Range, Space
from amun_ray.metrics import (
    GAP_TERMS,
    Comparison,
    Interval,
    Summary,
    cases_needed,
    compare,
    crossed_mean,
    is_unchanged,
    keeps_accuracies,
    summarize,
)
from amun_ray.reporting.columns import ACCESS, ATTACKS, COLUMNS, RANGES, WHOLE_CLASS, title
from amun_ray.work.trials import Errors, Trial
from amun_ray.work.units import Hyperparameters

SEEN = 10.0  # points of AUC away from the retrained row, from which on the attack on AMUN is said to have succeeded
PerCase = Mapping[tuple[int, str], float]  # (original, forget set) -> a number


class Against(NamedTuple):
    """How a row's Avg. Gap differs from that of the reference row."""

    reference: str
    found: Comparison


class Searched(NamedTuple):
    """What the search knew of a row's settings: the objective in points, its standard errors, and which of them lie at
    an end of their range, as `lr 0.0491 (0.0003 to 0.05)`."""

    value: float
    errors: Errors
    ends: Sequence[str]

    @classmethod
    def of(cls, trial: Trial, space: Space, epochs: int) -> "Searched":
        """`epochs`: the most that were tried; fewer than one cannot be, so that is no end."""
        best, axes = trial.best, space | {"epochs": Range(1, epochs)}
        tried = {"lr": best.lr} | best.own | ({"epochs": best.epochs} if best.epochs > 1 else {})
        return cls(trial.value, trial.errors, [
            f"{name} {value:.3g} ({axis.low:g} to {axis.high:g})" for name, value in tried.items()
            if isinstance(axis := axes[name], Range) and axis.at_end(value)])


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
    against: Against | None = None  # see `compared`
    searched: Searched | None = None
    shadows: Mapping[str, Summary] = field(default_factory=dict)  # U-LiRA, over unlearned reference models

    @property
    def name(self) -> str:
        return title(self.method, self.access)

    @property
    def contender(self) -> tuple[str, ...]:
        """The method, and its access where it has one."""
        return (self.method,) if self.access is None else (self.method, self.access)

    @property
    def best_run(self) -> str | None:
        """The MLflow run with the least Avg. Gap; None where MLflow has not been told of all of them yet."""
        if len(self.run_ids) != len(self.scores) or not self.scores:
            return None
        return self.run_ids[min(range(len(self.scores)), key=lambda place: self.scores[place]["average_gap"])]

    @cached_property
    def summary(self) -> dict[str, Summary]:
        """Mean, standard deviation and n of each score."""
        return {term: summarize([scores[term] for scores in self.scores]) for term in self._terms} | dict(self.shadows)

    @property
    def _terms(self) -> list[str]:
        """The scores that all runs have."""
        return [term for term in (self.scores or [{}])[0] if all(term in scores for scores in self.scores)]

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """The interval of the mean of each score, in its range; runs of one case count as one. None for one case."""
        grids = {term: _grid(self.by_case(term)) for term in self._terms}
        intervals = {term: crossed_mean(grid).interval() for term, grid in grids.items() if grid.size > 1}
        ends = {term: RANGES.get(term, (0.0, 100.0)) for term in intervals}
        return {term: Interval(max(low, ends[term][0]), min(high, ends[term][1]), level)
                for term, (low, high, level) in intervals.items()}

    def by_case(self, term: str) -> dict[tuple[int, str], float]:
        """The mean of `term` over the runs of each case."""
        return {case: float(np.mean([scores[term] for scores, its in zip(self.scores, self.cases, strict=True)
                                     if its == case])) for case in sorted(set(self.cases))}

    def as_json(self) -> dict[str, Any]:
        chosen = self.settings._asdict() if self.settings else dict.fromkeys(Hyperparameters._fields)
        return {"method": self.method, "access": self.access, "lr": chosen["lr"], "schedule": chosen["schedule"],
                "epochs": chosen["epochs"], "settings": chosen["own"] or {},
                **({} if self.failed is None else {"failed": self.failed}),
                **{term: self.summary[term]._asdict() for term in COLUMNS if term in self.summary},
                "attacks": {term: summary._asdict() for term, summary in self.summary.items() if term not in COLUMNS},
                "intervals": {term: interval._asdict() for term, interval in self.intervals.items()},
                **({} if self.against is None else {"against": _against_json(self.against)}),
                **({} if self.searched is None else {"search": {
                    "value": self.searched.value, "standard_error": self.searched.errors._asdict(),
                    "at_an_end": list(self.searched.ends)}}),
                "mlflow_run_ids": list(self.run_ids)}


def compared(rows: Sequence[Row], reference: str | None, methods: Collection[str] | None = None) -> list[Row]:
    """The rows, those of `methods` (None: all) tested against the row of the method `reference` with the same access:
    paired over the cases that both have, Avg. Gap against Avg. Gap."""
    judged = [row for row in rows if row.settings is not None and row.failed is None]
    base = {row.access: row for row in judged if row.method == reference}
    differences = {}
    for row in judged:
        if row.method != reference and row.access in base and (methods is None or row.method in methods):
            mine, theirs = row.by_case("average_gap"), base[row.access].by_case("average_gap")
            differences[row.name] = _grid({case: mine[case] - theirs[case] for case in mine if case in theirs})
    results = compare({name: grid for name, grid in differences.items() if grid.size})
    return [replace(row, against=Against(base[row.access].name, results[row.name])) if row.name in results else row
            for row in rows]


def _grid(values: PerCase) -> np.ndarray:
    """(originals, sets) of the forget sets that every one of the originals has: a run that failed leaves holes."""
    originals = sorted({original for original, _ in values})
    sets = [name for name in dict.fromkeys(name for _, name in values)
            if all((original, name) in values for original in originals)]
    return np.array([[values[original, name] for name in sets] for original in originals], np.float64)


def _against_json(against: Against) -> dict[str, Any]:
    interval = against.found.interval
    return {"reference": against.reference, **against.found._asdict(), "interval": interval and interval._asdict()}


def marks(rows: Sequence[Row]) -> dict[str, str]:
    """What stands behind the name of a row: `least` Avg. Gap, `n.s.` not significantly different from the reference
    row, or `unchanged` for a method that did nothing, or `no setting worked`."""
    marked = {row.name: "n.s." for row in rows if row.against is not None and not row.against.found.significant}
    marked |= {row.against.reference: "reference" for row in rows if row.against is not None}
    if (nearest := least(rows)) is not None:
        marked[nearest.name] = ", ".join(filter(None, ("least", marked.get(nearest.name))))
    marked |= {row.name: "no setting worked" for row in rows if row.failed is not None}
    return marked | {row.name: "unchanged" for row in rows if _did_nothing(row, rows)}


def least(rows: Sequence[Row]) -> Row | None:
    """The method with the least Avg. Gap; None where every method failed."""
    judged = [row for row in rows if row.settings is not None and row.failed is None]
    return min(judged, key=lambda row: row.summary["average_gap"].mean, default=None)


def _did_nothing(row: Row, rows: Sequence[Row]) -> bool:
    """Whether unlearn accuracy, retain accuracy and FT AUC of a method are all the original's."""
    return _beside_original(is_unchanged, row, rows)


def _beside_original(judge: Callable[[Mapping[str, float], Mapping[str, float]], bool], row: Row,
                     rows: Sequence[Row]) -> bool:
    """What `judge` says of the mean scores of a method and the original's; False where either is missing."""
    original = next((each for each in rows if each.method == "original"), None)
    if original is None or row.settings is None or row.failed is not None:
        return False
    return judge(*({term: each.summary[term].mean for term in GAP_TERMS} for each in (row, original)))


def data_frame(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """The whole table, every column in percent as mean, std and n: `{"columns": names, "data": rows}`."""
    titles = COLUMNS | {term: title for term, (title, _, _) in ATTACKS.items()}
    terms = [term for term in titles if any(term in row.summary for row in rows)]
    columns = ["method", "access", "note", *(f"{titles[term]}{kind}" for term in terms for kind in ("", " std")), "n"]
    marked = marks(rows)
    data = [[row.method, ACCESS[row.access], marked.get(row.name, ""),
             *(None if value is None or row.failed is not None else round(value, 4) for term in terms
               for value in row.summary.get(term, (None, None))[:2]), len(row.scores)] for row in rows]
    return {"columns": columns, "data": data}


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader must not miss: n, the targets, methods that did nothing, differences that are noise."""
    lines = ["", "percent, mean +- standard deviation over originals x forget sets x runs "
                 f"(n = {max(len(row.scores) for row in rows)}). Every column should be near the retrain row; "
                 "Avg. Gap is the mean distance to it; that of the retrain row is between retrained models, the noise "
                 "floor below which nothing can be better."]
    if "forgotten_test_accuracy" in rows[0].summary:
        lines.append(WHOLE_CLASS)
    lines += [f"warning: {row.name}: no setting worked: {row.failed}" for row in rows if row.failed is not None]
    ends = [f"{row.name}: {', '.join(row.searched.ends)}" for row in rows if row.searched and row.searched.ends]
    if ends:
        lines.append(f"widen: the best setting lies at an end of its range, and a better one may lie beyond: "
                     f"{'; '.join(ends)}")
    idle = [row.name for row in rows if _did_nothing(row, rows)]
    if idle:
        lines.append("warning: did nothing, unlearn and retain accuracy and FT AUC are the original's: "
                     + ", ".join(idle))
    kept = [row.name for row in rows if row.name not in idle and _beside_original(keeps_accuracies, row, rows)]
    if kept:
        lines.append(f"unlearn and retain accuracy are the original's, FT AUC is not: {', '.join(kept)}")
    if seen := [note for row in rows if (note := _seen_through(row, rows[0]))]:
        lines.append(f"warning: an attacker who knows AMUN tells what was forgotten, by more than {SEEN:g} points: "
                     + "; ".join(seen))
    if (nearest := least(rows)) is not None:
        lines.append(f"least Avg. Gap: {nearest.name}")
    return lines + _tests(rows)


def _seen_through(row: Row, retrain: Row) -> str:
    """`amun with D_R (Boundary AUC 31.0)`: where the attack on AMUN itself finds more than in retrained models."""
    if row.settings is None or row.failed is not None:
        return ""
    shown = [f"{ATTACKS[term][0]} {row.summary[term].mean:.1f}" for term in ("boundary_auc", "adversarial_label_auc")
             if term in row.summary and abs(row.summary[term].mean - retrain.summary[term].mean) > SEEN]
    return f"{row.name} ({', '.join(shown)})" if shown else ""


def _tests(rows: Sequence[Row]) -> list[str]:
    """What the paired tests say; the differences themselves where there are too few cases for a test."""
    tested = [(row.name, row.against) for row in rows if row.against is not None]
    if not tested:
        return []
    cases, needed = min(against.found.n for _, against in tested), cases_needed(len(tested))
    reference = tested[0][1].reference.split()[0]
    if cases >= needed:
        same = [name for name, against in tested if not against.found.significant]
        return [f"not significantly different from {reference} with the same access, n.s. (paired over {cases} cases, "
                f"Wilcoxon and Student over random originals and sets, Holm over {len(tested)}, 5 %): "
                + (", ".join(same) or "none")]
    return [f"with {cases} cases no difference from {reference} can be significant in {len(tested)} test(s), which "
            f"takes {needed}. Avg. Gap less that of {reference} with the same access: "
            + "; ".join(f"{name} {_difference(against.found)}" for name, against in tested)]


def _difference(comparison: Comparison) -> str:
    """`+2.16 [0.50, 3.82] (91 %)`: the difference, its interval and the level of that."""
    if comparison.interval is None:
        return f"{comparison.difference:+.2f}"
    low, high, level = comparison.interval
    return f"{comparison.difference:+.2f} [{low:.2f}, {high:.2f}] ({100 * level:.0f} %)"


def results_json(rows: Sequence[Row]) -> bytes:
    """The content of `results.json`."""
    return json.dumps([row.as_json() for row in rows], indent=1, allow_nan=False).encode()
