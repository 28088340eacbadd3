"""Random crops and horizontal flip of a whole batch at once, on the images' device."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from amun_ray.base.tensors import to_unit

RATIO = (3 / 4, 4 / 3)  # width over height of a box that is resized
TRIES = 10  # boxes that are drawn for an image; where none fits, it is taken whole


class Augmentation(NamedTuple):
    """The training augmentation of clean images; the defaults change nothing."""

    crop: int = 0  # pixels of zero padding on each side before a random crop to the original size
    flip: bool = False  # mirror left-right with probability 1/2
    resized: tuple[float, float] | None = None  # least and largest share of an image in a box that is resized to it

    @property
    def inputs(self) -> list[Any]:
        """As digests know it."""
        return [self.crop, self.flip] + ([] if self.resized is None else [list(self.resized)])


def draw(count: int, augmentation: Augmentation, generator: torch.Generator, size: tuple[int, int]) -> Tensor:
    """One augmentation per sample of `size`, height and width: (count, 3) int64 of row shift, column shift in
    [-crop, crop], and flip 0 or 1; with `resized` (count, 7), behind these the box: top, left, height, width.

    Drawn on the CPU, so that every device sees the same augmentations.
    """
    crop = augmentation.crop
    shifts = torch.randint(-crop, crop + 1, (count, 2), generator=generator)
    flips = torch.randint(0, 1 + augmentation.flip, (count, 1), generator=generator)
    boxes = [] if augmentation.resized is None else [_boxes(count, augmentation.resized, generator, size)]
    return torch.cat([shifts, flips, *boxes], dim=1)


def _boxes(count: int, share: tuple[float, float], generator: torch.Generator, size: tuple[int, int]) -> Tensor:
    """(count, 4) int64 of top, left, height and width, drawn as torchvision's RandomResizedCrop draws them: the area
    evenly in `share` of the image, the ratio evenly on a logarithmic scale in RATIO, the place evenly."""
    height, width = size
    random = torch.rand((2, count, TRIES), dtype=torch.float64, generator=generator)
    area = height * width * (share[0] + (share[1] - share[0]) * random[0])
    ratio = RATIO[0] * torch.exp(math.log(RATIO[1] / RATIO[0]) * random[1])
    sides = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()], dim=2).round().long().clamp_(min=1)
    whole = torch.tensor(size).expand(count, 1, 2)
    fits = (sides <= whole).all(2)
    tries = torch.cat([sides, whole], dim=1)
    first = torch.where(fits.any(1), fits.long().argmax(1), TRIES)
    box = tries[torch.arange(count), first]
    places = (torch.rand((count, 2), dtype=torch.float64, generator=generator) * (torch.tensor(size) - box + 1)).long()
    return torch.cat([places, box], dim=1)


def augmented(images: Tensor, rows: Tensor, draws: Tensor) -> Tensor:
    """The images `rows` (B,) of `images` (N, C, H, W), each changed as its row of `draws` says.

    One gather reads the source pixel of every target pixel, with all its channels; pixels from outside the image are
    0: the zero padding. Returns (B, H, W, C), contiguous, with the dtype of `images`: once permuted, it is the
    channels_last batch that convolutions prefer. Where a box is resized, float32 in [0, 1].
    """
    if draws.shape[1] > 3:
        return _resized(images, rows, draws)
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


def _resized(images: Tensor, rows: Tensor, draws: Tensor) -> Tensor:
    """The box of each image as large as the image, by bilinear interpolation, flipped: (B, H, W, C) float32 in [0, 1].

    A box is never larger than what it becomes, so that antialiasing would change nothing.
    """
    _, channels, height, width = images.shape
    flip, top, left, high, wide = draws[:, 2:].unbind(1)
    above, below, down = _between(top, high, height)
    before, after, across = _between(left, wide, width)
    before, after, across = (torch.where(flip[:, None] == 1, each.flip(1), each) for each in (before, after, across))
    taken = images.index_select(0, rows).permute(0, 2, 3, 1)
    lines = taken.reshape(-1, width * channels)  # (B * H, W * C)
    line = height * torch.arange(len(rows), device=images.device)[:, None]

    def between(ends: Tensor, first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
        low, high = (_unit(ends.index_select(0, each.flatten())) for each in (first, second))
        return low.lerp_(high, weight.reshape(-1, 1))

    pixels = between(lines, line + above, line + below, down).view(-1, channels)  # (B * H * W, C)
    line = width * torch.arange(len(rows) * height, device=images.device).view(-1, height, 1)
    weights = across[:, None].expand(-1, height, -1)
    return between(pixels, line + before[:, None], line + after[:, None], weights).view(taken.shape)


def _unit(pixels: Tensor) -> Tensor:
    return to_unit(pixels) if pixels.dtype == torch.uint8 else pixels


def _between(start: Tensor, length: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `size` target pixels the two source pixels in [start, start + length), and the weight of the second.

    All (B, size); pixels are squares, whose centres are compared.
    """
    place = (torch.arange(size, device=start.device) + 0.5) * (length / size)[:, None] - 0.5
    place = torch.minimum(place.clamp_(min=0), (length - 1)[:, None])
    first = place.long()
    second = torch.minimum(first + 1, (length - 1)[:, None])
    return start[:, None] + first, start[:, None] + second, place - first
