"""AMUN with soft labels: D_F under what the original model says on the way to the adversarial example (ours)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from amun_ray.base.tensors import evaluating
from amun_ray.training.batches import in_order
from amun_ray.training.loop import EpochPlan, Forward, Objective, Pass
from amun_ray.unlearn.method import Setting, Task
from amun_ray.unlearn.plans import JOINT_STATISTICS, joint_updates

SOFT = JOINT_STATISTICS | {
    "step": Setting(default=0.7, low=0.4, high=1.2, at_least=0),
    "adversarial": Setting(default=0, low=0, high=1, choices=(0, 1)),
}


def amun_soft(task: Task) -> EpochPlan:
    """D_R with its own labels, joined with D_F under `softened` ones and, with `adversarial: 1`, with D_A.

    A model that never saw a sample is less sure of it. The original model tells how: part of the way to the boundary,
    it is less sure too, and prefers the same other classes. Samples without an adversarial example are left out.
    """
    sets, classes = task.sets, task.classes
    forget, adversarial = sets.attacked
    targets = torch.cat([torch.eye(classes, device=forget.labels.device), softened(task)])
    rows = forget.numbered(classes)
    parts = [part for part in (sets.retain, rows, adversarial if task.settings["adversarial"] else None)
             if part is not None]
    every_epoch = (Pass(tuple(parts), towards(targets), statistics=joint_updates(task)),)
    return lambda epoch: every_epoch


def towards(targets: Tensor) -> Objective:
    """The mean cross-entropy of the distributions `targets` (M, classes); labels (B,) are rows of it."""

    def soft_cross_entropy(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(forward(images).float(), targets[labels])

    return soft_cross_entropy


def softened(task: Task) -> Tensor:
    """What the model says (N, classes), in eval mode, of x + step * (x_adv - x), kept in [0, 1], for the N attacked
    samples x of D_F."""
    parts = []
    forget, adversarial = (in_order(part, task.recipe.batch_size) for part in task.sets.attacked)
    with torch.no_grad(), evaluating(task.model):
        for (images, labels), (others, _) in zip(forget, adversarial, strict=True):
            moved = (images + task.settings["step"] * (others - images)).clamp(0, 1)
            parts.append(task.model(moved).float().softmax(1))
            task.report.add(len(labels), backward=False)
    return torch.cat(parts)
