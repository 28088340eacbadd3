"""One model that forgets some rows, derived from the model before it: shared by steps in production and studies.

Cost: one adversarial set of the rows, one unlearning run, and where it is asked for one training without all rows so
far; the sweep's reference bank is read, and made again where rows must not be in it. Storage: the adversarial set
(`4 C H W` bytes per row), and weights and logits (`N x classes` float32) of the new model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from amun_ray.runtime.bench import SharedWorkspace
from amun_ray.stages.adversaries import adversarial_sets
from amun_ray.stages.cases import open_cases
from amun_ray.stages.experiment import Experiment
from amun_ray.stages.final import unlearned_models
from amun_ray.stages.originals import train_models
from amun_ray.unlearn import Contender
from amun_ray.work.artifacts import read_logits
from amun_ray.work.evidence import Evidence, Models
from amun_ray.work.trainings import Trainings, reference_trainings, retrained_trainings, wanted_trainings
from amun_ray.work.units import ForgetCase, Hyperparameters, Run, Target, Trained, Training, Unlearned


@dataclass(frozen=True, eq=False)
class Step:
    """What to forget, and from which model: `rows` now, `gone` earlier (dataset rows, int64).

    Adversarial images are found on `base`: `current` (AMUN-A), or the first original (AMUN). The reference models are
    the sweep's, or where there are rows that they must not have seen, `unseen`, others.
    """

    name: str
    current: Trained
    base: Trained
    rows: np.ndarray
    gone: np.ndarray
    recheck: bool = False
    unseen: Sequence[int] = ()


@dataclass(frozen=True, eq=False)
class Steps:
    """Runs steps with the Ray, store and references of a sweep."""

    experiment: Experiment

    def take(self, step: Step, contender: Contender, settings: Hyperparameters) -> tuple[Models, Unlearned]:
        """The new model of a step, or `failed` in its result; and the models it is judged by."""
        ((models, unlearned),) = self.take_together([(step, contender, settings)])
        return models, unlearned

    def take_together(self, taken: Sequence[tuple[Step, Contender, Hyperparameters]]) -> list[tuple[Models, Unlearned]]:
        """Several steps at once, as by `take`; the rows that are gone must be the same in all."""
        steps, options = [step for step, *_ in taken], self.experiment.options
        workspace = self.workspace(steps[0].gone)
        assert all(np.array_equal(step.gone, steps[0].gone) for step in steps), "one workspace, one D_R"
        models = [self._models(workspace, step) for step in steps]
        targets = [Target(step.base, step.name, step.rows) for step in steps]
        runs = []
        for (step, contender, settings), judges, model in zip(
                taken, models, adversarial_sets(workspace, targets, options, self.experiment.workers), strict=True):
            (case,) = open_cases(judges, {(0, step.name): model}, [ForgetCase(0, step.name, step.rows)])
            runs.append(Run.of(workspace, contender, settings, case, 0))
        return list(zip(models, unlearned_models(workspace, runs, self.experiment.unlearning), strict=True))

    def scores(self, model: Trained, rows: np.ndarray, gone: np.ndarray) -> dict[str, float]:
        """All scores of a model, in percent, for the forget set `rows`; D_R excludes `gone`."""
        workspace = self.workspace(gone)
        evidence = replace(self.evidence, workspace=workspace)
        return evidence.scores(read_logits(workspace, model.unit, model.name), rows)

    def workspace(self, gone: Sequence[int] | np.ndarray) -> SharedWorkspace:
        """The sweep's workspace without the rows `gone`."""
        return replace(self.experiment.workspace, gone=tuple(map(int, gone)))

    def trained(self, training: Training) -> Trained:
        """One model trained, or loaded, unless the store has it."""
        (model,) = train_models(self.experiment.workspace, [training], self.experiment.options)
        return model

    def retrained(self, name: str, rows: np.ndarray) -> Trained:
        """A model that never saw `rows`."""
        return self.trained(retrained_trainings(self.experiment.workspace, name, rows, 1)[0])

    @cached_property
    def wanted(self) -> Trainings:
        return wanted_trainings(self.experiment.workspace, self.experiment.plan)

    @cached_property
    def evidence(self) -> Evidence:
        """The sweep's reference bank."""
        return self.bank(())

    def bank(self, unseen: Sequence[int]) -> Evidence:
        """Reference models that never saw the rows `unseen`; those of the sweep where there are none."""
        workspace, halves = self.experiment.workspace, self.wanted.halves.copy()
        halves[:, list(unseen)] = False
        references = train_models(workspace, reference_trainings(workspace, halves), self.experiment.options)
        return Evidence.of(workspace, self.experiment.plan.dataset.labels, references, self.wanted.halves)

    def _models(self, workspace: SharedWorkspace, step: Step) -> Models:
        retrained = {}
        if step.recheck:
            retrained = {step.name: [self.retrained(step.name, np.union1d(step.rows, step.gone))]}
        evidence = self.bank(step.unseen) if step.unseen else self.evidence
        return Models([step.current], retrained, [], self.wanted.halves, replace(evidence, workspace=workspace))
