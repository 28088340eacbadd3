"""Ranges and distances of image batches, checked where a batch comes in; and a model in eval mode for a while."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from amun_ray.base.errors import UserError


def l2(difference: Tensor) -> Tensor:
    """Euclidean norm of each row of `difference` (N, ...): a tensor (N,), in pixel units."""
    return difference.flatten(1).norm(dim=1)


def shared_tensor(array: np.ndarray) -> Tensor:
    """A tensor over an array that may be read-only, without a copy: nothing may write to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 pixels in 0..255 as float32 in [0, 1]; the one place where that conversion is made."""
    return pixels.to(torch.float32).div_(255)


def check_unit_range(images: Tensor, name: str) -> None:
    """Raise UserError unless every value of `images` lies in [0, 1]."""
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):
        raise UserError(f"{name}: pixels must lie in [0, 1], found [{low.item():.4g}, {high.item():.4g}]; "
                        "pass unnormalised images, normalisation is a layer of the model")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """`model` in eval mode; on leaving, each of its modules gets the mode back that it had (they may differ)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training
