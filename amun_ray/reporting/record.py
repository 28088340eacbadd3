"""What MLflow is told of each finished piece of work: parameters, scores, curves, weights and lineage, together."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from amun_ray.config.audit import PROBES
from amun_ray.metrics import GAP_TERMS
from amun_ray.reporting import description
from amun_ray.reporting.columns import title
from amun_ray.reporting.costs import SweepCosts
from amun_ray.reporting.rows import Row, data_frame
from amun_ray.storage.store import COMPLETE, Unit, digest
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
from amun_ray.work.bounded import KEY
from amun_ray.work.changes import flat
from amun_ray.work.trials import TERMS, Trial
from amun_ray.work.units import (
    WEIGHTS,
    AdversarialSet,
    Case,
    ForgetCase,
    Hyperparameters,
    Target,
    Trained,
    Unlearned,
    Workspace,
    case_weights,
    rows_digest,
)

TABLE = "final_table.json"
PARTS = {"models": "original and retrained models", "adversarial_sets": "adversarial sets", "search": "search",
         "final": "unlearned models"}  # what is unfolded below a sweep, and what it is called
PART_OF = {"originals": "models", "retrained": "models", "references": "models", "final_forget_sets": "final",
           **dict.fromkeys((*PROBES, "ulira"), "final")}
SETTINGS = tuple(f"params.`{name}`" for name in ("lr", "schedule", "epochs"))  # columns of MLflow's lists
MODELS_BY_GAP = (*(f"metrics.`{term}`" for term in ("average_gap", *GAP_TERMS)), *SETTINGS)
BY_GAP, SIDE_BY_SIDE = "unlearned models by Avg. Gap", "the best model of each method side by side"  # of the links
TRIALS_BY_GAP = ("metrics.`best_average_gap`", "metrics.`best_epoch`", *SETTINGS)


@dataclass(frozen=True)
class Record:
    """The parent run of one sweep, and the children below it. A run that MLflow could not be told of yet has no id."""

    tracker: Tracker
    key: str
    parent: str  # run id
    parts: Mapping[str, str]  # of PARTS -> the id of the run that has its children below it
    workspace: Workspace
    environment: Mapping[str, str]

    @classmethod
    def open(cls, tracker: Tracker, key: str, workspace: Workspace, environment: Mapping[str, str]) -> "Record":
        """Begin, or take up, the run of the sweep `key` and those of its parts; the tags say in what `environment` it
        ran last."""
        sweep = workspace.sweep
        parent = tracker.start(Event(
            key=key, name=f"sweep {sweep.name}", tags={"stage": "sweep", **environment}, status="RUNNING",
            params=flat(sweep.model_dump(mode="json")), description=description.progress("start", ()),
            datasets=_datasets(workspace, "", dict(zip(("D", "D_T"), _halves(workspace), strict=True)))))
        parts = {part: tracker.start(Event(key=f"{key}:{part}", above=parent, name=name, status="RUNNING",
                                           tags={"stage": "part"} | _origin(environment)))
                 for part, name in PARTS.items()}
        return cls(tracker, key, parent, parts, workspace, environment)

    def close(self, status: str) -> None:
        """End the run of the sweep and those of its parts: `FINISHED`, `FAILED` or `KILLED`."""
        for part in self.parts:
            self.tracker.log(Event(key=f"{self.key}:{part}", status=status))
        self.tracker.close(self.key, status)

    def progress(self, stage: str, trials: Sequence[Trial], far: str = "") -> None:
        """Show on the page of the sweep how far it is; `trials`: those of the search that are over."""
        self.tracker.show(Event(key=self.key, description=description.progress(stage, trials, far)))

    def scratch_model(self, model: Trained, method: str, case: ForgetCase,
                      scores: Mapping[str, float]) -> str | None:
        """An original or retrained model with its scores on one forget set."""
        return self._child(
            model.unit, key=f"{model.unit.digest}-{case.name}", name=f"{model.name}, {case.name}", part="models",
            seconds=model.seconds, datasets=self._datasets(case.name, case.rows),
            tags={"stage": "originals", "method": method, "forget_set": case.name, "original": case.original,
                  "weights": model.weights},
            params={"seed": model.unit.inputs.get("seed", "")},
            metrics=[*_at(0, scores), *_layers(self.workspace.store.made(model.unit)), ("seconds", model.seconds, 0)],
            files=model_files(self._description, self._weights(model.unit, [WEIGHTS])))

    def adversarial(self, target: Target, built: AdversarialSet) -> None:
        """The report of one adversarial set."""
        self._child(built.unit, key=f"{built.unit.digest}-{target.name}", part="adversarial_sets",
                    seconds=self._span(built), metrics=[*_at(0, built.report), ("device_seconds", built.seconds, 0)],
                    name=f"adversarial set, {target.original.name}, {target.name}",
                    tags={"stage": "adversarial_set", "original": target.original.name, "forget_set": target.name,
                          "weights": target.original.weights},
                    datasets=self._datasets(target.name, target.rows)[:1])

    def trial(self, trial: Trial, cases: Sequence[Case], original: float | None) -> str | None:
        """One trial: its objective, that of the `original` models too, and its mean scores by epoch; of a finished one
        also the weights at its best epoch. A failure that another start may not meet has a key of its own, which leaves
        the trial's to a success.
        """
        result, terms = trial.result, [term for term in TERMS if term in trial.result]
        metrics = [(f"original_{term}", original, 0) for term in terms if original is not None]
        metrics += [(term, value, epoch) for term in terms for epoch, value in enumerate(result[term], 1)]
        for term in GAP_TERMS:
            metrics += [(term, sum(each[term] for each in scores) / len(scores), epoch)
                        for epoch, scores in enumerate(zip(*result.get("curves", ()), strict=True), 1)]
        if trial.finished:
            metrics += [(f"best_{term}", value, 0) for term, value in trial.scores.items()]
            metrics += [("best_epoch", result["best_epoch"], 0), ("seconds", result["seconds"], 0)]
        tags = _tags("trial", trial.contender, ", ".join(case.name for case in cases),
                     ", ".join(str(case.original) for case in cases))
        weights = [case_weights(place) for place in range(len(cases))] if result.get("weights") else []
        return self._child(
            trial.unit, key=trial.unit.digest + ("" if result.get("kept", True) else ":failed"),
            name=f"{title(*trial.contender)}, trial {trial.number}", failed="failed" in result, part="search",
            seconds=result.get("seconds", 0.0), datasets=self._datasets(cases[0].name, cases[0].rows),
            tags=tags | _reason(result) | _lineage(trial.unit, cases), params=_params(trial.settings, trial.unit),
            metrics=metrics,
            files=model_files(self._description, self._weights(trial.unit, weights)) if weights else {})

    def unlearned(self, final: Unlearned, scores: Mapping[str, float] | None, *, chosen: Trial | None) -> str | None:
        """One final model: its scores after each epoch, every attack on it, and itself as an MLflow model.

        Args:
            scores: of the finished model; None for a run that failed.
            chosen: the trial that its settings were found by, where it is the one of its method and access that is
                registered.
        """
        run, metrics, model = final.run, [], {}
        if scores is not None:
            curve = final.result["curve"]
            metrics = [entry for epoch, row in enumerate(curve, 1) for entry in _at(epoch, row)]
            metrics += _at(len(curve), {term: value for term, value in scores.items() if term not in curve[-1]})
            metrics += [("seconds", final.result["seconds"], 0), *_cost(final.result["cost"]), *_layers(final.result)]
            (weights,) = self._weights(run.unit, [WEIGHTS]).values()
            model = saved_model(self._description, weights, self.workspace.shape)
        tags = _tags("final", run.contender, run.case.name, str(run.case.original))
        return self._child(
            run.unit, key=run.unit.digest, failed=scores is None, part="final", seconds=final.result["seconds"],
            name=f"{title(*run.contender)}, original {run.case.original}, {run.case.name}, run {run.number}",
            description=scores and description.of_model(run, scores),
            datasets=self._datasets(run.case.name, run.case.rows),
            tags=tags | {"run": run.number} | _reason(final.result) | _lineage(run.unit, [run.case])
            | (self._choice(chosen, run.case) if chosen else {}),
            params=_params(run.settings, run.unit), metrics=metrics, model=model,
            registered=registered_name(self.tracker.experiment, *run.contender) if chosen else None)

    def files(self, files: Mapping[str, bytes]) -> None:
        """Artifacts of the sweep itself."""
        self._add(files=files)

    def results(self, rows: Sequence[Row], files: Mapping[str, bytes], warnings: Sequence[str]) -> dict[str, str]:
        """The result on the page of the sweep: in words, as a table in the form that MLflow shows as one (and that
        `mlflow.load_table` reads), as a metric for each row, and the files. Returns text -> address of that page and
        the main ones that it links to."""
        links, root = self._links(rows), self.tracker.pages.root
        shown = json.dumps([{"path": TABLE, "type": "table"}])
        metrics = {f"average_gap.{'.'.join(row.contender)}": row.summary["average_gap"].mean
                   for row in rows if row.failed is None}
        self._add(files={**files, TABLE: json.dumps(data_frame(rows)).encode()}, tags={"mlflow.loggedArtifacts": shown},
                  metrics=_at(0, metrics), description=description.result(rows, links, warnings))
        return {"the sweep": f"{root}/{self.tracker.pages.run(self.parent)}"} | {
            text: f"{root}/{links[text]}" for text in (BY_GAP, SIDE_BY_SIDE) if text in links}

    def _links(self, rows: Sequence[Row]) -> dict[str, str]:
        """Where to look next: text -> address within MLflow's pages."""
        def file(name: str) -> str:
            return self.tracker.pages.run(self.parent, f"/artifacts/{name}")

        best = [row for row in rows if row.access is not None and row.failed is None]
        runs = [row.best_run for row in best if row.best_run is not None]
        return {"report": file("report.html"), "figure": file("figures/final_comparison.png"),
                "table with every attack": file(TABLE),
                BY_GAP: self.tracker.pages.runs_list(self.parent, "final", MODELS_BY_GAP),
                "trials by Avg. Gap": self.tracker.pages.runs_list(self.parent, "trial", TRIALS_BY_GAP),
                **({SIDE_BY_SIDE: self.tracker.pages.comparison(runs)} if len(runs) > 1 else {}),
                **{f"{row.name} (best)": f"#/models/{registered_name(self.tracker.experiment, *row.contender)}"
                   for row in best}}

    def cost(self, costs: SweepCosts) -> None:
        """Wall time of each stage of this start of the sweep, and the device time of all work in it: each on the page
        of its part, the sums on that of the sweep."""
        for part in self.parts:
            mine = {name: value for name, value in costs.metrics().items() if _part_of(name) == part}
            self.tracker.log(Event(key=f"{self.key}:{part}", metrics=_at(0, mine)))
        self._add(metrics=_at(0, costs.sums))

    def _child(self, unit: Unit, *, part: str, tags: Mapping[str, Any], failed: bool = False,
               **content: Any) -> str | None:
        return self.tracker.log(Event(
            parent=self.parent, above=self.parts[part], tags={**_origin(self.environment), **tags},
            status="FAILED" if failed else "FINISHED", ended=self.workspace.store.ended(unit) or time.time(),
            **content))

    def _span(self, built: AdversarialSet) -> float:
        """The seconds from the start of the first shard of a set to its end, however many workers made it."""
        times = [when.timestamp() for name, when in self.workspace.store.times(built.unit.folder).items()
                 if name != COMPLETE and when is not None]
        ended = self.workspace.store.ended(built.unit)
        return built.seconds if ended is None or not times else ended - min(times) + built.seconds / built.shards

    def _add(self, **content: Any) -> None:
        self.tracker.log(Event(key=self.key, **content))

    def _choice(self, trial: Trial, case: Case) -> dict[str, str]:
        """What a model is the best of: the request, which is data, original and rows; and by which search."""
        request = {"data": self.workspace.data_digest, **{key: case.lineage[key] for key in ("original", "forget")}}
        return {REQUEST: digest(request)[:8], OBJECTIVE: self.workspace.sweep.search.objective,
                SCORE: repr(trial.value)}

    @property
    def _description(self) -> dict[str, Any]:
        return self.workspace.network.saved

    def _datasets(self, name: str, forget: np.ndarray) -> list[tuple[str, str, int, str]]:
        """D_F, D_R and D_T of a forget set."""
        train, test = _halves(self.workspace)
        return _datasets(self.workspace, f", {name}", {"D_F": forget, "D_R": np.setdiff1d(train, forget), "D_T": test})

    def _weights(self, unit: Unit, names: Sequence[str]) -> dict[str, memoryview]:
        """Files of weights as the store has them: those of a local one stay on its disk, mapped, and are not copied."""
        return {name: memoryview(self.workspace.store.read(unit, name)) for name in names}


