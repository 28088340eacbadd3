"""Normalisation as the model's first layer, so that attacks and distances live in pixel space."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amun_ray.base.errors import UserError


class Normalize(nn.Module):
    """`(images - mean) / std` per channel: (N, C, H, W) float32 in [0, 1] -> the same shape.

    `mean` and `std` are buffers: they travel with the weights and are never trained.

    Args:
        mean: C numbers, of pixels in [0, 1].
        std: C numbers above 0.

    Raises:
        UserError: different lengths, or a std that is not above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std):
            raise UserError(f"normalisation needs one mean and one std per channel, found {len(mean)} and {len(std)}")
        if not all(value > 0 for value in std):
            raise UserError(f"normalisation: every std must be above 0, found {list(std)}; a channel is constant")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std
