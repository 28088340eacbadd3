"""Which weights matter for the forget set, and so may move (Fan et al., SalUn, ICLR 2024)."""

import torch

from amun_ray.training.loop import Mask
from amun_ray.unlearn.gradients import gradient
from amun_ray.unlearn.method import Setting, Task

SALIENCY = {"mask_ratio": Setting(default=0.5, low=0.1, high=0.9, above=0, at_most=1)}


def salient(task: Task) -> Mask:
    """The `mask_ratio` share of all weights with the largest |gradient of the loss on D_F| at the model as it comes.

    Biases and batch norm weights compete with all others under one threshold. Exactly round(ratio * weights) of them,
    at least one, are True; among equal gradients the earlier weight is taken. The gradient is that of the evaluated
    model: eval mode, clean images. What a mask of the training loop holds still, weight decay and momentum included, is
    decided in `training.loop.train`; the authors' masked gradient lets weight decay shrink the weights it should keep.
    """
    slopes = gradient(task.model, task.sets.forget, batch_size=task.recipe.batch_size, cost=task.report)
    size = torch.cat([slope.abs().flatten() for slope in slopes.values()])
    kept = max(1, round(task.settings["mask_ratio"] * len(size)))
    chosen = torch.zeros_like(size, dtype=torch.bool)
    chosen[size.argsort(descending=True, stable=True)[:kept]] = True
    pieces = chosen.split([slope.numel() for slope in slopes.values()])
    return {name: piece.view(slope.shape) for piece, (name, slope) in zip(pieces, slopes.items(), strict=True)}
