"""What MLflow is told of each finished piece of work: parameters, scores, curves, weights and lineage, together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amun_ray.metrics import GAP_TERMS
from amun_ray.stages.adversaries import AdversarialSet, Target
from amun_ray.stages.cases import Case, Contender, Settings
from amun_ray.stages.final import Unlearned
from amun_ray.stages.originals import WEIGHTS, Trained
from amun_ray.stages.studies import METRIC, Trial
from amun_ray.stages.workspace import Workspace
from amun_ray.store import Unit
from amun_ray.tracking import Tracker, model_files


@dataclass(frozen=True)
class Record:
    """The parent run of one sweep, and the children below it."""

    tracker: Tracker
    parent: str
    workspace: Workspace

    def scratch_model(self, model: Trained, tags: Mapping[str, Any], scores: Mapping[str, float]) -> str:
        """An original or retrained model with its scores on one forget set."""
        return self.tracker.child(
            self.parent, f"{model.unit.digest}-{tags['forget_set']}", f"{model.name}, {tags['forget_set']}",
            tags=tags | {"weights": model.weights}, params={"seed": model.unit.inputs.get("seed", "")},
            metrics=[(term, value, 0) for term, value in scores.items()] + [("seconds", model.seconds, 0)],
            files=self._files(model.unit, [WEIGHTS]))

    def adversarial(self, target: Target, made: AdversarialSet) -> None:
        """The report of one adversarial set, as metrics of the parent run."""
        prefix = f"adversaries.{target.original.name}.{target.name}".replace(" ", "_")
        flat = {f"{prefix}.{key}": value for key, value in made.report.items()}
        self.tracker.metrics(self.parent, flat)

    def trial(self, trial: Trial, cases: Sequence[Case]) -> str:
        """One trial: Avg. Gap by epoch, its mean scores by epoch, and the weights at its best epoch."""
        failed, metrics = "failed" in trial.result, []
        if not failed:
            metrics = [("average_gap", gap, epoch) for epoch, gap in enumerate(trial.result["average_gap"], 1)]
            metrics += [(METRIC, trial.gap, 0), ("best_epoch", trial.result["best_epoch"], 0),
                        ("seconds", trial.result["seconds"], 0)]
            for term in GAP_TERMS:
                by_epoch = zip(*trial.result["curves"], strict=True)
                metrics += [(term, sum(one[term] for one in scores) / len(scores), epoch)
                            for epoch, scores in enumerate(by_epoch, 1)]
        tags = _tags("trial", trial.contender, ", ".join(case.name for case in cases),
                     ", ".join(str(case.original) for case in cases))
        return self.tracker.child(
            self.parent, trial.unit.digest, f"trial {trial.contender} {trial.number}",
            tags=tags | _reason(trial.result) | _lineage(trial.unit, cases), failed=failed,
            params=_params(trial.settings, trial.unit), metrics=metrics,
            files=self._files(trial.unit, [f"weights-{place}.safetensors" for place in range(len(cases))]
                              if trial.result.get("weights") else []))

    def unlearned(self, made: Unlearned) -> str:
        """One final model: scores, curve by epoch, weights that load back."""
        run, failed, metrics = made.run, "failed" in made.result, []
        if not failed:
            metrics = [(term, value, epoch) for epoch, scores in enumerate(made.result["curve"], 1)
                       for term, value in scores.items()]
            metrics += [("seconds", made.result["seconds"], 0), *_cost(made.result["cost"])]
        tags = _tags("final", run.contender, run.case.name, str(run.case.original))
        return self.tracker.child(
            self.parent, run.unit.digest,
            f"final {run.contender}, original {run.case.original}, {run.case.name}, run {run.number}",
            tags=tags | {"run": run.number} | _reason(made.result) | _lineage(run.unit, [run.case]), failed=failed,
            params=_params(run.settings, run.unit), metrics=metrics,
            files={} if failed else self._files(run.unit, [WEIGHTS]))

    def files(self, files: Mapping[str, bytes]) -> None:
        """Artifacts of the sweep itself."""
        self.tracker.files(self.parent, files)

    def cost(self, seconds: Mapping[str, float]) -> None:
        """Wall time of each stage of this start of the sweep."""
        self.tracker.metrics(self.parent, {f"seconds.{stage}": value for stage, value in seconds.items()})

    def _files(self, unit: Unit, names: Sequence[str]) -> dict[str, bytes]:
        if not names:
            return {}
        store = self.workspace.store
        description = self.workspace.sweep.model.model_dump() | self.workspace.model_shape
        return model_files(description, {name: store.read(unit, name).to_pybytes() for name in names})


def _tags(stage: str, contender: Contender, forget_set: str, original: str) -> dict[str, Any]:
    return {"stage": stage, "method": contender.method, "access": contender.access, "forget_set": forget_set,
            "original": original}


def _reason(result: Mapping[str, Any]) -> dict[str, str]:
    return {"failed": result["failed"]} if "failed" in result else {}


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


def _params(settings: Settings, unit: Unit) -> dict[str, Any]:
    chosen = unit.inputs["settings"]
    return {"lr": settings.lr, "schedule": settings.schedule, "epochs": settings.epochs} | {
        f"unlearning.{key}": value for key, value in unit.inputs["unlearning"].items()} | chosen["own"]
