"""`secant`: the nearest boundary of several classes, and a walk along it whose steps learn how it bends.

Our own method: dearer than `nearest` by nearly half, and nearer. It chooses among the classes with the largest logits
at the clean image x0, as DeepFool does among all (Moosavi-Dezfooli et al., CVPR 2016): for one forward and K backward
passes the margins m_k = z_y - z_k and their gradients g_k are known there, and with them the nearest linearised
boundary, at |m_k| / ||g_k||. Where the second nearest is nearly as near, a forward pass at a point on it decides: the
margin falls along the line from x0 to the point as far as the secant says, and the class whose line is shorter wins.
At the second point of the walk the two strongest classes are compared once more, by the boundaries linearised there.

The steps are those of `nearest`, from d = x - x0 to

    d' = d + tau q - c g,   c such that   m + g (d' - d) = 0,   then x = x0 + (1 + OVERSHOOT + b) d'

which begin at the first point on the boundary, whether it is misclassified or not. With p = (g d / g g) g - d, the way
from d to the projection of x0 on the plane at right angles to g, the Newton step along the boundary is q = B^-1 p; B is
the Hessian of the Lagrangian, 1 where the boundary is flat. B^-1 comes from the last step as in L-BFGS with one pair
(Nocedal and Wright, Numerical Optimization, 2006, algorithm 7.4): s and t = B s, the changes of d and -p since the last
look, both without what is along g. It begins at s t / t t (Barzilai and Borwein, IMA Journal of Numerical Analysis,
1988), and half of the correction is made: one secant is noisy. As far as B is known, the boundary bends away from its
plane on this step by b = tau^2 q (p - q) / 2 d d of the distance, and the point is beyond by as much.

Where PATIENCE points are all right, as the box [0, 1] may stop the way to a class, the walk begins again at x0, against
whichever class is strongest where it stands. The nearest wrong point seen is kept. A sample is done when the next point
would be nearer by less than `tolerance`: so samples whose boundary bends get the looks that the others do not need.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amun_ray.attacks.adversarial import Adversarial, attacked
from amun_ray.attacks.boundary import TINY, onto_boundary
from amun_ray.attacks.look import STRONGEST, Look, margins, strongest
from amun_ray.attacks.slots import Rows

TRUST = 0.9  # tau
SHORTEST = 0.1  # step length s t / t t, where the secant says less
BELIEF = 0.5  # share of the correction by BFGS that is made
OVERSHOOT, MOST_BEND = 0.002, 0.03  # as shares of the distance
PATIENCE = 12  # points that are all classified correctly: then the walk begins again, and after as many tau is 0
HYSTERESIS = 0.97  # times as far as it is counts the boundary that the walk is on, when compared with another
DOUBT = 1.2  # times as far as the nearest linearised boundary: where a second one is tried too
NONE = -1


@dataclass
class SecantRows(Rows):
    """`eps` is the norm of the best point."""

    taken: Tensor  # (N,) int32, steps taken towards `rival`, the first from the clean image
    rival: Tensor  # (N,) int64, the class that the margin is taken against, or what `Looker` has for it
    margin: Tensor  # (N,) the margin against it at the clean image
    line: Tensor  # (N,) how far its boundary is on the line to the first point
    second: Tensor  # (N,) int64, a class that is to be tried, or NONE
    second_margin: Tensor  # (N,) the margin against it at the clean image
    trying: Tensor  # (N,) bool: `point` is on the boundary of `second`
    other: Tensor  # (N, D) that point; while it is looked at, the next one towards `rival`
    step: Tensor  # (N, D) offset from the clean image at the last look of the walk
    pull: Tensor  # (N, D) from there to the clean image's projection on the plane at right angles to the gradient

    @property
    def rivals(self) -> Tensor:
        return torch.where(self.wants & (self.taken == 2) & (self.rival >= 0), -2, self.rival)


@dataclass(frozen=True, kw_only=True)
class Secant:
    """The search as rows of a batch (see slots.Attack). `steps` caps the looks."""

    steps: int = 60
    tolerance: float = 0.01
    kappa: float = 0.0
    competitors: int = 4
    objective: str = "margin"

    def begin(self, clean: Tensor, label: Tensor) -> SecantRows:
        nowhere = clean.new_zeros(label.shape)
        rows = SecantRows.fresh(
            clean, label, taken=torch.zeros_like(label, dtype=torch.int32),
            rival=torch.full_like(label, -self.competitors), margin=nowhere, line=nowhere.clone(),
            second=torch.full_like(label, NONE), second_margin=nowhere.clone(),
            trying=torch.zeros_like(label, dtype=torch.bool), other=clean.clone(), step=torch.zeros_like(clean),
            pull=torch.zeros_like(clean))
        rows.eps.fill_(torch.inf)
        return rows

    def advance(self, rows: SecantRows, look: Look) -> Tensor:
        """Keep the point just seen if it is the best so far, and take the next step."""
        step, _ = rows.keep_nearest(look, self.kappa)
        walking, tried = ~rows.trying, rows.trying.nonzero().squeeze(1)
        for count in look.compared:
            look = self._compared(rows, look, step, count)
        margin = margins(look.logits, rows.label, rows.rival) + self.kappa
        new = (walking & (rows.taken == 1) & (rows.second != NONE)).nonzero().squeeze(1)
        rows.line[new] = _crossing(rows.margin[new], margin[new]) * torch.linalg.vector_norm(step[new], dim=1)
        back = self._decided(rows, look, step, tried)
        move, bend = self._along(rows, look.gradient, step, walking)
        onto_boundary(rows.clean, step.add_(move), look.gradient, margin, reach=(1 + OVERSHOOT + bend)[:, None],
                      out=rows.point)
        rows.taken += walking
        rows.point[tried] = back
        rows.point[new], rows.other[new] = rows.other[new], rows.point[new]
        rows.trying = torch.zeros_like(rows.trying).index_fill_(0, new, True)
        lost = (~rows.flipped & (rows.taken > PATIENCE) & (rows.rival >= 0)).nonzero().squeeze(1)
        rows.point[lost], rows.taken[lost], rows.rival[lost] = rows.clean[lost], 0, STRONGEST
        rows.wants = ~rows.trying & (~rows.flipped | (rows.looks < self.steps))
        done = (rows.looks > self.steps) | (rows.eps == 0)
        if self.tolerance:
            ahead = torch.linalg.vector_norm(rows.point - rows.clean, dim=1)
            done |= walking & ~rows.trying & rows.flipped & (ahead > (1 - self.tolerance) * rows.eps)
        return done

    def _compared(self, rows: SecantRows, look: Look, step: Tensor, count: int) -> Look:
        """Choose the class with the nearest linearised boundary, where `count` of them were compared, and in a clean
        image a second one to try. Returns the look with the gradient against the first.
        """
        at, gradients = (rows.rivals == -count).nonzero().squeeze(1), look.compared[count]
        logits, each = look.logits[at], torch.arange(len(at), device=at.device)
        classes = strongest(logits, rows.label[at], count)
        margin = logits.gather(1, rows.label[at, None]) - logits.gather(1, classes) + self.kappa
        away = margin - (gradients * step[at, None]).sum(2)
        away /= torch.linalg.vector_norm(gradients, dim=2).clamp_min(TINY)
        away = torch.where(classes == rows.rival[at, None], HYSTERESIS * away, away)
        first, second = away.topk(2, largest=False).indices.unbind(1)
        rival = classes[each, first]
        stays = (rival == rows.rival[at])[:, None]
        rows.step[at] = torch.where(stays, rows.step[at], step[at])  # no change, no secant
        rows.rival[at], rows.margin[at] = rival, margin[each, first]
        look = look._replace(gradient=look.gradient.index_copy(0, at, gradients[each, first]))
        near = (rows.looks[at] == 1) & (away[each, second] < DOUBT * away[each, first])
        at, second, each = at[near], second[near], each[near]
        rows.second[at], rows.second_margin[at] = classes[each, second], margin[each, second]
        clean, point = rows.clean[at], rows.other[at]
        onto_boundary(clean, torch.zeros_like(clean), gradients[each, second], margin[each, second], reach=1.0,
                      out=point)
        rows.other[at] = point
        return look

    def _decided(self, rows: SecantRows, look: Look, step: Tensor, tried: Tensor) -> Tensor:
        """(T, D) where the T rows `tried`, of which the second class was just looked at, go on: with the class whose
        boundary is nearer on the line to its first point."""
        seen = margins(look.logits[tried], rows.label[tried], rows.second[tried]) + self.kappa
        crossing, offset = _crossing(rows.second_margin[tried], seen), step[tried]
        nearer = crossing * torch.linalg.vector_norm(offset, dim=1) < rows.line[tried]
        rows.rival[tried] = torch.where(nearer, rows.second[tried], rows.rival[tried])
        rows.taken[tried] = torch.where(nearer, 1, rows.taken[tried])
        rows.second[tried] = NONE
        on_line = torch.lerp(rows.clean[tried], rows.clean[tried] + offset, (1 + OVERSHOOT) * crossing[:, None])
        return torch.where(nearer[:, None], on_line.clamp_(0, 1), rows.other[tried])

    def _along(self, rows: SecantRows, gradient: Tensor, step: Tensor, walking: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D) the move along the boundary, tau q, and (N,) how far that bends away on it, b; `rows` remembers what
        they come from where `walking`."""
        square = gradient.square().sum(1, keepdim=True).clamp_min(TINY)

        def across(vector: Tensor) -> Tensor:
            return vector - (gradient * vector).sum(1, keepdim=True) / square * gradient

        pull = -across(step)
        moved, turned = across(step - rows.step), across(rows.pull - pull)
        known = (moved * turned).sum(1, keepdim=True)
        trusted = (rows.taken > 1)[:, None] & (known > 0)
        remembered = walking[:, None]
        rows.step, rows.pull = torch.where(remembered, step, rows.step), torch.where(remembered, pull, rows.pull)
        known = known.clamp_min(TINY)
        share = (moved * pull).sum(1, keepdim=True) / known
        length = (known / turned.square().sum(1, keepdim=True).clamp_min(TINY)).clamp(SHORTEST, 1)
        newton = length * (pull - BELIEF * share * turned)
        newton += BELIEF * (share - (turned * newton).sum(1, keepdim=True) / known) * moved
        tau = torch.where(rows.flipped | (rows.taken <= PATIENCE), TRUST, 0.0) * (rows.taken > 0)
        move = tau[:, None] * torch.where(trusted, newton, pull)
        bend = (move * (tau[:, None] * pull - move)).sum(1) / (2 * step.square().sum(1)).clamp_min(TINY)
        return move, bend.clamp(0, MOST_BEND)


def _crossing(clean: Tensor, seen: Tensor) -> Tensor:
    """(N,) the share of the way from the clean image to a point at which a margin is 0, if it falls evenly from `clean`
    to `seen`; infinite where it rises."""
    return torch.where(seen < clean, clean / (clean - seen), torch.inf)


def secant(model: nn.Module, images: Tensor, labels: Tensor, *, steps: int = Secant.steps,
           tolerance: float = Secant.tolerance, kappa: float = Secant.kappa,
           competitors: int = Secant.competitors) -> Adversarial:
    """Find the nearest adversarial image of each of `images` (N, C, H, W) float32 in [0, 1].

    Args:
        labels: (N,) int64.
        steps: looks at a sample beyond its clean image, at most.
        tolerance: a sample is done when its next point would be nearer by less than this share of the distance; 0: when
            all `steps` are taken.
        kappa: the margin, in logits, by which the wrong class must lead.
        competitors: how many other classes, the strongest at the clean image, are compared there, a backward pass each;
            1: against the strongest, wherever the search stands.
    """
    return attacked(Secant(steps=steps, tolerance=tolerance, kappa=kappa, competitors=competitors), model, images,
                    labels)
