"""The reference models unlearn, too: U-LiRA compares models that unlearned a target with models that never saw it.

Cost: for each reference model one adversarial set, and for each method and access one unlearning run with the settings
that the search found, on half of the data; all are independent. Each forgets the targets that it saw, and others up to
the size of a final forget set. Storage: one number per target and run; an adversarial set and weights per reference.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import ray

from amun_ray.base.errors import Diverged
from amun_ray.base.seeds import generator
from amun_ray.metrics import Summary, logit_scaled, predict, summarize, unlearned_or_never
from amun_ray.runtime.bench import SharedWorkspace, bench, load_state
from amun_ray.runtime.queue import make_missing
from amun_ray.stages.adversaries import adversarial_sets
from amun_ray.stages.cases import forget_sets, recipe
from amun_ray.stages.subject import Spent
from amun_ray.storage.sharing import make_once
from amun_ray.storage.store import Unit
from amun_ray.unlearn import Contender, unlearn
from amun_ray.work.artifacts import numpy_state, read_adversaries, read_array, store_array, stream_logits
from amun_ray.work.evidence import Models
from amun_ray.work.targets import forgotten_targets, targets
from amun_ray.work.units import (
    WEIGHTS,
    AdversarialSet,
    Case,
    Hyperparameters,
    Target,
    Trained,
    case_inputs,
    rows_digest,
)

NAME = "targets"
CONFIDENCES = "confidences.npy"
ORIGINAL = Contender("original", "")  # the references as they are


@dataclass(frozen=True, eq=False)
class Shadow:
    """A reference model that is to unlearn the rows of `case`, as every final model does."""

    contender: Contender
    settings: Hyperparameters
    reference: Trained
    case: Case
    seen: np.ndarray  # all rows it was trained on, sorted
    made: AdversarialSet

    def unit(self, workspace: SharedWorkspace) -> Unit:
        return Unit("shadows", case_inputs(workspace, self.contender, self.settings, [self.case], 0)
                    | {"targets": rows_digest(targets(workspace))})


class ShadowJob(NamedTuple):
    """A piece of work."""

    shadow: Shadow
    unit: Unit


@dataclass(frozen=True, eq=False)
class Shadows:
    """The pieces of work of a sweep, and what follows from them: with no `settings`, nothing."""

    workspace: SharedWorkspace
    models: Models
    settings: Mapping[Contender, Hyperparameters]
    forgotten: int  # the samples in a final forget set

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """Of each reference model what it unlearns."""
        return [forgotten_targets(self.workspace, half, number, self.forgotten)
                for number, half in enumerate(self.models.halves)]

    def make(self, options: dict[str, Any], workers: int, spent: Spent) -> list[ShadowJob]:
        """Every piece of work, after making what the store lacks."""
        if not self.settings:
            return []
        store = self.workspace.store
        wanted = [Target(model, NAME, rows) for model, rows in zip(self.models.references, self.rows, strict=True)]
        sets = adversarial_sets(self.workspace, wanted, options, workers)
        for adversarial in sets:
            spent("ulira", adversarial.seconds, adversarial.reused)
        jobs = [ShadowJob(shadow, shadow.unit(self.workspace)) for contender, settings in self.settings.items()
                for number, built in enumerate(sets) for shadow in [self._shadow(contender, settings, number, built)]]
        shared, task = ray.put(self.workspace), _unlearn.options(max_retries=3, **options)
        new = make_missing(store, jobs, lambda job: job.unit, lambda job: task.remote(shared, *job),
                           shown=("unlearning references", "models"))
        for _, unit in jobs:
            spent("ulira", store.made(unit)["seconds"], unit.digest not in new)
        return jobs

    def summaries(self, jobs: Sequence[ShadowJob]) -> dict[Contender, dict[str, Summary]]:
        """Of each contender, and of the references as they were: every score, in percent, over the models audited.

        A contender one of whose runs diverged has none: its targets have too few models.
        """
        if not jobs:
            return {}
        evidence, chosen, store = self.models.evidence, targets(self.workspace), self.workspace.store
        confidences = {ORIGINAL: [logit_scaled(logits[chosen], evidence.labels[chosen])
                                  for logits in stream_logits(self.workspace, self.models.references)]}
        for shadow, unit in jobs:
            if "failed" not in store.made(unit):
                confidences.setdefault(shadow.contender, []).append(read_array(store, unit, CONFIDENCES))
        seen = self.models.halves[:, chosen]
        return {contender: _summed(unlearned_or_never(
            np.stack(values), seen, variance=self.workspace.sweep.audit.lira_variance))
            for contender, values in confidences.items() if len(values) == len(seen)}

    def _shadow(self, contender: Contender, settings: Hyperparameters, number: int, built: AdversarialSet) -> Shadow:
        reference, rows = self.models.references[number], self.rows[number]
        seen = np.flatnonzero(self.models.halves[number])
        lineage = {"original": reference.weights, "forget": rows_digest(rows), "adversarial": built.unit.digest,
                   "seen": rows_digest(seen)}
        return Shadow(contender, settings, reference, Case(number, NAME, rows, None, 0.0, lineage), seen, built)


def _summed(each: Sequence[Mapping[str, float]]) -> dict[str, Summary]:
    return {term: summarize([scores[term] for scores in each]) for term in each[0]}


@ray.remote
def _unlearn(workspace: SharedWorkspace, shadow: Shadow, unit: Unit) -> bool:
    return make_once(workspace.store, unit, lambda: make_shadow(workspace, shadow, unit))


def make_shadow(workspace: SharedWorkspace, shadow: Shadow, unit: Unit) -> None:
    """Unlearn one reference model, in a worker; if it diverges, its result is the reason. What it reads is read from
    the store by each worker: no driver could hold every reference and its adversarial set."""
    here, store, started = bench(workspace), workspace.store, time.monotonic()
    contender, case = shadow.contender, shadow.case
    model = load_state(workspace.new_model(0), numpy_state(store, shadow.reference.unit, WEIGHTS)).to(here.device)
    retained = np.setdiff1d(shadow.seen, case.rows) if contender.access == "retain" else None
    sets = forget_sets(here, case.rows, retained, read_adversaries(store, shadow.made))
    try:
        for _ in unlearn(contender.method, model, sets, recipe=recipe(workspace, shadow.settings),
                         settings=workspace.sweep.method_settings(contender) | shadow.settings.own,
                         augmentation=workspace.sweep.data.augmentation,
                         generator=generator(case.seed(workspace, 0), "order")):
            pass
        part = here.part(targets(workspace))
        confidences = logit_scaled(predict(model, part.own_images).numpy(), part.labels.cpu().numpy())
    except Diverged as error:
        store.finish(unit, {"failed": str(error), "seconds": time.monotonic() - started})
        return
    store_array(store, unit, CONFIDENCES, confidences)
    store.finish(unit, {"seconds": time.monotonic() - started}, [CONFIDENCES])
