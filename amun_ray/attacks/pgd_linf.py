"""Projected gradient descent in an Linf ball (Madry et al., ICLR 2018), no random start."""

from typing import Literal

import torch
from torch import Tensor, nn

from amun_ray.attacks.adversarial import Adversarial, attacked, check_at_least, check_radius
from amun_ray.attacks.radius import RadiusSearch


def move_linf(clean: Tensor, point: Tensor, gradient: Tensor, radius: Tensor, step_ratio: float) -> Tensor:
    """A step of `step_ratio * radius` in every pixel against the gradient's sign, back into the ball and the box."""
    limit = radius[:, None]
    step = point - step_ratio * limit * gradient.sign() - clean
    return (clean + torch.maximum(torch.minimum(step, limit), -limit)).clamp_(0, 1)


def pgd_linf(model: nn.Module, images: Tensor, labels: Tensor, *, radius: float | Tensor, steps: int = 50,
             step_ratio: float = 0.1, stop: Literal["full", "first_flip"] = "full",
             objective: str = "margin") -> Adversarial:
    """Attack each image within `radius` per pixel, one number or (N,). Other arguments as in `pgd_l2`."""
    check_radius(radius, len(images))
    check_at_least("steps", steps, 1)
    search = RadiusSearch(move=move_linf, eps_init=radius, doublings=0, steps=steps, step_ratio=step_ratio, stop=stop,
                          objective=objective)
    return attacked(search, model, images, labels)
