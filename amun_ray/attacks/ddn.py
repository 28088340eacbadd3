"""Decoupled direction and norm (Rony et al., CVPR 2019): the ball shrinks while the image is wrong, and else grows."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amun_ray.attacks.adversarial import Adversarial, attacked
from amun_ray.attacks.look import Look
from amun_ray.attacks.slots import Rows

TINY = 1e-30
STEP_LAST = 0.01  # as a share of the first step's length


@dataclass
class DdnRows(Rows):
    """`eps` is the norm of the best point."""

    ball: Tensor  # (N,) the current norm


@dataclass(frozen=True, kw_only=True)
class Ddn:
    """The attack as rows of a batch (see slots.Attack).

    The step length follows a cosine from `eps_init` to a hundredth of it. The paper uses `eps_init=1`. Pixels are not
    quantised to 256 levels, since rows are stored in float32.
    """

    steps: int = 100
    eps_init: float = 0.1
    gamma: float = 0.05
    objective: str = "margin"

    def begin(self, clean: Tensor, label: Tensor) -> DdnRows:
        rows = DdnRows.fresh(clean, label, ball=clean.new_full((len(clean),), self.eps_init))
        rows.eps.fill_(torch.inf)
        return rows

    def advance(self, rows: DdnRows, look: Look) -> Tensor:
        """Take one step along the gradient, then project onto the sphere of the new norm, then into the box."""
        looks = rows.looks
        step, wrong = rows.keep_nearest(look)
        done = (looks > self.steps) | (rows.eps == 0)
        rows.wants = looks < self.steps
        rows.ball = rows.ball * torch.where(wrong, 1 - self.gamma, 1 + self.gamma)
        turn = torch.cos((looks - 1) * (math.pi / self.steps)).to(step.dtype)
        length = self.eps_init * (STEP_LAST + (1 - STEP_LAST) * (1 + turn) / 2)
        norm = torch.linalg.vector_norm(look.gradient, dim=1).clamp_min(TINY)
        step = step - (length / norm)[:, None] * look.gradient
        size = torch.linalg.vector_norm(step, dim=1).clamp_min(TINY)
        rows.point = (rows.clean + step * (rows.ball / size)[:, None]).clamp_(0, 1)
        return done


def ddn(model: nn.Module, images: Tensor, labels: Tensor, *, steps: int = Ddn.steps,
        eps_init: float = Ddn.eps_init, gamma: float = Ddn.gamma) -> Adversarial:
    """Find the nearest adversarial image of each of `images` (N, C, H, W) in `steps` steps.

    Args:
        eps_init: the first norm, in pixel units.
        gamma: the share by which the norm shrinks or grows at each step.
    """
    return attacked(Ddn(steps=steps, eps_init=eps_init, gamma=gamma), model, images, labels)
