"""The result of an attack: its rows and their statistics."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from amun_ray.base.status import Status

QUANTILES_PCT = (5, 25, 50, 75, 95)


class AttackCost(NamedTuple):
    """Images passed through a model, summed over a run."""

    samples: int = 0  # how many were attacked
    forward: int = 0  # forward passes of the search
    backward: int = 0  # backward passes of the search
    verification: int = 0  # forward passes of the original model, to verify rows and fix them

    def __add__(self, other: "AttackCost") -> "AttackCost":  # type: ignore[override]  # the sum, not a longer tuple
        return AttackCost(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True, kw_only=True)
class AdversarialRows:
    """N attacked samples, in the order of the input, as shards store them."""

    index: np.ndarray  # (N,) int64, row of the dataset
    image: np.ndarray  # (N, C, H, W) float32 in [0, 1]; for a failed row, the last attempt
    true_label: np.ndarray  # (N,) int64
    label: np.ndarray  # (N,) int64, what the original model says of `image`
    eps: np.ndarray  # (N,) float32, final radius in the attack's own norm, pixel units; 0 where already wrong
    l2: np.ndarray  # (N,) float32, distance from the clean image, pixel units
    steps: np.ndarray  # (N,) int32, how often the search looked at this sample
    status: np.ndarray  # (N,) int8, a code of Status
    cost: AttackCost

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Column name -> array, without the cost."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "cost"}

    @property
    def kept(self) -> np.ndarray:
        """(N,) bool: the rows that belong to the adversarial set."""
        return self.status != Status.FAILED

    @classmethod
    def joined(cls, parts: Iterable["AdversarialRows"]) -> "AdversarialRows":
        """All rows of `parts`, in their order, with the summed cost."""
        parts = list(parts)
        names = parts[0].columns
        return cls(**{name: np.concatenate([part.columns[name] for part in parts]) for name in names},
                   cost=sum((part.cost for part in parts), AttackCost()))

    def report(self) -> dict[str, float]:
        """`report` of these rows."""
        return report(self.columns, self.cost)


def report(columns: Mapping[str, np.ndarray], cost: AttackCost) -> dict[str, float]:
    """Flipped, already wrong and failed samples in percent; eps and L2 of the flipped ones; passes per sample.

    A statistic over no samples is left out, so the dict can be logged as metrics directly.
    """
    status = columns["status"]
    figures = {f"{code.name.lower()}_percent": 100 * float((status == code).mean()) for code in Status}
    flipped = status == Status.FLIPPED
    for name in ("eps", "l2"):
        values = columns[name][flipped]
        if len(values):
            figures[f"{name}_mean"] = float(values.mean(dtype=np.float64))
            figures |= {f"{name}_p{q:02d}": float(np.percentile(values, q)) for q in QUANTILES_PCT}
    for name in ("forward", "backward", "verification"):
        if cost.samples:
            figures[f"{name}_per_sample"] = getattr(cost, name) / cost.samples
    return figures
