"""The fast FGSM variant of the AMUN paper's attack ablation: many steps along the sign of one gradient.

The paper describes it in one sentence: eps-sized steps along the sign of one gradient; after a few failed steps it
starts again from a small random offset. Our choices: each new start also doubles eps, so that the search ends. The
offset is uniform in [-eps, eps], with one pattern per start for all images, so that an image's result depends neither
on the batch nor on its place in it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amun_ray.attacks.adversarial import Adversarial, attacked
from amun_ray.attacks.look import Look, fooled
from amun_ray.attacks.slots import Rows
from amun_ray.base.seeds import generator


@dataclass
class FastFgsmRows(Rows):
    """`eps` is the largest change of a pixel."""

    sign: Tensor  # (N, D) of the gradient of the current start
    taken: Tensor  # (N,) steps since the start
    starts: Tensor  # (N,) starts so far


@dataclass(frozen=True, kw_only=True)
class FastFgsm:
    """The attack as rows of a batch (see slots.Attack). One backward pass per start, forward passes otherwise."""

    steps: int = 5
    eps_init: float = 1e-3
    doublings: int = 12
    seed: int = 0
    objective: str = "margin"

    def begin(self, clean: Tensor, label: Tensor) -> FastFgsmRows:
        return FastFgsmRows.fresh(clean, label, sign=torch.zeros_like(clean), taken=torch.zeros_like(label),
                                  starts=torch.zeros_like(label))

    def advance(self, rows: FastFgsmRows, look: Look) -> Tensor:
        """Judge the point just seen; go on along the sign, or start again."""
        already_wrong = (rows.looks == 1) & (look.predicted != rows.label)
        hit = already_wrong | fooled(look, rows.label)
        again = (rows.taken >= self.steps) & ~hit
        capped = again & (rows.starts >= self.doublings)
        done = hit | capped
        rows.best = torch.where(done[:, None], rows.point, rows.best)
        rows.flipped |= hit
        rows.eps = (rows.best - rows.clean).abs().amax(1)
        rows.sign = torch.where((rows.taken == 0)[:, None], look.gradient.sign(), rows.sign)
        rows.starts += again
        radius = self.eps_init * torch.exp2(rows.starts.to(look.margin.dtype))
        step = rows.point - radius[:, None] * rows.sign
        if again.any():
            step = torch.where(again[:, None], rows.clean + radius[:, None] * self._offsets(rows), step)
        rows.point = step.clamp_(0, 1)
        rows.taken = torch.where(again, 0, rows.taken + 1)
        rows.wants = rows.taken == 0
        return done

    def _offsets(self, rows: FastFgsmRows) -> Tensor:
        """(N, D) in [-1, 1], seeded by the start's number alone."""
        width = rows.clean.shape[1]
        drawn = [torch.rand(width, generator=generator(self.seed, "fast_fgsm", start))
                 for start in range(self.doublings + 1)]
        return (2 * torch.stack(drawn).to(rows.clean.device) - 1)[rows.starts.clamp_max(self.doublings)]


def fast_fgsm(model: nn.Module, images: Tensor, labels: Tensor, *, steps: int = FastFgsm.steps,
              eps_init: float = FastFgsm.eps_init, doublings: int = FastFgsm.doublings, seed: int = 0) -> Adversarial:
    """Attack images (N, C, H, W) along the sign of one gradient per start.

    Args:
        steps: steps along one gradient before a new start.
        eps_init: length of the first step per pixel; doubled at each new start.
        doublings: most new starts.
    """
    return attacked(FastFgsm(steps=steps, eps_init=eps_init, doublings=doublings, seed=seed), model, images, labels)
