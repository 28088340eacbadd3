"""One sweep from its plan to its table: which models, sets and cases each stage gets, and what MLflow is told of it."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
import yaml

from amun_ray.config import Sweep
from amun_ray.data.splits import reference_halves
from amun_ray.errors import UserError
from amun_ray.metrics import GAP_TERMS, average_gap, reference_mean
from amun_ray.stages import figures, originals
from amun_ray.stages.adversaries import AdversarialSet, Target, adversarial_sets, numbers
from amun_ray.stages.cases import Case, Contender, Evidence
from amun_ray.stages.final import Unlearned, final_models
from amun_ray.stages.nodes import check_nodes
from amun_ray.stages.page import page
from amun_ray.stages.plan import Plan
from amun_ray.stages.progress import say
from amun_ray.stages.record import Record
from amun_ray.stages.report import Row, table, write_results
from amun_ray.stages.resources import Cluster, connect, slots, worker_options
from amun_ray.stages.search import best_settings
from amun_ray.stages.studies import Trial
from amun_ray.stages.workspace import Workspace
from amun_ray.store import Store, digest
from amun_ray.tracking import Tracker

Key = tuple[int, str]  # original, name of the forget set


@dataclass(frozen=True)
class Models:
    """Everything trained from scratch, and the evidence that rests on it."""

    originals: list[originals.Trained]
    retrained: dict[str, list[originals.Trained]]  # by forget set
    evidence: Evidence


@dataclass
class Experiment:
    """The state that the stages of one sweep share."""

    plan: Plan
    output: Path
    workspace: Workspace
    record: Record
    options: dict[str, float]  # of one worker
    workers: int
    cluster: Cluster
    seconds: dict[str, float] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)

    @classmethod
    @contextmanager
    def open(cls, plan: Plan, output: Path) -> Iterator["Experiment"]:
        """Check storage and MLflow, join or start Ray; on leaving, close the parent run with what became of it."""
        sweep = plan.sweep
        store = Store(sweep.storage or str(output.absolute() / "store"))
        server = sweep.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or None  # setup_node.sh sets it
        if server is None:  # the database goes into the folder; a server is asked before it is made
            _check_folder(output)
        tracker = Tracker(server or f"sqlite:///{output.absolute() / 'mlflow.db'}",
                          sweep.tracking.experiment or sweep.name,
                          None if server else (output.absolute() / "mlartifacts").as_uri())
        _check_folder(output)
        store.check_writable()
        cluster = connect()
        say(str(cluster))
        check_nodes(store)
        options = worker_options(sweep.resources, cluster)
        workspace = Workspace.open(sweep, store, plan.dataset)
        parent = tracker.sweep(_key(sweep, workspace), f"sweep {sweep.name}", _flat(sweep.model_dump(mode="json")))
        status = "FAILED"
        try:
            yield cls(plan, output, workspace, Record(tracker, parent, workspace), options, slots(options, cluster),
                      cluster)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            tracker.close(parent, status)
            ray.shutdown()

    def train(self) -> Models:
        """Stage 1: originals, models retrained without each forget set, references; then what RMIA measures against."""
        with self._stage("1/5 models"):
            space, sweep = self.workspace, self.plan.sweep
            first = originals.original_trainings(space)
            sets = {name: rows for _, name, rows in [*self.plan.held_out, *self.plan.final]}
            counts = {name: sweep.held_out.originals if name.startswith("held_out") else sweep.originals.count
                      for name in sets}
            retrained = {name: originals.retrained_trainings(space, name, rows, counts[name])
                         for name, rows in sets.items()}
            halves = reference_halves(space.size, sweep.references.count, sweep.seed)
            references = originals.reference_trainings(space, halves)
            trainings = [*first, *(one for group in retrained.values() for one in group), *references]
            made = iter(originals.train_models(space, trainings, self.options, self.workers))
            return Models([next(made) for _ in first],
                          {name: [next(made) for _ in group] for name, group in retrained.items()},
                          self._evidence(list(made), halves))

    def attack(self, models: Models) -> dict[Key, AdversarialSet]:
        """Stage 2: the adversarial sets of every original and forget set."""
        with self._stage("2/5 adversarial sets"):
            targets = [Target(models.originals[k], name, rows)
                       for k, name, rows in [*self.plan.held_out, *self.plan.final]]
            made = adversarial_sets(self.workspace, targets, self.options, self.workers)
            for target, one in zip(targets, made, strict=True):
                self.record.adversarial(target, one)
            flipped = np.mean([100 - one.report["failed_percent"] for one in made])
            say(f"  {flipped:.1f} % have an adversarial example")
            return {(k, name): one for (k, name, _), one in
                    zip([*self.plan.held_out, *self.plan.final], made, strict=True)}

    def search(self, models: Models, sets: Mapping[Key, AdversarialSet]) -> dict[Contender, Trial]:
        """Stage 3: the best settings of every method, on the held-out forget sets alone."""
        with self._stage("3/5 search"):
            cases = self._cases(models, sets, list(self.plan.held_out))

            def finished(trial: Trial) -> None:
                self.trials.append(trial)
                self.record.trial(trial, cases)
            best = best_settings(self.workspace, cases, self.options, self.workers, finished)
            for contender, trial in best.items():
                say(f"  {contender}: lr {trial.best.lr:.2e}, {trial.best.schedule}, {trial.best.epochs} epochs, "
                    f"Avg. Gap {trial.gap:.2f}")
            return best

    def final(self, models: Models, sets: Mapping[Key, AdversarialSet],
              best: Mapping[Contender, Trial]) -> list[Unlearned]:
        """Stage 4: the best settings on the forget sets that count, several seeds each."""
        with self._stage("4/5 final forget sets"):
            settings = {contender: trial.best for contender, trial in best.items()}
            return final_models(self.workspace, settings, self._cases(models, sets, list(self.plan.final)),
                               self.options, self.workers)

    def report(self, models: Models, sets: Mapping[Key, AdversarialSet],
               unlearned: Sequence[Unlearned]) -> None:
        """Stage 5: every final model in MLflow, the table, results.json, the figures; and how to look at all of it."""
        with self._stage("5/5 report"):
            rows = [*self._baselines(models), *self._contenders(unlearned)]
            path, text = write_results(rows, self.output), table(rows)
            drawn = dict(self._figures(models, sets, unlearned, rows))
            html = page(self.plan, rows, drawn, seconds=self.seconds, cluster=str(self.cluster))
            (self.output / "report.html").write_bytes(html)
            self.record.files({"results.json": path.read_bytes(), "table.txt": text.encode(), "report.html": html,
                               "config.yaml": yaml.safe_dump(self.plan.sweep.model_dump(mode="json")).encode()} | drawn)
        self.record.cost(self.seconds)
        say(f"\n{text}\n\nresults: {path}\nreport:  {self.output / 'report.html'}\n"
            f"MLflow:  {self.record.tracker.how_to_open}")

    def _contenders(self, unlearned: Sequence[Unlearned]) -> Iterator[Row]:
        """One row for each (method, access): the scores of its runs, and where MLflow has them."""
        groups: dict[Contender, list[Unlearned]] = {}
        for one in unlearned:
            groups.setdefault(one.run.contender, []).append(one)
        for contender, runs in groups.items():
            run_ids = [self.record.unlearned(one) for one in runs]
            sound = [one for one in runs if "failed" not in one.result]
            yield Row(*contender, runs[0].run.settings, [one.result["scores"] for one in sound],
                      [(one.run.case.original, one.run.case.name) for one in sound], run_ids)

    def _figures(self, models: Models, sets: Mapping[Key, AdversarialSet],
                 unlearned: Sequence[Unlearned], rows: Sequence[Row]) -> Iterator[tuple[str, bytes]]:
        yield from figures.result_figures(rows)
        yield from figures.search_figures(self.trials, rows)
        read = [numbers(self.workspace.store, made) for made in sets.values()]
        yield from figures.attack_figures({key: np.concatenate([one[key] for one in read]) for key in read[0]})
        first = unlearned[0].run.case
        yield from figures.evidence_figures(models.evidence, models.originals[first.original],
                                            models.retrained[first.name][first.original], unlearned, rows)

    def _evidence(self, references: list[originals.Trained], halves: np.ndarray) -> Evidence:
        labels = self.plan.dataset.labels
        mean = reference_mean(originals.stream_logits(self.workspace.store, references), labels,
                              settings=self.plan.sweep.rmia, members=halves)
        return Evidence(self.workspace, labels, mean, ray.put(mean), digest(mean.tobytes()))

    def _cases(self, models: Models, sets: Mapping[Key, AdversarialSet],
               wanted: Sequence[tuple[int, str, np.ndarray]]) -> list[Case]:
        return [Case.open(self.workspace, k, models.originals[k], name, rows, made=sets[k, name],
                          retrained=models.retrained[name], evidence=models.evidence) for k, name, rows in wanted]

    def _baselines(self, models: Models) -> Iterator[Row]:
        """The retrained row, which is the target, and the original row, which shows what doing nothing scores."""
        sets = {name: rows for _, name, rows in self.plan.final}
        for method in ("retrain", "original"):
            scores, cases, run_ids = [], [], []
            for name, rows in sets.items():
                made = models.retrained[name] if method == "retrain" else models.originals
                retrained = self._scored(models, models.retrained[name], rows)
                target = {term: float(np.mean([one[term] for one in retrained])) for term in GAP_TERMS}
                for k, one in enumerate(self._scored(models, made, rows)):
                    one["average_gap"] = average_gap(target if method == "retrain" else one, target)
                    tags = {"stage": "originals", "method": method, "forget_set": name, "original": k}
                    scores.append(one)
                    cases.append((k, name))
                    run_ids.append(self.record.scratch_model(made[k], tags, one))
            yield Row(method, None, None, scores, cases, run_ids)

    def _scored(self, models: Models, made: Sequence[originals.Trained], rows: np.ndarray) -> list[dict[str, float]]:
        return [models.evidence.scores(logits, rows)
                for logits in originals.stream_logits(self.workspace.store, made)]

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        say(f"[{name}]")
        started = time.monotonic()
        yield
        self.seconds[name.partition(" ")[2].replace(" ", "_")] = time.monotonic() - started


def _check_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe = output / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(f"--output {output}: not writable: {error}") from error


def _key(sweep: Sweep, workspace: Workspace) -> str:
    """What makes two starts the same sweep: everything but where it runs and where it writes."""
    settings = sweep.model_dump(mode="json", exclude={"storage", "tracking", "resources"})
    return digest({"sweep": settings, "dataset": workspace.data_digest})


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `key.path` -> value."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
