"""One sweep from its plan to its table: which models, sets and cases each stage gets, and what is logged in MLflow."""

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import ray

from amun_ray.base.errors import UserError
from amun_ray.base.files import make_private, write_whole
from amun_ray.base.log import Unread, say
from amun_ray.base.progress import watched
from amun_ray.reporting.columns import SCORES
from amun_ray.reporting.costs import SweepCosts
from amun_ray.reporting.figures import front_files
from amun_ray.reporting.finding import Finding
from amun_ray.reporting.paper import keep_rows
from amun_ray.reporting.record import Record
from amun_ray.reporting.results import Probe, Results, Shadowed
from amun_ray.runtime.bench import SharedWorkspace
from amun_ray.runtime.cluster import Cluster, check_concurrent, connect, slots, worker_options
from amun_ray.runtime.environment import environment
from amun_ray.runtime.key import share_key
from amun_ray.runtime.losses import in_one_line
from amun_ray.runtime.neighbours import Neighbours
from amun_ray.runtime.nodes import check_nodes, own_modules
from amun_ray.stages.adversaries import adversarial_sets
from amun_ray.stages.cases import open_cases
from amun_ray.stages.final import final_models
from amun_ray.stages.originals import train_models
from amun_ray.stages.probes import Probes
from amun_ray.stages.search import best_settings, packed
from amun_ray.stages.shadows import Shadows
from amun_ray.storage.leases import announced, claim
from amun_ray.storage.sharing import hold
from amun_ray.storage.store import Store, digest
from amun_ray.tracking import ARTIFACTS, Tracker, database_uri
from amun_ray.unlearn import Contender
from amun_ray.work import accuracies
from amun_ray.work.artifacts import read_logits
from amun_ray.work.changes import changes
from amun_ray.work.evidence import Evidence, Models
from amun_ray.work.plan import Plan
from amun_ray.work.trainings import settled, wanted_trainings
from amun_ray.work.trials import Trial
from amun_ray.work.units import AdversarialSet, Target, Training, Unlearned

Key = tuple[int, str]  # original, name of the forget set
OF_RAY = re.compile(r"working_dir_files$|session_\d{4}-\d\d-\d\d_")  # folders that Ray makes for jobs and for itself
FIRST = {"store", "requests", "ledger.db", "ledger.anchor"}  # may be in an output folder before its first sweep
WRITTEN = ("results.json", "table.md", "report.html")  # next to the store; MLflow gets these and more


