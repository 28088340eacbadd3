"""One step of a model in production: the current model forgets one request, or several together, and is judged.

Cost: see `steps`. Storage: also weights and logits of the previous model, as registered.

Everything is a unit of the store, so a killed step resumes where it was. The ledger records what was begun, its inputs
and its outcome; see `ledger.entries`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from amun_ray.base.errors import UserError
from amun_ray.base.files import write_whole
from amun_ray.base.log import counted, say
from amun_ray.config.production import Limits
from amun_ray.ledger import Asked, Entry, History, Ledger, RowId
from amun_ray.metrics import accuracy_interval, auc_interval, average_gap
from amun_ray.models import checkpoint
from amun_ray.reporting.proof import FIGURE, PROOFS, confidence_picture, note_proved, write_proof
from amun_ray.reporting.steps import log_model
from amun_ray.stages.experiment import Experiment
from amun_ray.stages.steps import Step, Steps
from amun_ray.storage.store import Unit, digest
from amun_ray.tracking.registry import Registry
from amun_ray.unlearn import Contender
from amun_ray.work.artifacts import read_logits
from amun_ray.work.checkpoints import read_checkpoint
from amun_ray.work.evidence import Models
from amun_ray.work.plan import Plan
from amun_ray.work.production import Chosen, dataset_rows, judged
from amun_ray.work.trainings import wanted_trainings
from amun_ray.work.units import Hyperparameters, Trained, Training, Unlearned

AUC_TERMS = ("forget_test_auc", "forget_retain_auc")
SEEN = ("unlearn_accuracy", "retain_accuracy", "test_accuracy", *AUC_TERMS)


@dataclass
class Production:
    """A ledger, and everything needed to run its steps."""

    experiment: Experiment
    ledger: Ledger
    registry: Registry
    _version: str | None = None  # the version with the alias when the step began

    @cached_property
    def steps(self) -> Steps:
        return Steps(self.experiment)

    def run(self, chosen: Chosen, requests: Sequence[str], *, promote: bool) -> Entry:
        """Begin a step for `requests`, or resume one that was begun; finish it and promote its model.

        Returns the entry that finishes it.
        """
        history = self.ledger.history
        if (waiting := history.of("accepted")) and self.registry.current() == _version(waiting[-1]):
            self.promote()  # the model already has the alias: a promotion was interrupted
            history = self.ledger.history
        current = self._current(history)  # before the step begins: the model may be missing
        begun = history.begun or self._begin(history, chosen, requests)
        history = self.ledger.history
        say(f"[step {begun.content['step']}] {', '.join(begun.requests)}: "
            f"{counted(begun.content['rows']['count'], 'row')}, "
            f"{Contender(begun.content['settings']['method'], begun.content['settings']['access'])}")
        finished = self.ledger.append("finished", begun.requests, self._outcome(history, begun, current))
        self.prove(finished)
        if promote and finished.content["accepted"]:
            self.promote()
        return finished

    def prove(self, last: Entry) -> None:
        """Write the proof of each request in `last`, and attach it to the run of its model."""
        for request in last.requests:
            write_proof(self.ledger.history, request, self.proofs, self.experiment.record.environment)
            model = self.ledger.history.requests[request].outcome.content.get("model")
            if model is not None:
                self.registry.attach(model["run"], self.proofs / request)
        note_proved(last, self.proofs)

    def promote(self) -> Entry | None:
        """Give the alias to the last accepted model; None if there is none without it."""
        history = self.ledger.history
        waiting = history.of("accepted")
        if not waiting:
            return None
        finished = waiting[-1].outcome
        model = finished.content["model"]
        self.registry.promote(model["version"])
        say(f"  {self.registry.address} is version {model['version']} now")
        promoted = self.ledger.append("promoted", finished.requests, {
            "version": model["version"], "before": finished.content["current"], "model": model["weights"]})
        self.prove(promoted)
        return promoted

    @property
    def proofs(self) -> Path:
        """The folder of the proofs, with a folder for each request."""
        return self.experiment.output / PROOFS

    def _begin(self, history: History, chosen: Chosen, requests: Sequence[str]) -> Entry:
        """Record the whole step in the ledger before starting it."""
        asked = [*history.of("accepted"), *(history.requests[request] for request in requests)]
        rows = [row for each in dict.fromkeys(ask.id for ask in asked) for row in history.requests[each].rows]
        section, step = self.experiment.plan.sweep.requests, history.step + 1
        recheck = bool(section.recheck) and step % section.recheck == 0
        return self.ledger.append("begun", list(dict.fromkeys(ask.id for ask in asked)), {
            "step": step, "rows": _said(rows), "gone": _said([row for row in history.asked if row not in rows]),
            "model": history.weights, "settings": chosen.as_json(), "expected_gap": dict(chosen.gap),
            "adaptive": section.adaptive, "recheck": recheck,
            "limits": section.limits.model_dump(),
            "unseen": [ask.id for ask in self._unseen(history, asked, recheck=recheck)]})

    def _unseen(self, history: History, asked: Sequence[Asked], *, recheck: bool) -> list[Asked]:
        """The earlier requests whose rows the reference models of a step must not have seen: those that were purged
        with all that remembers them, and at a recheck all of them, where that is asked for."""
        anew = recheck and self.experiment.plan.sweep.requests.references == "anew"
        return [ask for ask in history.requests.values() if ask.id in history.retired or (anew and ask not in asked)]

    def _outcome(self, history: History, begun: Entry, current: Trained) -> dict[str, Any]:
        """The outcome of a step: the content of its `finished` entry."""
        content, plan = begun.content, self.experiment.plan
        named = {row for request in begun.requests for row in history.requests[request].rows}
        earlier = [row for row in history.asked if row not in named and self._before(history, begun, row)]
        step = Step(f"request {' '.join(begun.requests)}", current, current if content["adaptive"] else self._original,
                    dataset_rows(plan.dataset, sorted(named)), dataset_rows(plan.dataset, earlier), content["recheck"],
                    self._rows(history, content.get("unseen", ())))
        settings = dict(content["settings"])
        contender = Contender(settings.pop("method"), settings.pop("access"))
        models, unlearned = self.steps.take(step, contender, Hyperparameters(**settings))
        if (failed := unlearned.result.get("failed")) is not None:
            return {"accepted": False, "reasons": [failed], "evidence": {}, "intervals": {}, "failed": failed,
                    "current": self._version}
        return self._judge(history, begun, models, unlearned)

    def _judge(self, history: History, begun: Entry, models: Models, outcome: Unlearned) -> dict[str, Any]:
        evidence, rows = models.evidence, outcome.run.case.rows
        workspace = evidence.workspace
        earlier, later = (read_logits(workspace, unit, "the model")
                          for unit in (models.originals[0].unit, outcome.run.unit))
        before, after = (evidence.scores(logits, rows) for logits in (earlier, later))
        scores = {term: after[term] for term in SEEN}
        scores["test_accuracy_lost"] = history.original["test_accuracy"] - after["test_accuracy"]
        if outcome.run.case.target is not None:
            scores["average_gap"] = average_gap(after, outcome.run.case.target)
            self._warn(scores["average_gap"], begun.content["expected_gap"])
        reasons = judged(scores, Limits(**begun.content["limits"]))
        split = workspace.split(rows, evidence.labels)
        intervals = {term: list(auc_interval(scores[term], len(rows), len(others))) for term, others in
                     (("forget_test_auc", split.unseen), ("forget_retain_auc", split.retain))}
        intervals |= {term: list(accuracy_interval(scores[term], len(part))) for term, part in
                      (("unlearn_accuracy", split.forget), ("test_accuracy", split.test))}
        for request in begun.requests:
            (self.proofs / request).mkdir(parents=True, exist_ok=True)
            write_whole(self.proofs / request / FIGURE, confidence_picture(earlier, later, evidence.labels, split))
        run = log_model(self.experiment.record, key=f"{outcome.run.unit.digest}-{begun.content['step']}",
                        name=f"step {begun.content['step']}: {', '.join(begun.requests)}", unit=outcome.run.unit,
                        tags={"stage": "request", "requests": ", ".join(begun.requests), "ledger": begun.digest,
                              "weights": outcome.result["weights"], "lineage.result": outcome.run.unit.digest,
                              "method": outcome.run.contender.method, "access": outcome.run.contender.access,
                              **{f"lineage.{key}": str(value) for key, value in outcome.run.case.lineage.items()}},
                        params=begun.content["settings"], metrics=scores)
        weights = outcome.result["weights"]
        version = self.registry.register(run, {"weights": weights, "accepted": str(not reasons)})
        return {"accepted": not reasons, "reasons": reasons, "evidence": scores, "intervals": intervals,
                "before": {term: before[term] for term in SEEN}, "target": outcome.run.case.target,
                "limits": begun.content["limits"], "current": self._version, "seconds": outcome.result["seconds"],
                "model": {"weights": weights, "unit": outcome.run.unit.folder, "version": version, "run": run}}

    def _rows(self, history: History, requests: Sequence[str]) -> list[int]:
        """The dataset rows of some requests, rising."""
        named = [row for request in requests for row in history.requests[request].rows]
        return dataset_rows(self.experiment.plan.dataset, named).tolist()

    @staticmethod
    def _before(history: History, begun: Entry, row: RowId) -> bool:
        """Whether a row was requested before the step began: later requests are not part of it."""
        return history.requests[history.asked[row]].received.number < begun.number

    @staticmethod
    def _warn(gap: float, expected: dict[str, float]) -> None:
        most = expected["mean"] + 2 * expected["std"]
        if gap > most:
            say(f"  warning: Avg. Gap is {gap:.2f}, the sweep found {expected['mean']:.2f} ± {expected['std']:.2f}: "
                "the settings no longer hold; search again")

    @property
    def _original(self) -> Trained:
        """The first original of the ledger."""
        kept = self.ledger.history.original
        return Trained("original", Unit(kept["unit"]["kind"], kept["unit"]["inputs"]), kept["weights"], 0.0)

    def _current(self, history: History) -> Trained:
        """The model in production, by the alias; for a new ledger, the first original, which gets the alias.

        Raises:
            UserError: the alias no longer exists, or does not point to the ledger's last model.
        """
        version = self.registry.current()
        if version is None and history.promoted is not None:
            raise UserError(f"{self.registry.address}: no version has this alias any more; give it to version "
                            f"{history.promoted.content['version']}, which the ledger says is in production; then "
                            "amun-forget --due goes on")
        if version is None:
            version = self._register_original()
        place = f"models:/{self.registry.name}/{version}"
        current = read_checkpoint(place, self.registry.uri, self.experiment.workspace.new_model(0))
        if (weights := checkpoint.digest(current.state)) != history.weights:
            raise UserError(f"{self.registry.address}: version {version} has the weights {weights[:12]}, and the "
                            f"ledger says that {history.weights[:12]} is in production; give the alias back to it, and "
                            "amun-forget --due goes on")
        self._version = version
        rows = self.experiment.plan.dataset.train_rows
        return replace(self.steps.trained(Training("current model", rows, 0, checkpoint=current)), weights=weights)

    def _register_original(self) -> str:
        original = self._original
        weights = original.weights or ""
        tags = {"stage": "request", "method": "original", "weights": weights}
        run = log_model(self.experiment.record, key=f"production-{original.unit.digest}", name="original in production",
                        unit=original.unit, tags=tags, params={}, metrics={})
        version = self.registry.register(run, {"weights": weights})
        self.registry.promote(version)
        say(f"  {self.registry.address} is version {version}, the original of the sweep")
        return version


def _version(asked: Asked) -> str:
    return asked.outcome.content["model"]["version"]


def _said(rows: Sequence[RowId]) -> dict[str, Any]:
    """A summary of a set of rows: how many, and the digest of their ids."""
    return {"count": len(rows), "digest": digest([list(row) for row in sorted(rows)])}


def original_of(plan: Plan, output: Path) -> dict[str, Any] | None:
    """What a ledger records about the sweep's first original; None if the store has none."""
    store = plan.store(output)
    workspace = plan.workspace(store)
    unit = wanted_trainings(workspace, plan).originals[0].unit(workspace)
    result = store.result(unit)
    if result is None:
        return None
    test = plan.dataset.test_rows
    right = read_logits(workspace, unit, "original 0")[test].argmax(1) == plan.dataset.labels[test]
    return {"weights": result["weights"], "unit": {"kind": unit.kind, "inputs": unit.inputs},
            "test_accuracy": float(100 * right.mean())}


@contextmanager
def opened_production(plan: Plan, output: Path, ledger: Ledger, name: str) -> Iterator[Production]:
    """A production with the Ray, store and MLflow of the sweep, until the context ends."""
    with Experiment.open(plan, output) as experiment:
        registry = Registry(experiment.record.tracker.uri, name, plan.sweep.requests.alias)
        yield Production(experiment, ledger, registry)
