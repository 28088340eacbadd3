"""The pictures of a sweep: which numbers go into which figure of `amun_ray.plots`, as PNG files by name."""

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from amun_ray import plots
from amun_ray.base.status import Status
from amun_ray.metrics import logit_scaled, roc
from amun_ray.metrics.rmia import scores as rmia_scores
from amun_ray.reporting.columns import shown_columns
from amun_ray.reporting.rows import Row, marks
from amun_ray.unlearn import Contender
from amun_ray.work.artifacts import read_logits
from amun_ray.work.evidence import Evidence
from amun_ray.work.trials import TERMS, Trial, curve
from amun_ray.work.units import Trained, Unlearned

OBJECTIVE = {("average_gap",): plots.GAP, ("proxy",): plots.PROXY, ("iam_gap",): plots.IAM,
             ("average_gap", "proxy"): f"mean of {plots.GAP} and {plots.PROXY}"}


def result_figures(rows: Sequence[Row]) -> Iterator[tuple[str, bytes]]:
    """The final table, as a table and as bars with the target lines."""
    marked = marks(rows)
    shown = [row.as_json() | _with_intervals(row) | {"note": marked.get(row.name)} for row in rows]
    metrics = [*shown_columns(rows[0].summary)]
    yield "figures/final_table.png", plots.png(plots.results_table(shown, metrics))
    yield "figures/final_comparison.png", plots.png(plots.comparison_bars(shown, metrics))
    if all("robust_accuracy" in row.summary for row in rows):  # what unlearning does to robustness
        yield "figures/robustness.png", plots.png(plots.comparison_bars(
            [row | row["attacks"] for row in shown], ["test_accuracy", "robust_accuracy"]))


def _with_intervals(row: Row) -> dict[str, dict[str, float]]:
    return {term: row.summary[term]._asdict() | interval._asdict() for term, interval in row.intervals.items()}


def search_figures(trials: Sequence[Trial], chosen: Sequence[Trial],
                   rows: Sequence[Row]) -> Iterator[tuple[str, bytes]]:
    """What the search saw: its objective against lr and epochs, and utility against privacy; `chosen` are marked."""
    marked = {(trial.contender, trial.number) for trial in chosen}
    points = [_named(trial) | {"lr": trial.settings.lr, "average_gap": trial.value, "gaps": curve(trial.result),
                               "chosen": (trial.contender, trial.number) in marked}
              | _at_best(trial) for trial in trials if trial.finished]
    baselines = {row.method: {term: summary.mean for term, summary in row.summary.items()}
                 for row in rows if row.settings is None}
    (label,) = {OBJECTIVE[tuple(term for term in TERMS if term in trial.result)] for trial in trials if trial.finished}
    yield "figures/search_lr.png", plots.png(plots.gap_against_lr(points, label=label))
    yield "figures/search_epochs.png", plots.png(plots.gap_against_epochs(points, label=label))
    yield "figures/search_trade_off.png", plots.png(
        plots.trade_off(points, original=baselines["original"], retrained=baselines["retrain"]))


def front_files(fronts: Mapping[Contender, Sequence[Trial]], best: Mapping[Contender, Trial]) -> dict[str, bytes]:
    """The Pareto front of every study, as a figure and as data; `chosen` marks the trial that goes to the finals."""
    points = [_named(trial) | trial.scores | {"number": trial.number, "chosen": trial is best[contender],
                                              "lr": trial.best.lr, "schedule": trial.best.schedule,
                                              "epochs": trial.best.epochs, "settings": trial.best.own}
              for contender, front in fronts.items() for trial in front]
    return {"figures/search_front.png": plots.png(plots.pareto_front(points)),
            "search_front.json": json.dumps(points, indent=1, allow_nan=False).encode()}


def _named(trial: Trial) -> dict[str, str]:
    return {"method": trial.contender.method, "access": trial.contender.access}


def _at_best(trial: Trial) -> dict[str, float]:
    return {term: float(np.mean([scores[term] for scores in trial.at_best]))
            for term in ("test_accuracy", "forget_test_auc")}


def attack_figures(columns: Mapping[str, np.ndarray]) -> Iterator[tuple[str, bytes]]:
    """Radius and distance of every adversarial example; `columns`: `eps`, `l2`, `status`, each (N,)."""
    flipped = columns["status"] == Status.FLIPPED
    counts = {status: int((columns["status"] == status).sum()) for status in Status}
    if flipped.any():
        yield "figures/adversaries_eps.png", plots.png(plots.eps_histogram(
            columns["eps"][flipped], already_wrong=counts[Status.ALREADY_WRONG], failed=counts[Status.FAILED]))
        yield "figures/adversaries_l2.png", plots.png(plots.l2_histogram(
            columns["l2"][columns["status"] != Status.FAILED]))


def evidence_figures(evidence: Evidence, original: Trained, retrained: Trained, unlearned: Sequence[Unlearned],
                     rows: Sequence[Row]) -> Iterator[tuple[str, bytes]]:
    """Confidence histograms and RMIA curves of the first final case, each method by its first run.

    Shown are the original, the retrained model, and for each access the method with the least Avg. Gap.
    """
    case, workspace, labels = unlearned[0].run.case, evidence.workspace, evidence.labels
    parts = workspace.split(case.rows, labels)
    first = {row.run.contender: row for row in unlearned
             if row.run.case is case and row.run.number == 0 and "failed" not in row.result}
    chosen = {contender: plots.row_name({"method": contender.method, "access": contender.access})
              for contender in _shown(rows) if contender in first}
    logits = {"Original": read_logits(workspace, original.unit, original.name),
              "Retrained": read_logits(workspace, retrained.unit, retrained.name)}
    logits |= {title: read_logits(workspace, first[contender].run.unit, str(contender))
               for contender, title in chosen.items()}

    def confidences(row: np.ndarray) -> dict[str, np.ndarray]:
        values = logit_scaled(row, labels)
        return {"retain": values[parts.retain], "forget": values[parts.forget], "test": values[parts.unseen]}

    yield "figures/confidence.png", plots.png(plots.confidence_histograms(
        {title: confidences(row) for title, row in logits.items()}))
    settings, curves = workspace.sweep.rmia, {}
    for title, row in logits.items():
        membership = rmia_scores(settings.confidence(row, labels), evidence.mean, gamma=settings.gamma)
        curves[title] = roc(membership[parts.forget], membership[parts.unseen])
    named = {title: {"method": contender.method, "access": contender.access} for contender, title in chosen.items()}
    yield "figures/rmia_roc.png", plots.png(plots.roc_curves(
        curves, title="RMIA: forgotten against unseen samples",
        rows={"Original": {"method": "original"}, "Retrained": {"method": "retrain"}} | named))


def _shown(rows: Sequence[Row]) -> list[Contender]:
    """The best method of each access by Avg. Gap."""
    gaps = {Contender(row.method, row.access): row.summary["average_gap"].mean for row in rows if row.access}
    best: dict[str, Contender] = {}
    for contender in sorted(gaps, key=gaps.__getitem__):
        best.setdefault(contender.access, contender)
    return [*best.values()]
