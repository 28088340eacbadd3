"""Which models a sweep trains from scratch, or loads: originals, retrained models, references."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from amun_ray.base.seeds import derive
from amun_ray.data.splits import reference_halves
from amun_ray.metrics import memorisation
from amun_ray.storage.store import Store
from amun_ray.work.artifacts import stream_logits
from amun_ray.work.checkpoints import Checkpoint
from amun_ray.work.evidence import Evidence, Models
from amun_ray.work.plan import Plan
from amun_ray.work.units import Trained, Training, Workspace


def original_trainings(workspace: Workspace, checkpoints: Sequence[Checkpoint]) -> list[Training]:
    """The original models: those of `checkpoints` or, if there are none, trained on D."""
    rows = np.arange(workspace.train_size, dtype=np.int64)
    return [Training(f"original {k}", rows, derive(workspace.sweep.seed, "original", k),
                     checkpoint=checkpoints[k] if checkpoints else None)
            for k in range(workspace.sweep.originals.count)]


def retrained_trainings(workspace: Workspace, name: str, forget: np.ndarray, count: int) -> list[Training]:
    """`count` models that never saw the rows `forget`: the target for unlearning them."""
    rows = np.setdiff1d(np.arange(workspace.train_size, dtype=np.int64), forget)
    return [Training(f"retrained without {name}, {k}", rows, derive(workspace.sweep.seed, "retrained", k))
            for k in range(count)]


def reference_trainings(workspace: Workspace, halves: np.ndarray) -> list[Training]:
    """One model per row of `halves` (models, N), on the samples marked there: the RMIA reference bank.
    Their weights are kept where they are to unlearn."""
    return [Training(f"reference {k}", np.flatnonzero(half), derive(workspace.sweep.seed, "reference", k),
                     keep_weights=workspace.sweep.audit.ulira > 0, epochs=workspace.sweep.references.epochs)
            for k, half in enumerate(halves)]


class Trainings(NamedTuple):
    """Every training of a sweep; `halves` (references, N) bool: what each reference model is trained on."""

    originals: list[Training]
    retrained: dict[str, list[Training]]  # by forget set
    references: list[Training]
    halves: np.ndarray
    held_out: frozenset[str]  # the names of the sets of the search

    @property
    def every(self) -> list[Training]:
        """In the order in which they are handed out: the longest first, so that none runs on alone at the end."""
        return [*self.originals, *chain.from_iterable(self.retrained.values()), *self.references]

    @property
    def searched(self) -> list[Training]:
        """What the search waits for."""
        held_out = chain.from_iterable(self.retrained[name] for name in self.retrained if name in self.held_out)
        return [*self.originals, *held_out, *self.references]

    def models(self, workspace: Workspace, labels: np.ndarray, trained: Sequence[Trained]) -> Models:
        """Those of a sweep that are `trained`, and RMIA's reference means; `labels` (N,) of all samples."""
        by_name = {model.name: model for model in trained}
        originals, references = ([by_name[training.name] for training in group]
                                 for group in (self.originals, self.references))
        evidence = Evidence.of(workspace, labels, references, self.halves)
        return Models(originals, self.retrained_of(trained), references, self.halves, evidence)

    def retrained_of(self, trained: Sequence[Trained]) -> dict[str, list[Trained]]:
        """The retrained models among `trained`, by forget set."""
        by_name = {model.name: model for model in trained}
        every = {name: [by_name[each.name] for each in group if each.name in by_name]
                 for name, group in self.retrained.items()}
        return {name: group for name, group in every.items() if group}


def wanted_trainings(workspace: Workspace, plan: Plan) -> Trainings:
    """The models that a sweep needs, whether or not the store has them."""
    sets = {case.name: case.rows for case in plan.cases}
    halves = reference_halves(workspace.size, plan.sweep.references.count, plan.sweep.seed)
    retrained = {name: retrained_trainings(workspace, name, sets[name], count)
                 for name, count in plan.retrained.items()}
    return Trainings(original_trainings(workspace, plan.checkpoints), retrained,
                     reference_trainings(workspace, halves), halves, frozenset(case.name for case in plan.held_out))


def settled(plan: Plan, store: Store) -> Plan:
    """`plan` with the rows of its forget sets, where these follow from reference models and `store` has all of them.

    Cost: where `forget.choose` asks for it, one pass over the predictions of the reference models.
    """
    if not plan.waits:
        return plan
    workspace = plan.workspace(store)
    wanted = wanted_trainings(workspace, plan)
    bank = [Trained(training.name, training.unit(workspace), None, 0.0) for training in wanted.references]
    if not all(store.is_sound(model.unit) for model in bank):
        return plan
    return plan.remembering(memorisation(stream_logits(workspace, bank), plan.dataset.labels, members=wanted.halves))
