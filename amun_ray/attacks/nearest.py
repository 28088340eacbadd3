"""`nearest`: the margin search, one forward and one backward pass per step, about seven steps in all.

Our own method. The first phase is DeepFool (Moosavi-Dezfooli et al., CVPR 2016) against the single strongest other
class. The second walks along the boundary towards the clean image, as SuperDeepFool's projections do (Abdollahpour et
al., 2023), but keeps part of the displacement so far, which the plain projection discards.

With m = z_y - max_{j != y} z_j the margin at the point x, g its gradient, x0 the clean image and d = x - x0:

    d' = (1 - tau) d - c g,   c such that   m + g (d' - d) = -kappa,   then x = x0 + (1 + OVERSHOOT) d'

tau is 0 until the image is first misclassified, then falls over `polish` steps: a row of TAPERS.
The length c accounts for the box [0, 1]: at most three Newton updates on g (clamp(x0 + (1 - tau) d - c g) - x0)
find it, without running the model. The nearest misclassified point seen is kept.

The strongest other class at the clean image need not be the one whose boundary is nearest. With `competitors` above 1
the search looks at the clean image once for each of so many strongest ones, and is against the one with the least
|m| / ||g|| from then on, as DeepFool chooses among all classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from amun_ray.attacks.adversarial import Adversarial, attacked
from amun_ray.attacks.look import STRONGEST, Look, fooled, margins
from amun_ray.attacks.slots import Rows

# tau by the share of the polishing steps that are taken, 0 to 1. Where it is large at the end, the last point is often
# on the right side of the boundary, and an earlier one, farther away, is kept.
TAPERS: Mapping[str, Callable[[Tensor], Tensor]] = {"linear": lambda share: 0.7 - 0.6 * share,
                                                    "quadratic": lambda share: 0.8 * (1 - share).square()}
OVERSHOOT = 0.01  # as a share of the distance
BOX_UPDATES = 3
SETTLED = 1e-5  # relative change below which a step's length needs no further update
TINY = 1e-30


@dataclass
class NearestRows(Rows):
    """`eps` is the norm of the best point. While competitors are compared, `best` is the step towards the nearest."""

    polished: Tensor  # (N,) polishing steps taken, -1 until the first flip
    rival: Tensor  # (N,) int64, the class that the margin is taken against, or STRONGEST
    nearest: Tensor  # (N,) int64, of the competitors compared so far the one whose boundary is nearest
    away: Tensor  # (N,) |m| / ||g|| of that one

    @property
    def rivals(self) -> Tensor:
        return self.rival


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The search as rows of a batch (see slots.Attack). `steps` caps the looks, polishing included."""

    steps: int = 60
    polish: int = 4
    kappa: float = 0.0
    competitors: int = 1
    taper: str = "linear"
    objective: str = "margin"

    def begin(self, clean: Tensor, label: Tensor) -> NearestRows:
        strongest = torch.full_like(label, STRONGEST)
        rows = NearestRows.fresh(clean, label, polished=torch.full_like(label, -1), rival=strongest,
                                 nearest=strongest.clone(), away=clean.new_full(label.shape, torch.inf))
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
        if self.competitors > 1:
            self._compare(rows, look)
        return done

    def _compare(self, rows: NearestRows, look: Look) -> None:
        """Send rows that were looked at in their clean image back to it for the next competitor, or on to the nearest.

        The order of the competitors is that of the logits there, the same at each of these looks.
        """
        count = min(self.competitors, look.logits.shape[1] - 1)
        ranked = look.logits.scatter(1, rows.label[:, None], -torch.inf).topk(count).indices

        def at(place: Tensor) -> Tensor:
            return ranked.gather(1, place.long().clamp(0, count - 1)[:, None]).squeeze(1)

        rival = at(rows.looks - 1)
        away = margins(look.logits, rows.label, rival) / torch.linalg.vector_norm(look.gradient, dim=1).clamp_min(TINY)
        nearer = (rows.looks <= count) & (away < rows.away)
        rows.away, rows.nearest = torch.where(nearer, away, rows.away), torch.where(nearer, rival, rows.nearest)
        torch.where(nearer[:, None], rows.point, rows.best, out=rows.best)
        again, last = rows.looks < count, rows.looks == count
        rows.rival = torch.where(again, at(rows.looks), torch.where(last, rows.nearest, rows.rival))
        torch.where(last[:, None], rows.best, rows.point, out=rows.point)
        torch.where(again[:, None], rows.clean, rows.point, out=rows.point)

    def _move(self, rows: NearestRows, look: Look, step: Tensor) -> None:
        """Set `rows.point` to the next point to look at. `step` (N, D) is its offset from the clean image; overwritten.

        On a CPU all this is memory-bound, so buffers are overwritten instead of allocated.
        """
        polished, gradient, clean = rows.polished, look.gradient, rows.clean
        share = (polished / max(self.polish - 1, 1)).clamp(0, 1)
        tau = torch.where(polished >= 0, TAPERS[self.taper](share), 0.0)
        scratch = torch.empty_like(step), rows.point
        along = torch.mul(gradient, step, out=scratch[0]).sum(1)
        margin = margins(look.logits, rows.label, rows.rival)
        target = along - (margin + self.kappa)  # what g d' must become
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
            polish: int = Nearest.polish, kappa: float = Nearest.kappa, competitors: int = Nearest.competitors,
            taper: str = Nearest.taper) -> Adversarial:
    """Find the nearest adversarial image of each of `images` (N, C, H, W) float32 in [0, 1].

    Args:
        labels: (N,) int64.
        steps: passes after which the search gives up on a sample that is still classified correctly.
        polish: steps along the boundary after the first flip.
        kappa: the margin, in logits, by which the wrong class must lead.
        competitors: of how many other classes, the strongest at the clean image, the nearest boundary is searched;
            1: that of the strongest one, wherever the search stands.
        taper: a row of TAPERS.
    """
    return attacked(Nearest(steps=steps, polish=polish, kappa=kappa, competitors=competitors, taper=taper), model,
                    images, labels)
