"""`nearest`: the margin search, one forward and one backward pass per step, about seven steps in all.

Our own method. The first phase is DeepFool (Moosavi-Dezfooli et al., CVPR 2016) against the single strongest other
class. The second walks along the boundary towards the clean image, as SuperDeepFool's projections do (Abdollahpour et
al., 2023), but keeps part of the displacement so far, which the plain projection discards.

With m = z_y - max_{j != y} z_j the margin at the point x, g its gradient, x0 the clean image and d = x - x0:

    d' = (1 - tau) d - c g,   c such that   m + g (d' - d) = -kappa,   then x = x0 + (1 + OVERSHOOT) d'

tau is 0 until the image is first misclassified, then falls from `TAU_FIRST` to `TAU_LAST` over `polish` steps.
The length c accounts for the box [0, 1] (boundary.py). The nearest misclassified point seen is kept.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amun_ray.attacks.adversarial import Adversarial, attacked
from amun_ray.attacks.boundary import onto_boundary
from amun_ray.attacks.look import Look
from amun_ray.attacks.slots import Rows

TAU_FIRST, TAU_LAST = 0.7, 0.1
OVERSHOOT = 0.01  # as a share of the distance


@dataclass
class NearestRows(Rows):
    """`eps` is the norm of the best point."""

    polished: Tensor  # (N,) polishing steps taken, -1 until the first flip


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The search as rows of a batch (see slots.Attack). `steps` caps the looks, polishing included."""

    steps: int = 60
    polish: int = 4
    kappa: float = 0.0
    objective: str = "margin"

    def begin(self, clean: Tensor, label: Tensor) -> NearestRows:
        rows = NearestRows.fresh(clean, label, polished=torch.full_like(label, -1))
        rows.eps.fill_(torch.inf)
        return rows

    def advance(self, rows: NearestRows, look: Look) -> Tensor:
        """Keep the point just seen if it is the best so far, and take the next step."""
        step, _ = rows.keep_nearest(look, self.kappa)
        rows.polished += rows.flipped
        done = (rows.polished >= self.polish) | (rows.looks > self.steps) | (rows.eps == 0)
        # the last point is only judged
        rows.wants = ~rows.flipped | (rows.polished < self.polish - 1)
        share = (rows.polished / max(self.polish - 1, 1)).clamp(0, 1)
        tau = torch.where(rows.polished >= 0, TAU_FIRST + (TAU_LAST - TAU_FIRST) * share, 0.0)
        onto_boundary(rows.clean, step, look.gradient, look.margin + self.kappa, tau=tau, reach=1 + OVERSHOOT,
                      out=rows.point)
        return done


def nearest(model: nn.Module, images: Tensor, labels: Tensor, *, steps: int = Nearest.steps,
            polish: int = Nearest.polish, kappa: float = Nearest.kappa) -> Adversarial:
    """Find the nearest adversarial image of each of `images` (N, C, H, W) float32 in [0, 1].

    Args:
        labels: (N,) int64.
        steps: passes after which the search gives up on a sample that is still classified correctly.
        polish: steps along the boundary after the first flip.
        kappa: the margin, in logits, by which the wrong class must lead.
    """
    return attacked(Nearest(steps=steps, polish=polish, kappa=kappa), model, images, labels)
