"""Projected gradient descent in an Linf ball (Madry et al., ICLR 2018), no random start; and its first step alone."""

from typing import Literal

import torch
from torch import Tensor, nn

from amun_ray.attacks.adversarial import Adversarial, attacked, check_radius
from amun_ray.attacks.radius import RadiusSearch


def move_linf(clean: Tensor, point: Tensor, gradient: Tensor, radius: Tensor, step_ratio: float) -> Tensor:
    """Step every pixel by `step_ratio * radius` against the gradient's sign, then project into the ball and the box."""
    limit = radius[:, None]
    step = point - step_ratio * limit * gradient.sign() - clean
    return (clean + torch.maximum(torch.minimum(step, limit), -limit)).clamp_(0, 1)


def pgd_linf(model: nn.Module, images: Tensor, labels: Tensor, *, radius: float | Tensor,
             steps: int = RadiusSearch.steps, step_ratio: float = RadiusSearch.step_ratio,
             stop: Literal["full", "first_flip"] = "full", objective: str = "margin") -> Adversarial:
    """Attack each image within `radius` per pixel, one number or (N,). Other arguments as in `pgd_l2`."""
    check_radius(radius, len(images))
    search = RadiusSearch(move=move_linf, eps_init=radius, doublings=0, steps=steps, step_ratio=step_ratio, stop=stop,
                          objective=objective)
    return attacked(search, model, images, labels)


def fgsm(model: nn.Module, images: Tensor, labels: Tensor, *, radius: float | Tensor) -> Adversarial:
    """The fast gradient sign method (Goodfellow et al., ICLR 2015): one step of the full radius.

    Move every pixel of images (N, C, H, W) by `radius` (one number or (N,)) against the gradient's sign.
    """
    check_radius(radius, len(images))
    search = RadiusSearch(move=move_linf, eps_init=radius, doublings=0, steps=1, step_ratio=1.0)
    return attacked(search, model, images, labels)
