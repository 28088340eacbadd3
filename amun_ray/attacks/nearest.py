"""`nearest`: the margin search, one forward and one backward pass per step, about seven in all.

Ours. The first phase is DeepFool (Moosavi-Dezfooli et al., CVPR 2016) against the single strongest other class;
the second walks along the boundary towards the clean image, as SuperDeepFool's projections do (Abdollahpour et
al., 2023), but keeps a part of the way already gone, which the plain projection throws away.

With m = z_y - max_{j != y} z_j the margin at the point x, g its gradient, x0 the clean image and d = x - x0:

    d' = (1 - tau) d - c g,   c such that   m + g (d' - d) = -kappa,   then x = x0 + (1 + OVERSHOOT) d'

tau is 0 until the image is misclassified for the first time, then falls from `TAU_FIRST` to `TAU_LAST` over
`polish` steps. The length c accounts for the box [0, 1]: it is found by three Newton updates on
g (clamp(x0 + (1 - tau) d - c g) - x0), without asking the model. The nearest misclassified point ever seen is kept.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amun_ray.attacks.adversarial import Adversarial, attacked, check_at_least
from amun_ray.attacks.look import Look, fooled
from amun_ray.attacks.slots import Rows, fresh

TAU_FIRST, TAU_LAST = 0.7, 0.1
OVERSHOOT = 0.01  # of the distance
BOX_UPDATES = 3
TINY = 1e-30


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The search as rows of a batch (see slots.Attack). `steps` caps the looks, polishing included."""

    steps: int
    polish: int
    kappa: float
    objective: str = "margin"

    def begin(self, clean: Tensor, label: Tensor) -> Rows:
        """A column of its own: polishing steps taken, -1 until the first flip; `eps` is the norm of the best."""
        rows = fresh(clean, label)
        rows["eps"].fill_(torch.inf)
        rows["polished"] = torch.full_like(label, -1)
        return rows

    def advance(self, rows: Rows, look: Look) -> Tensor:
        """Keep the point just seen if it is the best so far, and take the next step."""
        step = rows["point"] - rows["clean"]
        distance = torch.linalg.vector_norm(step, dim=1)
        wrong = fooled(look, rows["label"], self.kappa)
        wrong |= (rows["looks"] == 1) & (look.predicted != rows["label"])
        better = wrong & (distance < rows["eps"])
        rows["eps"] = torch.where(better, distance, rows["eps"])
        rows["flipped"] |= wrong
        rows["polished"] += rows["flipped"]
        done = (rows["polished"] >= self.polish) | (rows["looks"] > self.steps) | (rows["eps"] == 0)
        # a sample that never flipped keeps its last attempt
        shown = better | (done & ~rows["flipped"])
        rows["best"] = torch.where(shown[:, None], rows["point"], rows["best"])
        # the last point is only judged
        rows["wants"] = ~rows["flipped"] | (rows["polished"] < self.polish - 1)
        rows["point"] = self._next(rows, look, step)
        return done

    def _next(self, rows: Rows, look: Look, step: Tensor) -> Tensor:
        """The next point (N, D), from the point at `step` (N, D) from the clean image."""
        polished = rows["polished"]
        share = (polished / max(self.polish - 1, 1)).clamp(0, 1)
        tau = torch.where(polished >= 0, TAU_FIRST + (TAU_LAST - TAU_FIRST) * share, 0.0)
        gradient, clean = look.gradient, rows["clean"]
        target = (gradient * step).sum(1) - (look.margin + self.kappa)  # what g d' must become
        base = step * (1 - tau)[:, None]
        square = gradient.square()
        length = ((gradient * base).sum(1) - target) / square.sum(1).clamp_min(TINY)
        for _ in range(BOX_UPDATES):
            wish = clean + base - length[:, None] * gradient
            boxed = wish.clamp(0, 1)
            free = (square * (boxed == wish)).sum(1)
            length = length + ((gradient * (boxed - clean)).sum(1) - target) / free.clamp_min(TINY)
        return (clean + (1 + OVERSHOOT) * (base - length[:, None] * gradient)).clamp(0, 1)


def nearest(model: nn.Module, images: Tensor, labels: Tensor, *, steps: int = 60, polish: int = 4,
            kappa: float = 0.0) -> Adversarial:
    """Find the nearest adversarial image of each of `images` (N, C, H, W) float32 in [0, 1].

    Args:
        labels: (N,) int64.
        steps: passes after which a sample that is still right is given up.
        polish: steps along the boundary after the first flip.
        kappa: the margin, in logits, by which the wrong class must lead.
    """
    check_at_least("steps", steps, 1)
    check_at_least("polish", polish, 0)
    check_at_least("kappa", kappa, 0)
    return attacked(Nearest(steps=steps, polish=polish, kappa=kappa), model, images, labels)
