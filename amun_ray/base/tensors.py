"""Ranges and distances of image batches, checked on entry; and a model temporarily in eval mode."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from amun_ray.base.errors import UserError


def l2(difference: Tensor) -> Tensor:
    """Euclidean norm of each row of `difference` (N, ...): (N,), in pixel units."""
    return difference.flatten(1).norm(dim=1)


def shared_tensor(array: np.ndarray) -> Tensor:
    """A tensor sharing the memory of an array that may be read-only: do not write to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 pixels in 0..255 as float32 in [0, 1]; the only place that converts."""
    return pixels.to(torch.float32).div_(255)


def check_unit_range(images: Tensor, name: str) -> None:
    """Raise UserError unless every value of `images` lies in [0, 1]."""
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):
        raise UserError(f"{name}: pixels must lie in [0, 1], found [{low.item():.4g}, {high.item():.4g}]; "
                        "pass unnormalised images, normalisation is a layer of the model")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """`model` in eval mode; on exit each of its modules returns to its own earlier mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training
