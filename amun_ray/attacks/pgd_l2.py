"""Projected gradient descent in an L2 ball (Madry et al., ICLR 2018), no random start."""

from typing import Literal

import torch
from torch import Tensor, nn

from amun_ray.attacks.adversarial import Adversarial, attacked, check_radius
from amun_ray.attacks.radius import RadiusSearch

TINY = 1e-30


def move_l2(clean: Tensor, point: Tensor, gradient: Tensor, radius: Tensor, step_ratio: float) -> Tensor:
    """Step `step_ratio * radius` against the normalised gradient, project into the ball, then clamp to the box."""
    norm = torch.linalg.vector_norm(gradient, dim=1).clamp_min(TINY)
    step = point - (step_ratio * radius / norm)[:, None] * gradient - clean
    length = torch.linalg.vector_norm(step, dim=1).clamp_min(TINY)
    return (clean + step * (radius / length).clamp_max(1)[:, None]).clamp_(0, 1)


def pgd_l2(model: nn.Module, images: Tensor, labels: Tensor, *, radius: float | Tensor,
           steps: int = RadiusSearch.steps, step_ratio: float = RadiusSearch.step_ratio,
           stop: Literal["full", "first_flip"] = "full", objective: str = "margin") -> Adversarial:
    """Attack each image within `radius`, one number or (N,), in pixel units.

    Args:
        images: (N, C, H, W) float32 in [0, 1]. A sample the model already gets wrong is returned unchanged.
        labels: (N,) int64.
        step_ratio: length of a step, in radii.
        stop: `full` takes all steps, `first_flip` stops a sample at its first flip.
        objective: a row of look.OBJECTIVES.
    """
    check_radius(radius, len(images))
    search = RadiusSearch(move=move_l2, eps_init=radius, doublings=0, steps=steps, step_ratio=step_ratio, stop=stop,
                          objective=objective)
    return attacked(search, model, images, labels)
