"""What models are judged by: all models trained from scratch, and the reference bank's mean confidence."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from amun_ray.metrics import reference_mean, score
from amun_ray.storage.store import digest
from amun_ray.work.artifacts import stream_logits
from amun_ray.work.units import Trained, Workspace


def scored(workspace: Workspace, logits: np.ndarray, labels: np.ndarray, mean: np.ndarray, forget: np.ndarray,
           rows: np.ndarray | None) -> dict[str, float]:
    """Every metric of one model, in percent; `labels` and `mean` are of all samples, `logits` of `rows`, which rise, or
    of all samples too if that is None."""
    split = workspace.split(forget, labels)
    if rows is not None:
        split, labels, mean = split.within(rows), labels[rows], mean[rows]
    return score(logits, labels, split, mean, settings=workspace.sweep.rmia)


@dataclass(frozen=True)
class Evidence:
    """The reference models' mean confidence on every sample, and its digest."""

    workspace: Workspace
    labels: np.ndarray  # (N,) int64
    mean: np.ndarray    # (N,) float64
    digest: str

    @classmethod
    def of(cls, workspace: Workspace, labels: np.ndarray, references: Sequence[Trained],
           halves: np.ndarray | None = None) -> "Evidence":
        """Read the predictions of `references`; `halves` (models, N) bool: the samples each was trained on."""
        mean = reference_mean(stream_logits(workspace, references), labels, settings=workspace.sweep.rmia,
                              members=halves)
        return cls(workspace, labels, mean, digest(mean.tobytes()))

    def scores(self, logits: np.ndarray, forget: np.ndarray, rows: np.ndarray | None = None) -> dict[str, float]:
        """Every metric of one model, in percent, for the forget set `forget`; on `rows` alone, if they are given."""
        return scored(self.workspace, logits if rows is None else logits[rows], self.labels, self.mean, forget, rows)


@dataclass(frozen=True)
class Models:
    """All models trained from scratch, and the evidence based on them."""

    originals: list[Trained]
    retrained: dict[str, list[Trained]]  # by forget set
    references: list[Trained]
    halves: np.ndarray  # (references, N) bool: the samples each was trained on
    evidence: Evidence

    @cached_property
    def banks(self) -> list[Evidence]:
        """The evidence without each pair of references that complement each other: from these the error follows that
        the finite bank makes. Memory: half as many arrays (N,) as there are references."""
        evidence, settings = self.evidence, self.evidence.workspace.sweep.rmia
        single = [settings.confidence(logits, evidence.labels)
                  for logits in stream_logits(evidence.workspace, self.references)]
        pairs = [(first + second) / 2 for first, second in zip(single[::2], single[1::2], strict=True)]
        return [replace(evidence, mean=(sum(pairs) - left_out) / (len(pairs) - 1)) for left_out in pairs]
