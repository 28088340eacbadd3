"""Random crop and horizontal flip of a whole batch at once, on the images' device."""

from typing import NamedTuple

import torch
from torch import Tensor


class Augmentation(NamedTuple):
    """The training augmentation of clean images; the defaults change nothing."""

    crop: int = 0  # pixels of zero padding on each side before a random crop to the original size
    flip: bool = False  # mirror left-right with probability 1/2


def draw(count: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """One augmentation per sample: (count, 3) int64 of row shift, column shift in [-crop, crop], and flip 0 or 1.

    Drawn on the CPU, so that every device sees the same augmentations.
    """
    crop = augmentation.crop
    shifts = torch.randint(-crop, crop + 1, (count, 2), generator=generator)
    flips = torch.randint(0, 1 + augmentation.flip, (count, 1), generator=generator)
    return torch.cat([shifts, flips], dim=1)


def augmented(images: Tensor, rows: Tensor, draws: Tensor) -> Tensor:
    """The images `rows` (B,) of `images` (N, C, H, W), each shifted and flipped as its row of `draws` (B, 3) says.

    One gather reads the source pixel of every target pixel, with all its channels; pixels from outside the image are
    0: the zero padding. Returns (B, H, W, C), contiguous, with the dtype of `images`: once permuted, it is the
    channels_last batch that convolutions prefer.
    """
    _, channels, height, width = images.shape
    down, across, flip = draws.unbind(1)
    x = torch.arange(width, device=images.device)
    source_y = torch.arange(height, device=images.device) + down[:, None]  # (B, H)
    source_x = torch.where(flip[:, None] == 1, width - 1 - x, x) + across[:, None]  # (B, W)
    inside_y = (source_y >= 0) & (source_y < height)
    inside_x = (source_x >= 0) & (source_x < width)
    pixels = images.index_select(0, rows).permute(0, 2, 3, 1).reshape(-1, channels)  # (B * H * W, C)
    first = height * width * torch.arange(len(rows), device=images.device)
    line = first[:, None] + width * source_y.clamp_(0, height - 1)
    source = line[:, :, None] + source_x.clamp_(0, width - 1)[:, None, :]  # (B, H, W)
    picked = pixels.index_select(0, source.flatten()).view(len(rows), height, width, channels)
    return picked.mul_((inside_y[:, :, None] & inside_x[:, None, :])[..., None])
