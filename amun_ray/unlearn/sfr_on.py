"""SFR-on: few masked, clipped ascent steps on D_F among the descent on D_R (Huang et al., NeurIPS 2024).

Constants are those of the authors' script for CIFAR-10. Its exponential moving average has weight 1 and does nothing;
here there is none. The learning rate follows the sweep's schedule, as with every method.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from amun_ray.training.batches import batch_sizes
from amun_ray.training.loop import EpochPlan, Forward, Mask, Objective, Pass
from amun_ray.training.parts import Part
from amun_ray.unlearn.gradients import Vector, gradient
from amun_ray.unlearn.method import Setting, Task
from amun_ray.unlearn.plans import FORGET_STATISTICS, forget_updates

EVERY = 5  # steps on D_R for each step on D_F
LARGEST_NORM = 7.0  # of the gradient of a step on D_F, after the mask
TINY = 1e-15  # avoids division by zero, as in the authors' script

SFR_ON = FORGET_STATISTICS | {
    "alpha": Setting(default=25, low=1, high=100, log=True, at_least=0),
    "decay_epochs": Setting(default=4, low=1, high=10, above=0),
    "loss_power": Setting(default=0.5, low=0, high=1, at_least=0),
    "threshold": Setting(default=1, low=0.1, high=10, log=True, at_least=0),
}


def sfr_on(task: Task) -> EpochPlan:
    """An epoch is one pass over D_R; before each EVERY of its steps comes one step on a batch of D_F.

    That step climbs the loss of the batch, weighed by alpha * (1 + cos(pi * t / decay_epochs)) / 2 at time t, in
    epochs since the start; after `decay_epochs`, which are the whole run of the script, there is none any more. Within
    the batch a sample counts by 1 / loss^loss_power. The gradient is 0 outside `balanced` weights, which momentum and
    weight decay still move. Cost: one gradient over D_R and D_F, and a fifth more than fine-tuning.
    """
    at, retain, batch_size = task.settings, task.sets.retained, task.recipe.batch_size
    mask, forget_batches = balanced(task), _endless_forget(task)

    def epoch_passes(epoch: int) -> list[Pass]:
        passes = []
        groups = torch.randperm(len(retain.labels), generator=task.generator).split(
            batch_sizes(len(retain.labels), EVERY * batch_size))
        for number, rows in enumerate(groups):
            share = (epoch - 1 + number / len(groups)) / at["decay_epochs"]
            if share < 1:
                weight = at["alpha"] * (1 + math.cos(math.pi * share)) / 2
                passes.append(Pass((next(forget_batches),), climb(weight, at["loss_power"]),
                                   statistics=forget_updates(task), moves=mask, clip=LARGEST_NORM))
            passes.append(Pass((retain.take(rows, augment=retain.augment),)))
        return passes

    return epoch_passes


def climb(weight: float, power: float) -> Objective:
    """-weight times the mean of the batch's losses, in which a sample counts by 1 / loss^power."""

    def ascent(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(forward(images).float(), labels, reduction="none")
        counts = 1 / (losses.detach() ** power + TINY)
        return -weight * (counts * losses).sum() / counts.sum()

    return ascent


def balanced(task: Task) -> Mask:
    """The weights whose diagonal Fisher information of D_F is at least `threshold` times that of D_R."""
    forget, retain = fisher(task, task.sets.forget), fisher(task, task.sets.retained)
    return {name: forget[name] + TINY >= task.settings["threshold"] * (retain[name] + TINY) for name in forget}


def fisher(task: Task, part: Part) -> Vector:
    """The mean over the batches of `part`, in order, of the squared gradient of their mean cross-entropy."""
    places = torch.arange(len(part.labels)).split(task.recipe.batch_size)
    total: Vector = {}
    for rows in places:
        slopes = gradient(task.model, part.take(rows, augment=False), batch_size=task.recipe.batch_size,
                          cost=task.report)
        total = {name: total.get(name, 0) + slope**2 / len(places) for name, slope in slopes.items()}
    return total


def _endless_forget(task: Task) -> Iterator[Part]:
    """Batches of D_F, each as a part; every sample once before any comes again."""
    forget = task.sets.forget
    sizes = batch_sizes(len(forget.labels), task.recipe.batch_size)
    while True:
        for rows in torch.randperm(len(forget.labels), generator=task.generator).split(sizes):
            yield forget.take(rows, augment=forget.augment)
