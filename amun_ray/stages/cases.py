"""One original model and one forget set: what an unlearning run is given, what it does, and what it is measured
against."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import ray
from torch import nn

from amun_ray.base.seeds import derive, generator
from amun_ray.metrics import GAP_TERMS, Split, accuracy, average_gap, score
from amun_ray.runtime.bench import Workspace, bench, load_state, numpy_state, shared_tensor
from amun_ray.stages.adversaries import AdversarialSet, Target, read_adversaries
from amun_ray.stages.originals import WEIGHTS, Trained, read_logits, rows_digest, stream_logits
from amun_ray.training.parts import Part
from amun_ray.training.recipe import Recipe
from amun_ray.unlearn import Report, Sets, find, unlearn


class Settings(NamedTuple):
    """What a trial tries: learning rate, schedule (`never`, or `every_N` epochs times 0.1), number of epochs, and those
    of the method's own settings that are searched."""

    lr: float
    schedule: str
    epochs: int
    own: dict[str, float]


class Contender(NamedTuple):
    """One row of the table: a method, and whether it sees D_R (`retain`) or D_F alone (`forget_only`)."""

    method: str
    access: str

    def __str__(self) -> str:
        return f"{self.method} ({self.access})"


@dataclass(frozen=True, eq=False)
class Case:
    """Everything large is behind a reference and reaches a node once."""

    original: int
    name: str
    rows: np.ndarray
    target: dict[str, float] | None  # the retrained models' mean scores; None where there are no such models
    original_test_accuracy: float    # percent
    lineage: dict[str, Any]
    state: tuple[ray.ObjectRef]
    adversarial: tuple[ray.ObjectRef, ray.ObjectRef]
    reference_mean: tuple[ray.ObjectRef]

    @classmethod
    def open(cls, number: int, attacked: Target, made: AdversarialSet, retrained: Sequence[Trained],
             evidence: "Evidence") -> "Case":
        """Gather the case of original `number` on the driver and put its arrays into the object store.

        `retrained` are models that never saw the rows of `attacked`; without any, the case has no target.
        """
        workspace, rows, original = evidence.workspace, attacked.rows, attacked.original
        store, (images, labels) = workspace.store, read_adversaries(workspace.store, made)
        scores = [evidence.scores(logits, rows) for logits in stream_logits(workspace, retrained)]
        target = {term: float(np.mean([one[term] for one in scores])) for term in scores[0]} if scores else None
        test = split(workspace, rows).test
        lineage = {"original": original.weights, "forget": rows_digest(rows), "adversarial": made.unit.digest,
                   "references": evidence.digest}
        if retrained:
            lineage["retrained"] = [other.weights for other in retrained]
        return cls(number, attacked.name, rows, target,
                   accuracy(read_logits(workspace, original.unit, original.name)[test], evidence.labels[test]), lineage,
                   (ray.put(numpy_state(store, original.unit, WEIGHTS)),),
                   (ray.put(images), ray.put(labels)), (evidence.reference,))

    def seed(self, workspace: Workspace, run: int) -> int:
        """The same for every method and setting: runs differ by what they do, not by the luck of the draw."""
        return derive(workspace.sweep.seed, "unlearn", self.original, self.name, run)


@dataclass(frozen=True)
class Evidence:
    """The reference models' mean confidence: on the driver, in the object store, and its digest."""

    workspace: Workspace
    labels: np.ndarray
    mean: np.ndarray
    reference: ray.ObjectRef
    digest: str

    def scores(self, logits: np.ndarray, forget: np.ndarray) -> dict[str, float]:
        """Every metric of one model, in percent, for the forget set `forget`."""
        return score(logits, self.labels, split(self.workspace, forget), self.mean,
                     settings=self.workspace.sweep.rmia)


def split(workspace: Workspace, forget: np.ndarray) -> Split:
    """D_R, D_F and D_T for a forget set."""
    rows = np.arange(workspace.train_size, dtype=np.int64)
    return Split(np.setdiff1d(rows, forget), forget, np.arange(len(rows), workspace.size, dtype=np.int64))


class Epoch(NamedTuple):
    """The state of one unlearning run after one epoch."""

    scores: dict[str, float]  # percent; `average_gap` among them where the case has a target
    logits: np.ndarray        # (N, classes) on every sample
    model: nn.Module          # the live model: copy what must outlast the next epoch
    report: Report            # passes, seconds and, for a certified method, its certificate, so far


def run_case(workspace: Workspace, case: Case, contender: Contender, settings: Settings, run: int) -> Iterator[Epoch]:
    """Unlearn one case in this process, yielding after each epoch.

    Raises:
        Diverged: the run left the finite numbers.
    """
    here, seed = bench(workspace), case.seed(workspace, run)
    model = load_state(workspace.new_model(0), ray.get(case.state[0])).to(here.device)
    (mean,), labels = ray.get(list(case.reference_mean)), here.labels.cpu().numpy()
    report = Report()
    epochs = unlearn(contender.method, model, _sets(workspace, case, contender.access), report=report,
                     recipe=recipe(workspace, settings),
                     settings=workspace.sweep.method_settings(*contender) | settings.own,
                     augmentation=workspace.sweep.data.augmentation, generator=generator(seed, "order"))
    for _ in epochs:
        logits = here.logits(model)
        scores = score(logits, labels, split(workspace, case.rows), mean, settings=workspace.sweep.rmia)
        kept = {term: scores[term] for term in GAP_TERMS}
        if case.target is not None:
            kept["average_gap"] = average_gap(scores, case.target)
        yield Epoch(kept, logits, model, report)


def case_inputs(workspace: Workspace, contender: Contender, settings: Settings, cases: Sequence[Case],
                run: int) -> dict:
    """Everything that the scores of unlearning `cases` depend on, for the address of the result."""
    sweep, chosen = workspace.sweep, settings._asdict()
    given = sweep.method_settings(*contender) | settings.own
    chosen["own"] = find(contender.method).complete(*contender, given)
    return {"contender": list(contender), "settings": chosen, "unlearning": sweep.unlearning.model_dump(),
            "augmentation": list(sweep.data.augmentation), "rmia": sweep.model_dump()["rmia"],
            "dataset": workspace.data_digest, "model": sweep.model.model_dump(),
            "cases": [case.lineage | {"seed": case.seed(workspace, run)} for case in cases]}


def recipe(workspace: Workspace, settings: Settings) -> Recipe:
    """The unlearning run's optimiser settings: those of the config, with what the trial tries."""
    every = 0 if settings.schedule == "never" else int(settings.schedule.removeprefix("every_"))
    return Recipe(lr=settings.lr, epochs=settings.epochs, decay_every=every,
                  **workspace.sweep.unlearning.model_dump())


def _sets(workspace: Workspace, case: Case, access: str) -> Sets:
    here, retained = bench(workspace), split(workspace, case.rows).retain
    images, labels = (shared_tensor(array).to(here.device) for array in ray.get(list(case.adversarial)))
    return Sets(retain=here.part(retained) if access == "retain" else None, forget=here.part(case.rows),
                adversarial=Part(images, labels, augment=False))
