"""Every attack on every model of the table, from stored predictions; no model runs again.

Cost, on the driver, with N samples: one pass over the reference predictions for LiRA; then for each model O(N log N)
for RMIA, LiRA and the thresholds, and MIS's support vector classifier, quadratic in its at most 2,000 samples per side
and linear in the forget set: a second or two, most of it the classifier's, which holds no lock of Python. So as many
models are attacked at once as the driver has cores, each with a few arrays (N,) in memory.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from amun_ray.base.progress import bar
from amun_ray.base.seeds import generator
from amun_ray.data.images import threads
from amun_ray.metrics import GAP_TERMS, GAP_TERMS_MIS, audit, average_gap, lira
from amun_ray.work.artifacts import read_logits, stream_logits
from amun_ray.work.evidence import Evidence
from amun_ray.work.units import Trained, Unlearned

Scores = dict[str, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Audit:
    """The attacks, and for each final forget set the models retrained without it: the target."""

    evidence: Evidence
    normals: lira.Lira
    sets: Mapping[str, np.ndarray]
    retrained: Mapping[str, Sequence[Scores]]

    @classmethod
    def open(cls, evidence: Evidence, references: Sequence[Trained], halves: np.ndarray, *,
             sets: Mapping[str, np.ndarray], retrained: Mapping[str, Sequence[Trained]]) -> "Audit":
        """`halves` (models, N) bool: the samples on which each of the `references` was trained."""
        workspace = evidence.workspace
        normals = lira.fit(stream_logits(workspace, references), evidence.labels, members=halves,
                           variance=workspace.sweep.audit.lira_variance)
        scored: dict[str, list[Scores]] = {}
        attacks = cls(evidence, normals, sets, scored)
        targets = [(name, model) for name in sets for model in retrained[name]]
        found = _at_once(lambda target: attacks._attacked(read_logits(workspace, target[1].unit, target[1].name),
                                                          target[0]), targets, "retrained models")
        for (name, _), scores in zip(targets, found, strict=True):
            scored.setdefault(name, []).append(scores)
        return attacks

    def scores(self, logits: np.ndarray, name: str) -> Scores:
        """Every score of a model that should have forgotten the set `name`, in percent, and its mean distance to the
        retrained models: Avg. Gap with FT AUC, and with MIS instead."""
        scores = self._attacked(logits, name)
        return scores | _gaps(scores, self.retrained[name])

    def every(self, models: Sequence[Unlearned]) -> list[Scores]:
        """`scores` of each of the `models`, which have finished."""
        workspace = self.evidence.workspace
        return _at_once(lambda model: self.scores(
            read_logits(workspace, model.run.unit, str(model.run.contender)), model.run.case.name), models, "models")

    def retrained_scores(self, name: str, k: int) -> Scores:
        """The scores of the k-th model retrained without the set `name`. Its Avg. Gap to the other retrained models is
        the noise floor: no method can be measured to be better. It is 0 if there are no others."""
        scores = self.retrained[name][k]
        others = [*self.retrained[name][:k], *self.retrained[name][k + 1:]]
        return scores | _gaps(scores, others or [scores])

    def _attacked(self, logits: np.ndarray, name: str) -> Scores:
        evidence, forget = self.evidence, self.sets[name]
        workspace, labels = evidence.workspace, evidence.labels
        attacks = audit(logits, labels, workspace.split(forget, labels), evidence.mean, normals=self.normals,
                        settings=workspace.sweep.rmia, generator=generator(workspace.sweep.seed, "audit", name))
        del attacks["rmia_forget_test_auc"]  # it is FT AUC
        return evidence.scores(logits, forget) | attacks


def _at_once(attacked: Callable[[T], Scores], models: Sequence[T], what: str) -> list[Scores]:
    """`attacked` of each of the `models`, in their order."""
    with ThreadPoolExecutor(threads()) as pool, bar("attacks", len(models), what) as progress:
        found = []
        for scores in pool.map(attacked, models):
            found.append(scores)
            progress.advance()
        return found


def _gaps(scores: Scores, retrained: Sequence[Scores]) -> Scores:
    """The distance of `scores` to the mean scores of the retrained models."""
    target = {term: float(np.mean([each[term] for each in retrained])) for term in scores}
    return {"average_gap": average_gap(scores, target, GAP_TERMS),
            "average_gap_mis": average_gap(scores, target, GAP_TERMS_MIS)}
