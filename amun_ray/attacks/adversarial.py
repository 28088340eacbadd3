"""The attacks as plain functions of a batch: what they return, and how they run on an unprepared model."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from amun_ray.attacks.checks import check_batch, check_settings
from amun_ray.attacks.frozen import frozen
from amun_ray.attacks.look import Capacity, Looker, flat, shape_of, unflat
from amun_ray.attacks.slots import Attack, run
from amun_ray.base.errors import UserError
from amun_ray.base.tensors import l2

CHUNK = 256  # images in the model at a time


class Adversarial(NamedTuple):
    """N images after an attack, in the order of its input."""

    images: Tensor  # (N, C, H, W) float32 in [0, 1]
    labels: Tensor  # (N,) int64, what the model says now
    l2: Tensor  # (N,) float32, distance from the clean image, pixel units
    found: Tensor  # (N,) bool, whether it is misclassified; where False the image is the last, failed, attempt


def attacked(attack: Attack[Any], model: nn.Module, images: Tensor, labels: Tensor) -> Adversarial:
    """Run `attack` on all rows of a batch at once, on a frozen copy of `model` in float32.

    Args:
        images: (N, C, H, W) float32 in [0, 1], on the model's device.
        labels: (N,) int64, the true classes.

    Raises:
        UserError: a batch that does not fit the model, or an attack setting that is not allowed.
    """
    check_settings(vars(attack))
    model = frozen(model)
    check_batch(model, images, labels)
    look = Looker(model, shape_of(images), Capacity(CHUNK))
    outcome = run(attack, look, flat(images), labels, slots=len(images))
    best = unflat(outcome.best, look.shape).contiguous()
    never = torch.zeros_like(outcome.flipped)
    return Adversarial(best, look(outcome.best, labels, never).predicted, l2(best - images), outcome.flipped)


def check_radius(radius: float | Tensor, count: int) -> None:
    """Raise UserError unless `radius` is a positive number or a tensor (N,) of them."""
    values = torch.as_tensor(radius)
    if values.shape not in ((), (count,)):
        raise UserError(f"radius: must be one number or one per image ({count}), found shape {tuple(values.shape)}")
    if not (values > 0).all():
        raise UserError(f"radius: must be positive, found {values.min().item():g}")


