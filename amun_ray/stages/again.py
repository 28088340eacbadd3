"""The last stages of a finished sweep once more, with one thing changed: the attack, the sets, or what they hold.

Cost: as stages 2 and 4, for what the store does not have yet.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray

from amun_ray.attacks import AttackSettings
from amun_ray.stages.adversaries import adversarial_sets
from amun_ray.stages.cases import open_cases
from amun_ray.stages.experiment import Experiment
from amun_ray.stages.final import unlearned_models
from amun_ray.unlearn import Contender
from amun_ray.work.evidence import Models
from amun_ray.work.units import AdversarialSet, ForgetCase, Hyperparameters, Run, Target, Unlearned

Sets = Mapping[tuple[int, str], AdversarialSet]
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]  # D_A as `work.artifacts.read_adversaries` returns it
Swap = Callable[[ForgetCase, Arrays], Arrays]


def attacked(experiment: Experiment, models: Models, search: AttackSettings) -> dict[tuple[int, str], AdversarialSet]:
    """The adversarial sets of the final cases by another attack."""
    sweep = experiment.plan.sweep
    changed = sweep.model_copy(update={"attack": sweep.attack.model_copy(update={"search": search})})
    cases = experiment.plan.final
    targets = [Target(models.originals[case.original], case.name, case.rows) for case in cases]
    made = adversarial_sets(replace(experiment.workspace, sweep=changed), targets, experiment.options,
                            experiment.workers)
    return {case.key: one for case, one in zip(cases, made, strict=True)}


def unlearned_again(experiment: Experiment, models: Models, sets: Sets,
                    settings: Mapping[Contender, Hyperparameters], *, swapped: tuple[str, Swap] | None = None,
                    cases: Sequence[ForgetCase] | None = None) -> list[Unlearned]:
    """The final models of `settings` from these `sets`, in the order (contender, case, run).

    Args:
        swapped: a name, and what takes the place of D_A of a case; the name is part of the result's address.
        cases: other ones than the sweep's final cases.
    """
    workspace = experiment.workspace
    opened = open_cases(models, sets, experiment.plan.final if cases is None else cases)
    if swapped is not None:
        name, swap = swapped
        opened = [replace(case, lineage=case.lineage | {"swapped": name}, adversarial=tuple(map(
            ray.put, swap(case, _read(case.adversarial))))) for case in opened]
    runs = [Run.of(workspace, contender, chosen, case, number) for contender, chosen in settings.items()
            for case in opened for number in range(workspace.sweep.final.runs)]
    return unlearned_models(workspace, runs, experiment.unlearning)


def _read(references: "tuple[ray.ObjectRef[Any], ...]") -> Arrays:
    images, labels, places = ray.get(list(references))
    return images, labels, places
