"""One sweep from its plan to its table: which models, sets and cases each stage gets, and what MLflow is told of it."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import ray
import yaml

from amun_ray.base.errors import UserError
from amun_ray.base.files import write_whole
from amun_ray.base.progress import say
from amun_ray.metrics import reference_mean
from amun_ray.reporting import figures
from amun_ray.reporting.costs import Costs
from amun_ray.reporting.page import page
from amun_ray.reporting.paper import keep_rows
from amun_ray.reporting.record import Record
from amun_ray.reporting.rows import Row, data_frame, notes, table, write_results
from amun_ray.reporting.tables import results_table
from amun_ray.runtime.bench import Workspace
from amun_ray.runtime.cluster import Cluster, check_concurrent, connect, slots, worker_options
from amun_ray.runtime.environment import environment
from amun_ray.runtime.nodes import check_nodes, own_modules
from amun_ray.stages import originals
from amun_ray.stages.adversaries import AdversarialSet, Target, adversarial_sets, numbers
from amun_ray.stages.cases import Case, Contender, Evidence
from amun_ray.stages.final import Unlearned, final_models
from amun_ray.stages.search import best_settings, packed
from amun_ray.storage.leases import announced, claim
from amun_ray.storage.sharing import hold
from amun_ray.storage.store import Store, digest
from amun_ray.tracking import Tracker
from amun_ray.work.audit import Audit
from amun_ray.work.changes import changes
from amun_ray.work.plan import Plan
from amun_ray.work.trials import Trial

Key = tuple[int, str]  # original, name of the forget set
SCORES = {"average_gap": "Avg. Gap", "proxy": "proxy"}
NO_GAP = {"average_gap": 0.0, "average_gap_mis": 0.0}  # of the retrained row, which is what gaps are measured to


@dataclass(frozen=True)
class Models:
    """Everything trained from scratch, and the evidence that rests on it."""

    originals: list[originals.Trained]
    retrained: dict[str, list[originals.Trained]]  # by forget set
    references: list[originals.Trained]
    halves: np.ndarray  # (references, N) bool: on which samples each was trained
    evidence: Evidence


@dataclass
class Experiment:
    """The state that the stages of one sweep share."""

    plan: Plan
    output: Path
    workspace: Workspace
    record: Record
    options: dict[str, float]  # of one worker
    workers: int  # as many as the cluster has room for at the start
    cluster: Cluster
    costs: Costs
    trials: list[Trial] = field(default_factory=list)

    @classmethod
    @contextmanager
    def open(cls, plan: Plan, output: Path) -> Iterator["Experiment"]:
        """Check storage and MLflow, join or start Ray; on leaving, close the parent run with what became of it."""
        sweep, store = plan.sweep, plan.store(output)
        own = Store(str(output.absolute() / "store"), store.owner)  # the same, unless the config names a storage
        server = sweep.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or None  # setup_node.sh sets it
        track = partial(Tracker, server or f"sqlite:///{output.absolute() / 'mlflow.db'}",
                        sweep.tracking.experiment or sweep.name,
                        None if server else (output.absolute() / "mlartifacts").as_uri(),
                        spool=output.absolute() / "mlflow_spool", say=say)
        tracker = track() if server else None  # a server is asked before a folder is made
        _check_folder(output)
        store.check_writable()
        with ExitStack() as leave:
            for place in {store.uri: store, own.uri: own}.values():
                leave.enter_context(announced(place))
            hold(own, "output", f"--output {output}")
            tracker = tracker or track()
            leave.callback(ray.shutdown)
            cluster = connect()
            say(str(cluster))
            check_nodes(store, own_modules(sweep))
            options = worker_options(sweep.resources, cluster)
            workers = slots(options, cluster)
            if sweep.resources.gpus != "auto":  # how many trials fit is not known before one was measured
                check_concurrent(sweep.search.concurrent, workers)
            for line in changes(sweep, output):
                say(line)
            workspace = Workspace.open(sweep, store, plan.dataset)
            record = Record.open(tracker, _run_key(plan, store, tracker), workspace, environment(str(cluster)))
            status = "FAILED"
            try:
                yield cls(plan, output, workspace, record, options, workers, cluster, Costs.of(options))
                status = "FINISHED"
            except KeyboardInterrupt:
                status = "KILLED"
                raise
            finally:
                record.close(status)

    def train(self) -> Models:
        """Stage 1: originals, models retrained without each forget set, references; then what RMIA measures against."""
        with self._stage("1/5 models"):
            wanted = originals.wanted_trainings(self.workspace, self.plan)
            made = iter(originals.train_models(self.workspace, wanted.every, self.options))
            first = [next(made) for _ in wanted.originals]
            retrained = {name: [next(made) for _ in group] for name, group in wanted.retrained.items()}
            references = list(made)
            for work, models in (("originals", first), ("retrained", [*chain(*retrained.values())]),
                                 ("references", references)):
                for one in models:
                    self.costs.add(work, one.seconds, reused=one.reused)
            return Models(first, retrained, references, wanted.halves, self._evidence(references, wanted.halves))

    def attack(self, models: Models) -> dict[Key, AdversarialSet]:
        """Stage 2: the adversarial sets of every original and forget set."""
        with self._stage("2/5 adversarial sets"):
            targets = [Target(models.originals[k], name, rows)
                       for k, name, rows in [*self.plan.held_out, *self.plan.final]]
            made = adversarial_sets(self.workspace, targets, self.options, self.workers)
            for target, one in zip(targets, made, strict=True):
                self.record.adversarial(target, one)
            for one in {one.unit.digest: one for one in made}.values():
                self.costs.add("adversarial_sets", one.seconds, reused=one.reused)
            flipped = np.mean([100 - one.report["failed_percent"] for one in made])
            say(f"  {flipped:.1f} % have an adversarial example")
            return {(k, name): one for (k, name, _), one in
                    zip([*self.plan.held_out, *self.plan.final], made, strict=True)}

    def search(self, models: Models, sets: Mapping[Key, AdversarialSet]) -> dict[Contender, Trial]:
        """Stage 3: the best settings of every method, on the held-out forget sets alone."""
        with self._stage("3/5 search"):
            cases = self._cases(models, sets, list(self.plan.held_out))

            def finished(trial: Trial, stored: bool) -> None:
                self.trials.append(trial)
                self.record.trial(trial, cases)
                self.costs.add("search", trial.result.get("seconds", 0.0), reused=stored)

            options = packed(self.workspace, cases, self.options)
            sweep = self.plan.sweep  # Ray runs as many of what can be suggested as it has room for, also on late nodes
            at_once = sweep.search.concurrent or len(sweep.contenders) * sweep.search.together
            found = best_settings(self.workspace, cases, options, at_once, finished)
            for contender, trial in found.best.items():
                said = ", ".join(f"{SCORES[term]} {value:.2f}" for term, value in trial.scores.items())
                say(f"  {contender}: lr {trial.best.lr:.2e}, {trial.best.schedule}, {trial.best.epochs} epochs, {said}")
            if len(self.plan.sweep.search.terms) > 1:
                self.record.files(figures.front_files(found.fronts, found.best))
            return found.best

    def final(self, models: Models, sets: Mapping[Key, AdversarialSet],
              best: Mapping[Contender, Trial]) -> list[Unlearned]:
        """Stage 4: the best settings on the forget sets that count, several seeds each."""
        with self._stage("4/5 final forget sets"):
            settings = {contender: trial.best for contender, trial in best.items()}
            made = final_models(self.workspace, settings, self._cases(models, sets, list(self.plan.final)),
                                self.options)
            for one in made:
                self.costs.add("final", one.result.get("seconds", 0.0), reused=one.reused)
            return made

    def report(self, models: Models, sets: Mapping[Key, AdversarialSet],
               unlearned: Sequence[Unlearned]) -> list[dict[str, Any]]:
        """Stage 5: every final model in MLflow, the table, results.json, the figures; and how to look at all of it.

        Returns the rows as in results.json; the store keeps them too, so that a finished sweep can be shown again.
        """
        with self._stage("5/5 report"):
            attacks = Audit.open(models.evidence, models.references, models.halves, retrained=models.retrained,
                                 sets={name: rows for _, name, rows in self.plan.final})
            rows = [*self._baselines(models, attacks), *self._contenders(unlearned, attacks)]
            path, text = write_results(rows, self.output), f"{table(rows)}\n{self.plan.searched}"
            drawn = dict(self._figures(models, sets, unlearned, rows))
            html = page(self.plan, rows, drawn, costs=self.costs, environment=self.record.environment)
            write_whole(self.output / "report.html", html)
            made = [row.as_json() for row in rows]
            pasted = results_table(made, notes(rows)).encode()
            write_whole(self.output / "table.md", pasted)
            keep_rows(self.plan, self.workspace.store, made)
            self.record.results(data_frame(rows), {
                "results.json": path.read_bytes(), "table.txt": text.encode(), "table.md": pasted, "report.html": html,
                "config.yaml": yaml.safe_dump(self.plan.sweep.model_dump(mode="json")).encode()} | drawn)
        self.record.cost(self.costs)
        say(f"\n{text}\n\nresults: {path}\nreport:  {self.output / 'report.html'}\n"
            f"MLflow:  {self.record.tracker.how_to_open}")
        return made

    def _baselines(self, models: Models, attacks: Audit) -> Iterator[Row]:
        """The retrained row, which is the target, and the original row, which shows what doing nothing scores."""
        cases = [(k, name) for name in attacks.sets for k in range(len(models.originals))]
        logits = list(originals.stream_logits(self.workspace, models.originals))
        scored = {"retrain": [attacks.retrained[name][k] | NO_GAP for k, name in cases],
                  "original": [attacks.scores(logits[k], name) for k, name in cases]}
        for method, scores in scored.items():
            made = [models.retrained[name][k] if method == "retrain" else models.originals[k] for k, name in cases]
            run_ids = [self.record.scratch_model(model, method, case, one)
                       for model, case, one in zip(made, cases, scores, strict=True)]
            yield Row(method, None, None, scores, cases, known(run_ids))

    def _contenders(self, unlearned: Sequence[Unlearned], attacks: Audit) -> Iterator[Row]:
        """One row for each (method, access): the scores of its runs, and where MLflow has them."""
        groups: dict[Contender, list[Unlearned]] = {}
        for one in unlearned:
            groups.setdefault(one.run.contender, []).append(one)
        for contender, runs in groups.items():
            scores = {one.run.unit.digest: attacks.scores(
                originals.read_logits(self.workspace, one.run.unit, str(contender)), one.run.case.name)
                for one in runs if "failed" not in one.result}
            best = min(scores, key=lambda digest: scores[digest]["average_gap"])
            run_ids = [self.record.unlearned(one, scores.get(one.run.unit.digest), best=one.run.unit.digest == best)
                       for one in runs]
            yield Row(*contender, runs[0].run.settings, list(scores.values()),
                      [(one.run.case.original, one.run.case.name) for one in runs if one.run.unit.digest in scores],
                      known(run_ids))

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
        mean = reference_mean(originals.stream_logits(self.workspace, references), labels,
                              settings=self.plan.sweep.rmia, members=halves)
        return Evidence(self.workspace, labels, mean, ray.put(mean), digest(mean.tobytes()))

    def _cases(self, models: Models, sets: Mapping[Key, AdversarialSet],
               wanted: Sequence[tuple[int, str, np.ndarray]]) -> list[Case]:
        return [Case.open(k, Target(models.originals[k], name, rows), sets[k, name], models.retrained.get(name, ()),
                          models.evidence) for k, name, rows in wanted]

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        say(f"[{name}]")
        started = time.monotonic()
        yield
        self.costs.stages[name.partition(" ")[2].replace(" ", "_")] = time.monotonic() - started


def known(run_ids: Sequence[str | None]) -> list[str]:
    """Those that MLflow has given; a run that waits in the spool has none yet."""
    return [run for run in run_ids if run is not None]


def _check_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        probe = output / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(f"--output {output}: not writable: {error}") from error


def _run_key(plan: Plan, store: Store, tracker: Tracker) -> str:
    """The key of the parent run: the same for every start of a sweep, so that each goes on with the run of the last.

    Of two that are at the same sweep at the same time, the second gets a run of its own.
    """
    key = digest(plan.identity)
    alone = claim(store, f"run-{key}-{digest(tracker.uri.encode())}")
    return key if alone else f"{key}-{digest(store.owner.encode())}"
