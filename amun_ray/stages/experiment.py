"""One sweep from its plan to its table: which models, sets and cases each stage gets, and what is logged in MLflow."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import ray

from amun_ray.base.files import write_whole
from amun_ray.base.flow import Flow, Gathering, Promise
from amun_ray.base.log import Unread, say
from amun_ray.base.progress import watched
from amun_ray.reporting.columns import SCORES
from amun_ray.reporting.costs import SweepCosts
from amun_ray.reporting.figures import front_files
from amun_ray.reporting.finding import Finding
from amun_ray.reporting.paper import keep_rows
from amun_ray.reporting.record import Record
from amun_ray.reporting.results import WRITTEN, Probe, Results, Shadowed, attacks_drawn
from amun_ray.runtime.bench import SharedWorkspace
from amun_ray.runtime.cluster import Cluster, check_concurrent, connect, end, slots, worker_options
from amun_ray.runtime.environment import environment
from amun_ray.runtime.key import share_key
from amun_ray.runtime.losses import in_one_line
from amun_ray.runtime.neighbours import Neighbours
from amun_ray.runtime.nodes import check_nodes, own_modules
from amun_ray.stages.adversaries import adversarial_sets
from amun_ray.stages.cases import OpenCase, open_cases, original_value
from amun_ray.stages.final import check_sound, final_models
from amun_ray.stages.originals import train_models
from amun_ray.stages.output_folder import check_folder
from amun_ray.stages.packing import shared
from amun_ray.stages.probes import Probes
from amun_ray.stages.search import best_settings, unlearners
from amun_ray.stages.shadows import Shadows
from amun_ray.storage.leases import announced
from amun_ray.storage.sharing import hold, run_key
from amun_ray.storage.store import Store
from amun_ray.tracking import ARTIFACTS, Tracker, database_uri
from amun_ray.unlearn import Contender
from amun_ray.work import accuracies
from amun_ray.work.artifacts import read_logits
from amun_ray.work.changes import changes
from amun_ray.work.earlier import with_earlier
from amun_ray.work.evidence import Models
from amun_ray.work.plan import Plan, trial_count
from amun_ray.work.trainings import Trainings, settled, wanted_trainings
from amun_ray.work.trials import Trial, chosen
from amun_ray.work.units import AdversarialSet, Target, Trained, Training, Unlearned
from amun_ray.work.width import with_width

Key = tuple[int, str]  # original, name of the forget set
Beyond = Callable[[Models, dict[Key, AdversarialSet], dict[Contender, Trial], list[Unlearned]], Finding | None]


@dataclass
class Experiment:
    """The state that the stages of one sweep share."""

    plan: Plan
    output: Path
    workspace: SharedWorkspace
    record: Record
    options: dict[str, float]  # of one worker, as the config says
    workers: int  # as many as fit in the cluster at the start
    cluster: Cluster
    costs: SweepCosts
    trials: list[Trial] = field(default_factory=list)
    lost: dict[Contender, str] = field(default_factory=dict)  # those for which no setting worked, with the reason
    unlearning: dict[str, float] = field(init=False)  # the options of a worker that makes or tests final models

    def __post_init__(self) -> None:
        self.unlearning = self.options

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
        check_folder(output)
        store.check_writable()
        with ExitStack() as leave, in_one_line():
            for place in {store.uri: store, own.uri: own}.values():
                leave.enter_context(announced(place))
            hold(own, "output", f"--output {output}")
            if not ray.is_initialized():  # leave a caller's Ray alone
                leave.callback(end)
            with Flow() as flow:  # Ray starts while MLflow makes its database
                made = flow.start(lambda: tracker or track())
                say(str(cluster := connect()))
            leave.enter_context(Neighbours.beside(cluster))
            check_nodes(store, own_modules(sweep))
            workers = slots(options := worker_options(sweep.resources, cluster), cluster)
            if sweep.resources.gpus != "auto":  # with auto, how many trials fit is unknown until one was measured
                check_concurrent(sweep.search.concurrent, workers)
            for line in changes(sweep, output):
                say(line)
            opened = SharedWorkspace.open(sweep, share_key(store), plan.dataset, plan.start)
            workspace = with_width(with_earlier(opened), workers)
            key = run_key(plan.identity, store, made.get().uri)
            record = Record.open(made.get(), key, workspace, environment(str(cluster)))
            status = "FAILED"
            try:
                yield cls(plan, output, workspace, record, options, workers, cluster, SweepCosts())
                status = "FINISHED"
            except (KeyboardInterrupt, Unread):
                status = "KILLED"
                raise
            finally:
                record.close(status)

    def run(self, beyond: Beyond = lambda *_: None) -> list[dict[str, Any]]:
        """The five stages, side by side on the workers that there are; and before the report what a config asks
        `beyond` its table. Returns the rows as in results.json.

        What waits for what: an adversarial set for the originals; the search for the sets, and for the models by which
        its cases are judged; the final models of a method for the end of its own search, and for all models trained
        from scratch; the report for everything. Where reference models say what is forgotten, all wait for these.
        """
        started, first = time.monotonic(), self.settle()
        wanted, known = wanted_trainings(self.workspace, self.plan), {model.name for model in first}
        waiting = originals, searched, every = [Gathering[Trained](training.name for training in group)
                                                for group in (wanted.originals, wanted.searched, wanted.every)]
        for model, each in product(first, waiting):
            each.put(model.name, model)
        with Flow() as flow:
            flow.start(lambda: self.train(wanted, [each for each in wanted.every if each.name not in known], waiting))
            sets = flow.start(lambda: self.attack(originals.get()))
            drawn = flow.start(lambda: attacks_drawn(self.workspace.store, sets.get().values()))
            judged = wanted.models(self.workspace, self.plan.dataset.labels, searched.get())
            models = flow.start(lambda: replace(judged, retrained=wanted.retrained_of(every.get())))
            cases = cache(lambda: flow.start(lambda: open_cases(models.get(), sets.get(), self.plan.final)))
            finals: dict[Contender, Promise[list[Unlearned]]] = {}

            def over(contender: Contender, best: Trial) -> None:
                finals[contender] = flow.start(partial(self.final, contender, best, cases()))
            to_come = len(self.plan.sweep.contenders) * len(self.plan.final) * self.plan.sweep.final.runs
            best = self.search(judged, sets.get(), over, to_come)
            unlearned = self.gather([finals[contender] for contender in best])
            found = beyond(models.get(), sets.get(), best, unlearned)
            self.costs.wall = time.monotonic() - started
            return self.report(models.get(), drawn.get(), unlearned, found)

    def settle(self) -> list[Trained]:
        """The loaded originals and the references, where these say what is forgotten: then the plan gets its sets."""
        if not self.plan.waits:
            return []
        wanted = wanted_trainings(self.workspace, self.plan)
        chosen = [*(training for training in wanted.originals if training.checkpoint), *wanted.references]
        first = Gathering[Trained](training.name for training in chosen)
        self.train(wanted, chosen, [first])
        said, self.plan = self.plan.warnings, settled(self.plan, self.workspace.store)
        assert not self.plan.waits, "its reference models were just made"
        for line in (*self.plan.choice, *(f"  {each}" for each in self.plan.warnings if each not in said)):
            say(line)
        return first.get()

    def train(self, wanted: Trainings, chosen: Sequence[Training], waiting: Sequence[Gathering[Trained]]) -> None:
        """Stage 1: the chosen of the originals, the models retrained without each forget set, and the references, each
        handed to whoever waits for it.

        Each original's accuracy is printed as soon as it exists; loaded ones exist before any training.
        """
        work = {training.name: work for work, group in (
            ("originals", wanted.originals), ("retrained", chain.from_iterable(wanted.retrained.values())),
            ("references", wanted.references)) for training in group}

        def over(training: Training, model: Trained, options: dict[str, float]) -> None:
            self.costs.add(work[model.name], model.seconds, options, reused=model.reused)
            if training in wanted.originals:
                logits = read_logits(self.workspace, model.unit, model.name)
                for line in accuracies.describe(self.plan, training, logits.__getitem__):
                    say(line)
            for each in waiting:
                each.put(model.name, model)

        with self.stage("1/5 models"):
            loaded = [training for training in chosen if training.checkpoint]
            for group in (loaded, [training for training in chosen if not training.checkpoint]):
                train_models(self.workspace, group, self.options, over)

    def attack(self, originals: Sequence[Trained]) -> dict[Key, AdversarialSet]:
        """Stage 2: the adversarial sets of every original and forget set."""
        with self.stage("2/5 adversarial sets"):
            cases = self.plan.cases
            targets = [Target(originals[case.original], case.name, case.rows) for case in cases]
            options = shared(self.workspace, self.options, self.plan.shards, "shards")
            sets = adversarial_sets(self.workspace, targets, options, slots(options, self.cluster))
            for target, adversaries in zip(targets, sets, strict=True):
                self.record.adversarial(target, adversaries)
            for adversaries in {each.unit.digest: each for each in sets}.values():
                self.costs.add("adversarial_sets", adversaries.seconds, options, reused=adversaries.reused)
            flipped = np.mean([100 - adversaries.report["failed_percent"] for adversaries in sets])
            say(f"  {flipped:.1f} % have an adversarial example")
            return {case.key: adversaries for case, adversaries in zip(cases, sets, strict=True)}

    def search(self, models: Models, sets: Mapping[Key, AdversarialSet],
               over: Callable[[Contender, Trial], None], finals: int) -> dict[Contender, Trial]:
        """Stage 3: the best settings of every method, on the held-out forget sets only; `finals` models will use them.

        `over` is called with the best trial of a method and access when its search is over, and found one."""
        sweep = self.workspace.sweep
        with self.stage("3/5 search"):
            cases = open_cases(models, sets, self.plan.held_out, for_search=True)
            at_once = sweep.search.concurrent or len(sweep.contenders) * sweep.search.width  # Ray runs what fits
            options, self.unlearning = unlearners(self.workspace, cases, self.options, at_once, finals)
            original = original_value(cases, sweep.search.terms)

            def finished(trial: Trial, stored: bool) -> None:
                self.trials.append(trial)
                self.record.trial(trial, cases, original)
                self.costs.add("search", trial.result.get("seconds", 0.0), options, reused=stored)
                mine = [each for each in self.trials if each.contender == trial.contender]
                best = chosen(mine, sweep.search.select)
                if len(mine) == trial_count(sweep, trial.contender) and best.finished:
                    scores = ", ".join(f"{SCORES[term]} {value:.2f}" for term, value in best.scores.items())
                    say(f"  {trial.contender}: lr {best.best.lr:.2e}, {best.best.schedule}, {best.best.epochs} epochs, "
                        f"{scores} {best.errors}")
                    over(trial.contender, best)

            result = best_settings(self.workspace, cases, options, at_once, finished)
            for contender, reason in result.lost.items():
                say(f"  {contender}: no setting worked: {reason}")
            self.lost |= result.lost
            if len(sweep.search.terms) > 1:
                self.record.files(front_files(result.fronts, result.best))
            return result.best

    def final(self, contender: Contender, best: Trial, cases: Promise[list[OpenCase]]) -> list[Unlearned]:
        """A part of stage 4: the best settings of one method on the final forget sets, several seeds each."""
        models = final_models(self.workspace, contender, best.best, cases.get(), self.unlearning)
        for model in models:
            self.costs.add("final", model.result.get("seconds", 0.0), self.unlearning, reused=model.reused)
        return models

    def gather(self, finals: Sequence[Promise[list[Unlearned]]]) -> list[Unlearned]:
        """Stage 4: the final models of every method."""
        with self.stage("4/5 final forget sets"):
            unlearned = [model for models in finals for model in models.get()]
            check_sound(unlearned)
            return unlearned

    def report(self, models: Models, drawn: Mapping[str, bytes], unlearned: Sequence[Unlearned],
               found: Finding | None = None) -> list[dict[str, Any]]:
        """Stage 5: every final model in MLflow, the table, results.json, the figures beside those that were `drawn`
        before, and what a study found; and how to view them.

        Returns the rows as in results.json; the store keeps them too, so that a finished sweep can be shown again.
        """
        with self.stage("5/5 report"):
            results = Results(self.plan, models, drawn, self.trials, unlearned, self.lost, self.record,
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
            self.costs.add(work, seconds, self.unlearning, reused=reused)

        probes = Probes(self.workspace, models, sound, chosen)
        probes.make(self.unlearning, spent)
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
        self.costs.stages[name.partition(" ")[2].replace(" ", "_")] += time.monotonic() - started
