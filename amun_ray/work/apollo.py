"""The walk of Apollo, a label-only attack: over the boundary of models that never saw a sample (Tang et al., 2025)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from amun_ray.attacks import AttackSettings, craft
from amun_ray.base.tensors import to_unit
from amun_ray.metrics import flip_confidences, logit_scaled, predict

MODELS = 8  # that never saw the samples, at most: as many as the published 16 shadow models have of each sample
POINTS = 30  # of a walk, as many as published steps
REACH = 2.0  # where it ends, in distances from the sample to the boundary


class Together(nn.Module):
    """The mean logits of several models."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([model(images) for model in self.models]).mean(dim=0)


def walk(model: nn.Module, never: Sequence[nn.Module], images: Tensor, labels: Tensor) -> np.ndarray:
    """(2, n) float64: how strongly the labels of `model` along a walk say that the boundary has moved outwards, and
    inwards; see `metrics.flip_confidences`.

    The walk goes from each sample straight over the nearest point of the boundary of the models that never saw it, out
    to twice its distance; so no step length or bound has to fit the data. It deviates from the published attack, which
    takes 30 steps of a gradient, in that, and in the models: with no models that unlearned the sample both of its
    losses become the cross-entropy of those that never saw it, and one walk serves both.

    Args:
        never: at least one model.
        images: (n, C, H, W), uint8 or in [0, 1], on the models' device.
        labels: (n,) true classes.
    """
    clean, truth = to_unit(images) if images.dtype == torch.uint8 else images, labels.cpu().numpy()
    nearest = craft(Together(never), clean, labels, settings=AttackSettings())
    step = torch.from_numpy(nearest.image).to(clean) - clean
    right, sure = [], []
    for share in np.linspace(0.0, REACH, POINTS + 1):
        point = (clean + float(share) * step).clamp(0, 1)
        right.append(predict(model, point).numpy().argmax(axis=1) == truth)
        sure.append(np.mean([logit_scaled(predict(each, point).numpy(), truth) for each in never], axis=0))
    return flip_confidences(np.stack(right), np.stack(sure))
