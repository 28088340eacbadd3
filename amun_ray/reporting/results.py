"""All that a sweep found, gathered into rows, files and figures, and told to MLflow.

Cost, on the driver: every attack on every final model, from predictions that are stored (see `work.audit`), and a dozen
figures, whatever the number of devices.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import yaml

from amun_ray.metrics import Summary
from amun_ray.reporting import figures
from amun_ray.reporting.costs import SweepCosts
from amun_ray.reporting.finding import Finding
from amun_ray.reporting.page import page
from amun_ray.reporting.record import Record
from amun_ray.reporting.rows import Row, Searched, compared, notes, results_json
from amun_ray.reporting.tables import markdown_table, text_table
from amun_ray.storage.store import Store
from amun_ray.unlearn import Contender
from amun_ray.work import bounded
from amun_ray.work.artifacts import numbers, stream_logits
from amun_ray.work.audit import Audit
from amun_ray.work.evidence import Models
from amun_ray.work.plan import Plan
from amun_ray.work.trials import Trial
from amun_ray.work.units import AdversarialSet, ForgetCase, Hyperparameters, Unlearned

WRITTEN = "results.json", "table.md", "report.html"  # next to the store; MLflow gets these and more
Probe = Callable[[str | None, str, int], dict[str, float]]  # weights, forget set, original -> what probes read
Shadowed = Mapping[Contender, Mapping[str, Summary]]  # U-LiRA of each contender


@dataclass(frozen=True)
class Results:
    """Everything that the stages before the report have made, and the record of it."""

    plan: Plan
    models: Models
    drawn: Mapping[str, bytes]  # figures that were drawn before, by name
    trials: Sequence[Trial]
    unlearned: Sequence[Unlearned]
    lost: Mapping[Contender, str]  # for which no setting worked, with the reason
    record: Record
    probe: Probe
    shadows: Shadowed
    found: Finding | None = None  # of the config's study

    @cached_property
    def attacks(self) -> Audit:
        """The attacks on the final models."""
        return Audit(self.models, {case.name: case.rows for case in self.plan.final})

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of the table; making them logs every final model in MLflow."""
        return compared([*self._baselines(), *self._contenders()], self.plan.sweep.reference,
                        self.plan.sweep.final.compared)

    @property
    def text(self) -> str:
        """The table as the command prints it."""
        text = f"{text_table(self.rows)}\n{self.plan.searched}"
        return f"{text}\n\n{self.found.text}" if self.found else text

    def files(self, costs: SweepCosts) -> dict[str, bytes]:
        """Everything to be kept, by its name: tables, page, config and figures."""
        drawn = dict(self._figures()) | (self.found.pictures if self.found else {})
        costs.attacks = self.attacks.seconds
        layers = bounded.by_layer(self.models.evidence.workspace.store, self.models, self.unlearned)
        html = page(self.plan, self.rows, drawn, costs=costs, environment=self.record.environment, layers=layers,
                    found=self.found)
        markdown = markdown_table([row.as_json() for row in self.rows], notes(self.rows))
        return {"results.json": results_json(self.rows), "table.txt": self.text.encode(),
                "table.md": markdown.encode(), "report.html": html,
                "config.yaml": yaml.safe_dump(self.plan.sweep.model_dump(mode="json")).encode(),
                **(self.found.files if self.found else {}),
                **({"singular_values.json": json.dumps(layers, indent=1).encode()} if layers else {})} | drawn

    def log(self, files: Mapping[str, bytes], costs: SweepCosts) -> dict[str, str]:
        """Tell MLflow of the table, the files and the costs; returns text -> address of the pages to look at."""
        self.record.cost(costs)
        return self.record.results(self.rows, files, self.plan.warnings)

    def _baselines(self) -> Iterator[Row]:
        """The retrained row, which is the target, and the original row, which shows what doing nothing scores."""
        attacks, models, workspace = self.attacks, self.models, self.models.evidence.workspace
        cases = [ForgetCase(k, name, rows) for name, rows in attacks.sets.items() for k in range(len(models.originals))]
        logits = list(stream_logits(workspace, models.originals))
        floor = attacks.retrained_together()
        kept = attacks.together({name: [(each.unit, each.name) for each in models.originals] for name in attacks.sets})
        scored: dict[str, list[dict[str, float]]] = {
            "retrain": [attacks.retrained_scores(case.name, case.original) | floor[case.name] for case in cases],
            "original": [attacks.scores(logits[case.original], *case.key[::-1]) | kept[case.name] for case in cases]}
        for method, scores in scored.items():
            by_name = models.retrained if method == "retrain" else dict.fromkeys(models.retrained, models.originals)
            scores = [score | self.probe(by_name[case.name][case.original].weights, case.name, case.original)
                      for case, score in zip(cases, scores, strict=True)]
            run_ids = [self.record.scratch_model(by_name[case.name][case.original], method, case, score)
                       for case, score in zip(cases, scores, strict=True)]
            yield Row(method, None, None, scores, [case.key for case in cases], _known(run_ids),
                      shadows=self.shadows.get(Contender(method, ""), {}))

    def _trial(self, contender: Contender, settings: Hyperparameters) -> Trial:
        """The trial by which the search came to the settings of a contender."""
        return min((trial for trial in self.trials if trial.contender == contender and trial.finished
                    and trial.best == settings), key=lambda trial: trial.value)

    def _contenders(self) -> Iterator[Row]:
        """One row for each (method, access): the scores of its runs, and where MLflow has them.

        The first sound run of a method is registered. The final scores choose nothing: whoever takes the best of
        several runs by them reports how lucky it was.
        """
        sound = [model for model in self.unlearned if "failed" not in model.result]
        scored = {model.run.unit.digest: scores | self.probe(
            model.result["weights"], model.run.case.name, model.run.case.original)
                 for model, scores in zip(sound, self.attacks.every(sound), strict=True)}
        groups: dict[Contender, list[Unlearned]] = {}
        for model in self.unlearned:
            groups.setdefault(model.run.contender, []).append(model)
        for contender, runs in groups.items():
            scores = {model.run.unit.digest: scored[model.run.unit.digest] for model in runs
                      if "failed" not in model.result}
            first, trial = next(iter(scores), None), self._trial(contender, runs[0].run.settings)
            run_ids = [self.record.unlearned(model, scores.get(model.run.unit.digest),
                                             chosen=trial if model.run.unit.digest == first else None)
                       for model in runs]
            yield Row(*contender, runs[0].run.settings, list(scores.values()),
                      [model.run.case.key for model in runs if model.run.unit.digest in scores], _known(run_ids),
                      failed=None if scores else runs[0].result["failed"], shadows=self.shadows.get(contender, {}),
                      searched=Searched.of(trial, self.plan.sweep.space(contender), self.plan.sweep.search.epochs))
        for contender, reason in self.lost.items():
            yield Row(*contender, None, [], [], [], failed=reason)

    def _figures(self) -> Iterator[tuple[str, bytes]]:
        models, rows = self.models, [row for row in self.rows if row.failed is None]
        yield from figures.result_figures(rows)
        chosen = [self._trial(Contender(row.method, row.access), row.settings) for row in self.rows
                  if row.access is not None and row.settings is not None]
        yield from figures.search_figures(self.trials, chosen, rows)
        yield from self.drawn.items()
        first = self.unlearned[0].run.case
        yield from figures.evidence_figures(models.evidence, models.originals[first.original],
                                            models.retrained[first.name][first.original], self.unlearned, rows)


def attacks_drawn(store: Store, sets: Iterable[AdversarialSet]) -> dict[str, bytes]:
    """The figures of the adversarial sets."""
    read = [numbers(store, adversaries) for adversaries in sets]
    columns = {key: np.concatenate([each[key] for each in read]) for key in read[0]}
    return dict(figures.attack_figures(columns))


def _known(run_ids: Sequence[Any]) -> list[str]:
    """Those that MLflow has given; a run that waits in the spool has none yet."""
    return [run for run in run_ids if run is not None]