def _halves(workspace: Workspace) -> tuple[np.ndarray, np.ndarray]:
    """The rows of D and of D_T."""
    rows = np.arange(workspace.size)
    return rows[:workspace.train_size], rows[workspace.train_size:]


def _datasets(workspace: Workspace, of: str, parts: Mapping[str, np.ndarray]) -> list[tuple[str, str, int, str]]:
    """The `parts` of the data, context -> rows, as an event has them; `of` is added to each name."""
    return [(f"{workspace.sweep.data.name} {part}{of}", digest([workspace.data_digest, rows_digest(rows)]), len(rows),
             part) for part, rows in parts.items()]


def _part_of(cost: str) -> str:
    """The part on whose page a metric of the costs stands; the attacks of the report are on final models."""
    what, _, work = cost.partition(".")
    return "final" if what == "core_seconds" else PART_OF.get(work, work)


def _origin(environment: Mapping[str, str]) -> dict[str, str]:
    """The tags that MLflow shows as columns: who, by which command, at which commit."""
    return {key: value for key, value in environment.items() if key.startswith("mlflow.")}


def _at(step: int, values: Mapping[str, float]) -> list[tuple[str, float, int]]:
    return [(name, value, step) for name, value in values.items()]


def _layers(result: Mapping[str, Any]) -> list[tuple[str, float, int]]:
    """The largest singular value of each layer, of a model that has a bound on them."""
    return _at(0, {f"{KEY}.{layer}": value for layer, value in result.get(KEY, {}).items()})


def _tags(stage: str, contender: Contender, forget_set: str, original: str) -> dict[str, Any]:
    return {"stage": stage, "method": contender.method, "access": contender.access, "forget_set": forget_set,
            "original": original}


def _reason(result: Mapping[str, Any]) -> dict[str, str]:
    return {key: result[key] for key in ("failed", "stopped", "past") if key in result}


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
