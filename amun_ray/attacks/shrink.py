"""Moves misclassified images back towards the clean ones: bisection, forward passes only."""

import torch
from torch import Tensor

from amun_ray.attacks.look import Looker, fooled


def shrink(look: Looker, clean: Tensor, found: Tensor, label: Tensor, *, times: int) -> Tensor:
    """The last misclassified point of `times` bisections between `clean` (N, D) and `found` (N, D), misclassified.

    Every answer is misclassified, and no farther than `found`. The boundary may cross the line more than once:
    the answer is next to one crossing, not always the nearest.
    """
    low = found.new_zeros(len(found))
    high = torch.ones_like(low)
    nothing = torch.zeros_like(label, dtype=torch.bool)
    for _ in range(times):
        middle = (low + high) / 2
        wrong = fooled(look(torch.lerp(clean, found, middle[:, None]), label, nothing), label)
        low = torch.where(wrong, low, middle)
        high = torch.where(wrong, middle, high)
    return torch.where((high < 1)[:, None], torch.lerp(clean, found, high[:, None]), found)
