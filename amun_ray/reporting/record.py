"""What MLflow is told of each finished piece of work: parameters, scores, curves, weights and lineage, together."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amun_ray.metrics import GAP_TERMS
from amun_ray.reporting.costs import SweepCosts
from amun_ray.storage.store import Unit, digest
from amun_ray.tracking import (
    OBJECTIVE,
    REQUEST,
    SCORE,
    Event,
    Tracker,
    model_files,
    registered_name,
    saved_model,
)
from amun_ray.unlearn import Contender
from amun_ray.work.changes import flat
from amun_ray.work.trials import TERMS, Trial
from amun_ray.work.units import (
    WEIGHTS,
    AdversarialSet,
    Case,
    Hyperparameters,
    Target,
    Trained,
    Unlearned,
    Workspace,
    case_weights,
)

TABLE = "final_table.json"


@dataclass(frozen=True)
class Record:
    """The parent run of one sweep, and the children below it. A run that MLflow could not be told of yet has no id."""

    tracker: Tracker
    key: str
    parent: str  # run id
    workspace: Workspace
    environment: Mapping[str, str]

    @classmethod
    def open(cls, tracker: Tracker, key: str, workspace: Workspace, environment: Mapping[str, str]) -> "Record":
        """Begin, or take up, the run of the sweep `key`; its tags say in what `environment` it ran last."""
        sweep = workspace.sweep
        parent = tracker.start(Event(
            key=key, name=f"sweep {sweep.name}", tags={"stage": "sweep", **environment}, status="RUNNING",
            params=flat(sweep.model_dump(mode="json"))))
        return cls(tracker, key, parent, workspace, environment)

    def close(self, status: str) -> None:
        """End the run of the sweep: `FINISHED`, `FAILED` or `KILLED`."""
        self.tracker.close(self.key, status)

    def scratch_model(self, model: Trained, method: str, case: tuple[int, str],
                      scores: Mapping[str, float]) -> str | None:
        """An original or retrained model with its scores on one forget set."""
        original, forget_set = case
        return self._child(
            key=f"{model.unit.digest}-{forget_set}", name=f"{model.name}, {forget_set}",
            tags={"stage": "originals", "method": method, "forget_set": forget_set, "original": original,
                  "weights": model.weights},
            params={"seed": model.unit.inputs.get("seed", "")},
            metrics=[*_at(0, scores), ("seconds", model.seconds, 0)],
            files=model_files(self._description, self._weights(model.unit, [WEIGHTS])))

    def adversarial(self, target: Target, made: AdversarialSet) -> None:
        """The report of one adversarial set, as metrics of the parent run."""
        prefix = f"adversaries.{target.original.name}.{target.name}".replace(" ", "_")
        self._add(metrics=_at(0, {f"{prefix}.{key}": value for key, value in made.report.items()}))

    def trial(self, trial: Trial, cases: Sequence[Case]) -> str | None:
        """One trial: its objective and its mean scores by epoch; of a finished one also the weights at its best epoch.

        A failure that another start may not meet has a key of its own, which leaves the trial's to a success.
        """
        result, metrics = trial.result, []
        for term in TERMS:
            metrics += [(term, value, epoch) for epoch, value in enumerate(result.get(term, ()), 1)]
        for term in GAP_TERMS:
            metrics += [(term, sum(one[term] for one in scores) / len(scores), epoch)
                        for epoch, scores in enumerate(zip(*result.get("curves", ()), strict=True), 1)]
        if trial.finished:
            metrics += [(f"best_{term}", value, 0) for term, value in trial.scores.items()]
            metrics += [("best_epoch", result["best_epoch"], 0), ("seconds", result["seconds"], 0)]
        tags = _tags("trial", trial.contender, ", ".join(case.name for case in cases),
                     ", ".join(str(case.original) for case in cases))
        weights = [case_weights(place) for place in range(len(cases))] if result.get("weights") else []
        return self._child(
            key=trial.unit.digest + ("" if result.get("kept", True) else ":failed"),
            name=f"trial {trial.contender} {trial.number}", failed="failed" in result,
            tags=tags | _reason(result) | _lineage(trial.unit, cases), params=_params(trial.settings, trial.unit),
            metrics=metrics,
            files=model_files(self._description, self._weights(trial.unit, weights)) if weights else {})

    def unlearned(self, made: Unlearned, scores: Mapping[str, float] | None, *, chosen: Trial | None) -> str | None:
        """One final model: its scores after each epoch, every attack on it, and itself as an MLflow model.

        Args:
            scores: of the finished model; None for a run that failed.
            chosen: the trial that its settings were found by, where it is the one of its method and access that is
                registered.
        """
        run, metrics, model = made.run, [], {}
        if scores is not None:
            curve = made.result["curve"]
            metrics = [entry for epoch, row in enumerate(curve, 1) for entry in _at(epoch, row)]
            metrics += _at(len(curve), {term: value for term, value in scores.items() if term not in curve[-1]})
            metrics += [("seconds", made.result["seconds"], 0), *_cost(made.result["cost"])]
            (weights,) = self._weights(run.unit, [WEIGHTS]).values()
            model = saved_model(self._description, weights, self.workspace.shape)
        tags = _tags("final", run.contender, run.case.name, str(run.case.original))
        return self._child(
            key=run.unit.digest, failed=scores is None,
            name=f"final {run.contender}, original {run.case.original}, {run.case.name}, run {run.number}",
            tags=tags | {"run": run.number} | _reason(made.result) | _lineage(run.unit, [run.case])
            | (self._choice(chosen, run.case) if chosen else {}),
            params=_params(run.settings, run.unit), metrics=metrics, model=model,
            registered=registered_name(self.tracker.experiment, *run.contender) if chosen else None)

    def files(self, files: Mapping[str, bytes]) -> None:
        """Artifacts of the sweep itself."""
        self._add(files=files)

    def results(self, table: Mapping[str, Sequence[Any]], files: Mapping[str, bytes]) -> None:
        """The final table, `{"columns": names, "data": rows}`, in the form that MLflow's pages show as one; and files.

        The same form is what `mlflow.load_table` reads.
        """
        shown = json.dumps([{"path": TABLE, "type": "table"}])
        self._add(files={**files, TABLE: json.dumps(table).encode()}, tags={"mlflow.loggedArtifacts": shown})

    def cost(self, costs: SweepCosts) -> None:
        """Wall time of each stage of this start of the sweep, and the device time of all work in it."""
        self._add(metrics=_at(0, costs.metrics()))

    def _child(self, *, failed: bool = False, **content: Any) -> str | None:
        return self.tracker.log(Event(parent=self.parent, status="FAILED" if failed else "FINISHED", **content))

    def _add(self, **content: Any) -> None:
        self.tracker.log(Event(key=self.key, **content))

    def _choice(self, trial: Trial, case: Case) -> dict[str, str]:
        """What a model is the best of: the request, which is data, original and rows; and by which search."""
        request = {"data": self.workspace.data_digest, **{key: case.lineage[key] for key in ("original", "forget")}}
        return {REQUEST: digest(request)[:8], OBJECTIVE: self.workspace.sweep.search.objective,
                SCORE: repr(trial.value)}

    @property
    def _description(self) -> dict[str, Any]:
        return self.workspace.network.description

    def _weights(self, unit: Unit, names: Sequence[str]) -> dict[str, bytes]:
        return {name: self.workspace.store.read(unit, name).to_pybytes() for name in names}


def _at(step: int, values: Mapping[str, float]) -> list[tuple[str, float, int]]:
    return [(name, value, step) for name, value in values.items()]


def _tags(stage: str, contender: Contender, forget_set: str, original: str) -> dict[str, Any]:
    return {"stage": stage, "method": contender.method, "access": contender.access, "forget_set": forget_set,
            "original": original}


def _reason(result: Mapping[str, Any]) -> dict[str, str]:
    return {key: result[key] for key in ("failed", "stopped") if key in result}


def _cost(cost: Mapping[str, Any]) -> list[tuple[str, float, int]]:
    """What unlearning itself cost, scoring left out; and the epsilon of a certified method that reached one."""
    metrics = [(f"unlearning_{key}", cost[key], 0) for key in ("seconds", "forward", "backward")]
    epsilon = (cost.get("certificate") or {}).get("epsilon")
    return metrics if epsilon is None else [*metrics, ("certified_epsilon", epsilon, 0)]


def _lineage(unit: Unit, cases: Sequence[Case]) -> dict[str, str]:
    """The digests that a result came from, one after another where there are several cases."""
    return {"lineage.result": unit.digest} | {
        f"lineage.{key}": ", ".join(dict.fromkeys(case.lineage[key] for case in cases))
        for key in ("original", "forget", "adversarial", "references")}


def _params(settings: Hyperparameters, unit: Unit) -> dict[str, Any]:
    chosen = unit.inputs["settings"]
    return {"lr": settings.lr, "schedule": settings.schedule, "epochs": settings.epochs} | {
        f"unlearning.{key}": value for key, value in unit.inputs["unlearning"].items()} | chosen["own"]
