"""What a reviewer reads first on MLflow's page of a sweep: how far it is, and then its result, in Markdown."""

from collections.abc import Mapping, Sequence

from amun_ray.metrics import Summary
from amun_ray.reporting.columns import shown_columns, title
from amun_ray.reporting.rows import Row, least, notes
from amun_ray.reporting.tables import markdown_table
from amun_ray.work.trials import Trial
from amun_ray.work.units import Run

MEANING = {"unlearn_accuracy": "{} of the forgotten images are right",
           "test_accuracy": "{} of unseen images are right",
           "forget_test_auc": "the attack tells {} of pairs of a forgotten and an unseen image apart (50 is a guess)"}


def progress(stage: str, trials: Sequence[Trial], far: str = "") -> str:
    """While the sweep runs: the stage, how far it is, such as `3 of 12 trials`, and the best of `trials`."""
    best: dict[str, Trial] = {}
    for trial in sorted((trial for trial in trials if trial.finished), key=lambda trial: trial.value, reverse=True):
        best[title(*trial.contender)] = trial
    lines = [f"- {name}: {trial.value:.2f}, by trial {trial.number} (lr {trial.best.lr:.2e}, {trial.best.schedule}, "
             f"{trial.best.epochs} epochs)" for name, trial in sorted(best.items())]
    return "\n".join([f"**Running: {stage}**{far and f', {far}'}.",
                      *(["", "Best so far on the held-out forget sets:", "", *lines] if lines else [])])


def result(rows: Sequence[Row], links: Mapping[str, str], warnings: Sequence[str] = ()) -> str:
    """The result: one sentence what it means, warnings, the table, its notes, and `links`, text -> address."""
    remarks = [*warnings, *filter(None, notes(rows))]
    warned = [line for line in remarks if line.startswith("warning")]
    table = markdown_table([row.as_json() for row in rows], [line for line in remarks if line not in warned])
    pages = " | ".join(f"[{text}]({address})" for text, address in links.items())
    return "\n\n".join(filter(None, [headline(rows), *(f"**{line}**" for line in warned), pages, table]))


def headline(rows: Sequence[Row]) -> str:
    """Which method came nearest to retraining, how near, and what that means for the forgotten images."""
    best, base = least(rows), {row.method: row.summary for row in rows if row.settings is None and row.failed is None}
    if best is None:
        return "**No method came to a result.**"
    gap = {name: _number(summary["average_gap"]) for name, summary in {"best": best.summary, **base}.items()}
    terms = "; ".join(f"{text.format(f'{_number(best.summary[term])} %')} (original "
                      f"{_number(base['original'][term])}, retrained {_number(base['retrain'][term])})"
                      for term, text in MEANING.items())
    return (f"**{best.name} comes nearest to retraining, with an Avg. Gap of {gap['best']}.** Doing nothing has "
            f"{gap['original']}, and models that were retrained have {gap['retrain']} among themselves. After "
            f"{best.name} {terms}.")


def of_model(run: Run, scores: Mapping[str, float]) -> str:
    """What a version of a registered model is: what it has forgotten, and its scores."""
    return (f"{title(*run.contender)} has unlearned {len(run.case.rows)} images ({run.case.name}): "
            + ", ".join(f"{name} {scores[term]:.2f}" for term, name in shown_columns(scores).items()) + ".")


def _number(summary: Summary) -> str:
    return f"{summary.mean:.2f}"
