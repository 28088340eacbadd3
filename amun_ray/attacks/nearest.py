"""`nearest`: the margin search, one forward and one backward pass per step, about seven steps in all.

Our own method. The first phase is DeepFool (Moosavi-Dezfooli et al., CVPR 2016) against the single strongest other
class. The second walks along the boundary towards the clean image, as SuperDeepFool's projections do (Abdollahpour et
al., 2023), but keeps part of the displacement so far, which the plain projection discards.

With m = z_y - max_{j != y} z_j the margin at the point x, g its gradient, x0 the clean image and d = x - x0:

    d' = (1 - tau) d - c g,   c such that   m + g (d' - d) = -kappa,   then x = x0 + (1 + OVERSHOOT) d'

tau is 0 until the image is first misclassified, then falls from `TAU_FIRST` to `TAU_LAST` over `polish` steps.
The length c accounts for the box [0, 1]: at most three Newton updates on g (clamp(x0 + (1 - tau) d - c g) - x0)
find it, without running the model. The nearest misclassified point seen is kept.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from amun_ray.attacks.adversarial import Adversarial, attacked
from amun_ray.attacks.look import Look, fooled
from amun_ray.attacks.slots import Rows

TAU_FIRST, TAU_LAST = 0.7, 0.1
OVERSHOOT = 0.01  # as a share of the distance
BOX_UPDATES = 3
SETTLED = 1e-5  # relative change below which a step's length needs no further update
TINY = 1e-30


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
        step = rows.point - rows.clean
        distance = torch.linalg.vector_norm(step, dim=1)
        wrong = fooled(look, rows.label, self.kappa)
        wrong |= (rows.looks == 1) & (look.predicted != rows.label)
        better = wrong & (distance < rows.eps)
        rows.eps = torch.where(better, distance, rows.eps)
        rows.flipped |= wrong
        rows.polished += rows.flipped
        done = (rows.polished >= self.polish) | (rows.looks > self.steps) | (rows.eps == 0)
        # a sample that never flipped keeps its last attempt
        shown = better | (done & ~rows.flipped)
        torch.where(shown[:, None], rows.point, rows.best, out=rows.best)
        # the last point is only judged
        rows.wants = ~rows.flipped | (rows.polished < self.polish - 1)
        self._move(rows, look, step)
        return done

    def _move(self, rows: NearestRows, look: Look, step: Tensor) -> None:
        """Set `rows.point` to the next point to look at. `step` (N, D) is its offset from the clean image; overwritten.

        On a CPU all this is memory-bound, so buffers are overwritten instead of allocated.
        """
        polished, gradient, clean = rows.polished, look.gradient, rows.clean
        share = (polished / max(self.polish - 1, 1)).clamp(0, 1)
        tau = torch.where(polished >= 0, TAU_FIRST + (TAU_LAST - TAU_FIRST) * share, 0.0)
        scratch = torch.empty_like(step), rows.point
        along = torch.mul(gradient, step, out=scratch[0]).sum(1)
        target = along - (look.margin + self.kappa)  # what g d' must become
        start = step.mul_((1 - tau)[:, None]).add_(clean)
        length = _length_in_box(_Line(start, clean, gradient, gradient.square(), target), along * (1 - tau), scratch)
        start.addcmul_(gradient, length[:, None], value=-1)
        torch.lerp(clean, start, 1 + OVERSHOOT, out=rows.point).clamp_(0, 1)


class _Line(NamedTuple):
    """For each of N rows the points `start - c gradient`, and the target for g (point - clean) inside the box."""

    start: Tensor  # (N, D)
    clean: Tensor  # (N, D)
    gradient: Tensor  # (N, D)
    square: Tensor  # (N, D), of the gradient
    target: Tensor  # (N,)

    def beyond(self, length: Tensor, wish: Tensor, boxed: Tensor) -> Tensor:
        """(N,) how far the target is exceeded at `length` (N,); `wish` becomes the point, `boxed` is scratch."""
        torch.addcmul(self.start, self.gradient, length[:, None], value=-1, out=wish)
        torch.clamp(wish, 0, 1, out=boxed)
        return boxed.sub_(self.clean).mul_(self.gradient).sum(1) - self.target

    def updated(self, length: Tensor, wish: Tensor, boxed: Tensor) -> Tensor:
        """`length` (N,) after one Newton update; `wish` and `boxed` are overwritten."""
        beyond = self.beyond(length, wish, boxed)
        torch.clamp(wish, 0, 1, out=boxed)
        # 0 and 1 as floats: converting a bool tensor would take longer than everything else
        return length + beyond / wish.eq_(boxed).mul_(self.square).sum(1).clamp_min(TINY)


def _length_in_box(line: _Line, along: Tensor, scratch: tuple[Tensor, Tensor]) -> Tensor:
    """The length c (N,) of the step; `along` (N,) is g (start - clean), `scratch` two tensors (N, D) to overwrite.

    One update is enough for nearly all rows; only the others get more.
    """
    total = line.square.sum(1)
    length = line.updated((along - line.target) / total.clamp_min(TINY), *scratch)
    off = line.beyond(length, *scratch).abs()
    left = ((off > SETTLED * length.abs() * total) & (total > TINY)).nonzero().squeeze(1)
    few = _Line(*(column[left] for column in line))
    for _ in range(BOX_UPDATES - 1):
        length[left] = few.updated(length[left], *(torch.empty_like(few.start) for _ in scratch))
    return length


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