@dataclass
class Experiment:
    """The state that the stages of one sweep share."""

    plan: Plan
    output: Path
    workspace: SharedWorkspace
    record: Record
    options: dict[str, float]  # of one worker
    workers: int  # as many as fit in the cluster at the start
    cluster: Cluster
    costs: SweepCosts
    trials: list[Trial] = field(default_factory=list)
    lost: dict[Contender, str] = field(default_factory=dict)  # those for which no setting worked, with the reason

    @classmethod
    @contextmanager
    def open(cls, plan: Plan, output: Path) -> Iterator["Experiment"]:
        """Check storage and MLflow, join or start Ray; on exit, close the parent run with its final status."""
        sweep, store = plan.sweep, plan.store(output)
        own = Store(str(output.absolute() / "store"), store.owner)  # is `store` unless the config names a storage
        server = sweep.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or None  # setup_node.sh sets it
        track = partial(Tracker, server or database_uri(output.absolute() / "mlflow.db"),
                        sweep.tracking.experiment or sweep.name,
                        None if server else (output.absolute() / ARTIFACTS).as_uri(),
                        spool=output.absolute() / "mlflow_spool", say=say)
        tracker = track() if server else None  # contact a server before creating a folder
        _check_folder(output)
        store.check_writable()
        with ExitStack() as leave, in_one_line():
            for place in {store.uri: store, own.uri: own}.values():
                leave.enter_context(announced(place))
            hold(own, "output", f"--output {output}")
            tracker = tracker or track()
            if not ray.is_initialized():  # leave a caller's Ray alone
                leave.callback(ray.shutdown)
            cluster = connect()
            say(str(cluster))
            leave.enter_context(Neighbours.beside(cluster))
            check_nodes(store, own_modules(sweep))
            options = worker_options(sweep.resources, cluster)
            workers = slots(options, cluster)
            if sweep.resources.gpus != "auto":  # with auto, how many trials fit is unknown until one was measured
                check_concurrent(sweep.search.concurrent, workers)
            for line in changes(sweep, output):
                say(line)
            workspace = SharedWorkspace.open(sweep, share_key(store), plan.dataset, plan.start)
            record = Record.open(tracker, _run_key(plan, store, tracker), workspace, environment(str(cluster)))
            status = "FAILED"
            try:
                yield cls(plan, output, workspace, record, options, workers, cluster, SweepCosts())
                status = "FINISHED"
            except (KeyboardInterrupt, Unread):
                status = "KILLED"
                raise
            finally:
                record.close(status)

    def train(self) -> Models:
        """Stage 1: originals, models retrained without each forget set, references; then RMIA's reference means.

        Each original's accuracy is printed as soon as it exists; loaded ones exist before any training. Where reference
        models say what is forgotten, they are trained before the retrained ones.
        """
        with self.stage("1/5 models"):
            wanted = wanted_trainings(self.workspace, self.plan)

            def over(training: Training) -> None:
                if training in wanted.originals:
                    logits = read_logits(self.workspace, training.unit(self.workspace), training.name)
                    for line in accuracies.describe(self.plan, training, logits.__getitem__):
                        say(line)

            train = partial(train_models, self.workspace, options=self.options, over=over)
            originals = train(wanted.originals) if self.plan.checkpoints else []
            references = train(wanted.references) if self.plan.waits else []
            if self.plan.waits:
                said, self.plan = self.plan.warnings, settled(self.plan, self.workspace.store)
                for line in (*self.plan.choice, *(f"  {each}" for each in self.plan.warnings if each not in said)):
                    say(line)
                wanted = wanted_trainings(self.workspace, self.plan)
            retrained_without = chain.from_iterable(wanted.retrained.values())
            trained = iter(train([*(() if originals else wanted.originals), *retrained_without,
                                  *(() if references else wanted.references)]))
            originals = originals or [next(trained) for _ in wanted.originals]
            retrained = {name: [next(trained) for _ in group] for name, group in wanted.retrained.items()}
            references = references or list(trained)
            for work, models in (("originals", originals), ("retrained", chain.from_iterable(retrained.values())),
                                 ("references", references)):
                for model in models:
                    self.costs.add(work, model.seconds, self.options, reused=model.reused)
            evidence = Evidence.of(self.workspace, self.plan.dataset.labels, references, wanted.halves)
            return Models(originals, retrained, references, wanted.halves, evidence)

    def attack(self, models: Models) -> dict[Key, AdversarialSet]:
        """Stage 2: the adversarial sets of every original and forget set."""
        with self.stage("2/5 adversarial sets"):
            cases = self.plan.cases
            targets = [Target(models.originals[case.original], case.name, case.rows) for case in cases]
            sets = adversarial_sets(self.workspace, targets, self.options, self.workers)
            for target, adversaries in zip(targets, sets, strict=True):
                self.record.adversarial(target, adversaries)
            for adversaries in {each.unit.digest: each for each in sets}.values():
                self.costs.add("adversarial_sets", adversaries.seconds, self.options, reused=adversaries.reused)
            flipped = np.mean([100 - adversaries.report["failed_percent"] for adversaries in sets])
            say(f"  {flipped:.1f} % have an adversarial example")
            return {case.key: adversaries for case, adversaries in zip(cases, sets, strict=True)}

    def search(self, models: Models, sets: Mapping[Key, AdversarialSet]) -> dict[Contender, Trial]:
        """Stage 3: the best settings of every method, on the held-out forget sets only."""
        with self.stage("3/5 search"):
            cases = open_cases(models, sets, self.plan.held_out, with_banks=True)
            options = packed(self.workspace, cases, self.options)

            def finished(trial: Trial, stored: bool) -> None:
                self.trials.append(trial)
                self.record.trial(trial, cases)
                self.costs.add("search", trial.result.get("seconds", 0.0), options, reused=stored)

            sweep = self.plan.sweep  # Ray runs as many of the suggested trials as fit, late nodes included
            at_once = sweep.search.concurrent or len(sweep.contenders) * sweep.search.together
            result = best_settings(self.workspace, cases, options, at_once, finished)
            for contender, trial in result.best.items():
                scores = ", ".join(f"{SCORES[term]} {value:.2f}" for term, value in trial.scores.items())
                say(f"  {contender}: lr {trial.best.lr:.2e}, {trial.best.schedule}, {trial.best.epochs} epochs, "
                    f"{scores} {trial.errors}")
            for contender, reason in result.lost.items():
                say(f"  {contender}: no setting worked: {reason}")
            self.lost |= result.lost
            if len(sweep.search.terms) > 1:
                self.record.files(front_files(result.fronts, result.best))
            return result.best

    def final(self, models: Models, sets: Mapping[Key, AdversarialSet],
              best: Mapping[Contender, Trial]) -> list[Unlearned]:
        """Stage 4: the best settings on the final forget sets, several seeds each."""
        with self.stage("4/5 final forget sets"):
            settings = {contender: trial.best for contender, trial in best.items()}
            unlearned = final_models(self.workspace, settings, open_cases(models, sets, self.plan.final), self.options)
            for model in unlearned:
                self.costs.add("final", model.result.get("seconds", 0.0), self.options, reused=model.reused)
            return unlearned

    def report(self, models: Models, sets: Mapping[Key, AdversarialSet],
               unlearned: Sequence[Unlearned], found: Finding | None = None) -> list[dict[str, Any]]:
        """Stage 5: every final model in MLflow, the table, results.json, the figures, and what a study found; and how
        to view them.

        Returns the rows as in results.json; the store keeps them too, so that a finished sweep can be shown again.
        """
        with self.stage("5/5 report"):
            results = Results(self.plan, models, sets, self.trials, unlearned, self.lost, self.record,
                              *self._probed(models, unlearned), found)
            files = results.files(self.costs)
            rows = [row.as_json() for row in results.rows]
            for name in (*WRITTEN, *(found.files if found else ())):
                write_whole(self.output / name, files[name])
            keep_rows(self.plan, self.workspace.store, rows)
        pages = results.log(files, self.costs)
        say(f"\n{results.text}\n\nresults: {self.output / 'results.json'}\nreport:  {self.output / 'report.html'}\n"
            f"MLflow:  {self.record.tracker.how_to_open}\n"
            + "\n".join(f"         {address}  ({text})" for text, address in pages.items()))
        return rows

    def _probed(self, models: Models, unlearned: Sequence[Unlearned]) -> tuple[Probe, Shadowed]:
        """The chosen attacks that run models again, the final ones and, for U-LiRA, the references."""
        chosen = self.plan.audited
        sound = [model for model in unlearned if "failed" not in model.result]

        def spent(work: str, seconds: float, reused: bool) -> None:
            self.costs.add(work, seconds, self.options, reused=reused)

        probes = Probes(self.workspace, models, sound, chosen)
        probes.make(self.options, spent)
        settings = {model.run.contender: model.run.settings for model in sound} if "ulira" in chosen else {}
        shadows = Shadows(self.workspace, models, settings, min(len(rows) for rows in self.plan.sets.final))
        return probes.scores, shadows.summaries(shadows.make(self.options, self.workers, spent))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Say and record that a part of the sweep runs, and for how long."""
        say(f"[{name}]")
        self.record.progress(name, self.trials)
        started = time.monotonic()
        with watched(lambda far: self.record.progress(name, self.trials, far)):
            yield
        self.costs.stages[name.partition(" ")[2].replace(" ", "_")] = time.monotonic() - started


def _check_folder(output: Path) -> None:
    """Make the output folder, which `ray job submit --working-dir` then leaves at home."""
    if any(OF_RAY.match(part) for part in output.absolute().parts):
        raise UserError(f"--output {output}: is in a folder of Ray's, which goes with its job; name one that stays")
    try:
        make_private(output)
        if {path.name for path in output.iterdir()} <= FIRST:
            (output / ".rayignore").write_text("*\n")
        with TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise UserError(f"--output {output}: not writable: {error}") from error


def _run_key(plan: Plan, store: Store, tracker: Tracker) -> str:
    """The key of the parent run: the same for every start of a sweep, so that each start resumes the last one's run.

    If the same sweep runs twice at the same time, the second gets its own run.
    """
    key = digest(plan.identity)
    alone = claim(store, f"run-{key}-{digest(tracker.uri.encode())}")
    return key if alone else f"{key}-{digest(store.owner.encode())}"
