"""Shapes, ranges and distances of image batches, checked where a batch comes in."""

import torch
from torch import Tensor

from amun_ray.errors import UserError


def l2(difference: Tensor) -> Tensor:
    """Euclidean norm of each row of `difference` (N, ...): a tensor (N,), in pixel units."""
    return difference.flatten(1).norm(dim=1)


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 pixels in 0..255 as float32 in [0, 1]; the one place where that conversion is made."""
    return pixels.to(torch.float32).div_(255)


def check_unit_range(images: Tensor, name: str) -> None:
    """Raise UserError unless every value of `images` lies in [0, 1]."""
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):
        raise UserError(f"{name}: pixels must lie in [0, 1], found [{low.item():.4g}, {high.item():.4g}]; "
                        "pass unnormalised images, normalisation is a layer of the model")
