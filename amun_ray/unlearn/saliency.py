"""Which weights matter for the forget set, and so may move (Fan et al., SalUn, ICLR 2024)."""

import torch

from amun_ray.training.loop import Mask
from amun_ray.unlearn.gradients import gradient
from amun_ray.unlearn.method import Setting, Task

SALIENCY = {"mask_ratio": Setting(default=0.5, low=0.1, high=0.9, above=0, at_most=1)}


def salient(task: Task) -> Mask:
    """The `mask_ratio` share of all weights with the largest |gradient of the loss on D_F|, at the given model.

    Biases and batch norm weights compete with all others under one threshold. Exactly round(ratio * weights) weights,
    at least one, are True; ties go to the earlier weight. The gradient is taken in eval mode on clean images.
    `training.loop.train` decides what a mask holds still, weight decay and momentum included; the authors' masked
    gradient lets weight decay shrink the weights that it should keep.
    """
    slopes = gradient(task.model, task.sets.forget, batch_size=task.recipe.batch_size, cost=task.report)
    size = torch.cat([slope.abs().flatten() for slope in slopes.values()])
    kept = max(1, round(task.settings["mask_ratio"] * len(size)))
    chosen = torch.zeros_like(size, dtype=torch.bool)
    chosen[size.argsort(descending=True, stable=True)[:kept]] = True
    pieces = chosen.split([slope.numel() for slope in slopes.values()])
    return {name: piece.view(slope.shape) for piece, (name, slope) in zip(pieces, slopes.items(), strict=True)}
