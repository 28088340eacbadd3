"""A sweep whose models are made: what a study reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from amun_ray.base.tensors import to_unit
from amun_ray.metrics import Split
from amun_ray.reporting.columns import title
from amun_ray.reporting.rows import Row
from amun_ray.runtime.bench import SharedWorkspace
from amun_ray.stages.experiment import Experiment
from amun_ray.unlearn import Contender
from amun_ray.work.evidence import Models
from amun_ray.work.plan import Plan
from amun_ray.work.trials import Trial
from amun_ray.work.units import AdversarialSet, Hyperparameters, Unlearned


@dataclass(frozen=True, eq=False)
class Done:
    """What the stages before the report made."""

    experiment: Experiment
    models: Models
    sets: Mapping[tuple[int, str], AdversarialSet]
    best: Mapping[Contender, Trial]
    unlearned: Sequence[Unlearned]

    @property
    def plan(self) -> Plan:
        return self.experiment.plan

    @property
    def workspace(self) -> SharedWorkspace:
        return self.experiment.workspace

    @property
    def labels(self) -> np.ndarray:
        """(N,) of all samples."""
        return self.models.evidence.labels

    @cached_property
    def sound(self) -> list[Unlearned]:
        """The final models that were made."""
        return [model for model in self.unlearned if "failed" not in model.result]

    @cached_property
    def splits(self) -> dict[str, Split]:
        """D_R, D_F and D_T of each final forget set."""
        return {case.name: self.workspace.split(case.rows, self.labels) for case in self.plan.final}

    def images(self, rows: np.ndarray) -> np.ndarray:
        """(n, C, H, W) float32 in [0, 1]: the samples `rows`, as models and attacks get them."""
        return to_unit(torch.from_numpy(self.plan.dataset.pixels[rows])).numpy()

    @property
    def settings(self) -> dict[Contender, Hyperparameters]:
        """What the search found for each contender."""
        return {contender: trial.best for contender, trial in self.best.items()}


def row(unlearned: Sequence[Unlearned]) -> Row:
    """Runs of one contender as a row of the table, by the scores that each run ended with."""
    sound = [model for model in unlearned if "failed" not in model.result]
    first = unlearned[0].run
    return Row(*first.contender, first.settings, [model.result["scores"] for model in sound],
               [model.run.case.key for model in sound], [],
               failed=None if sound else unlearned[0].result["failed"])


def gap(unlearned: Sequence[Unlearned]) -> str:
    """`1.23 ± 0.45 [0.80, 1.66]`: the Avg. Gap of runs of one contender, its deviation, the interval of its mean."""
    made = row(unlearned)
    if made.failed is not None:
        return made.failed
    summary, interval = made.summary["average_gap"], made.intervals.get("average_gap")
    level = "" if interval is None or interval.level > 0.945 else f" ({100 * interval.level:.0f} %)"
    return f"{summary.mean:.2f} ± {summary.std:.2f}" + (
        "" if interval is None else f" [{interval.low:.2f}, {interval.high:.2f}]{level}")


def named(contender: Contender) -> str:
    """`amun with D_R`."""
    return title(*contender)
