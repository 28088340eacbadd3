"""Normalisation as the model's first layer, so that attacks and distances live in pixel space."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from amun_ray.base.errors import UserError

Statistics = tuple[Sequence[float], Sequence[float]]  # mean and std, a number per channel, of pixels in [0, 1]
IMAGENET: Statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as torchvision's models expect it


def statistics(setting: str | Mapping[str, Sequence[float]], channels: int) -> Statistics:
    """What `imagenet`, `none` or `{"mean": ..., "std": ...}` stands for.

    Raises:
        UserError: of another number of channels than the images.
    """
    if setting == "none":
        return (0.0,) * channels, (1.0,) * channels
    mean, std = IMAGENET if isinstance(setting, str) else (setting["mean"], setting["std"])
    if len(mean) != channels:
        raise UserError(f"data.normalize: {setting} is for images of {len(mean)} channels, these have {channels}")
    return mean, std


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
            raise UserError(f"normalisation: every std must be above 0, found {list(std)}; a channel is constant, "
                            "data.normalize: none leaves it as it is")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def __repr__(self) -> str:
        """As a config has it, to six digits."""
        mean, std = ([float(f"{value:.6g}") for value in part.flatten()] for part in (self.mean, self.std))
        return f"{{mean: {mean}, std: {std}}}"

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std
