"""The search for each sample's own radius (AMUN, algorithm 1), around any attack inside a ball."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from amun_ray.attacks.look import Look, fooled
from amun_ray.attacks.slots import Rows

# (clean (N, D), point (N, D), gradient (N, D), radius (N,), step_ratio) -> the next point (N, D) in the ball and in
# [0, 1]. The gradient is that of the objective, which the attack minimises.
Move = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]


@dataclass
class RadiusRows(Rows):
    """`eps` is the current radius."""

    moves: Tensor  # (N,) taken within this radius
    doubled: Tensor  # (N,) doublings so far
    clean_gradient: Tensor  # (N, D) at the clean image; (N, 0) for a warm start


@dataclass(frozen=True, kw_only=True)
class RadiusSearch:
    """Take `steps` moves inside the ball; double the radius of a sample that is still right, up to `doublings` times.

    The paper and the authors' scripts differ: `start="clean", stop="full"` follows the paper, `start="warm",
    stop="first_flip"` the scripts:
    - start: with a new radius, the sample starts again from the clean image (clean) or from its last point (warm);
    - stop: its prediction is read after all steps of a radius (full) or after each step (first_flip).

    The gradient at the clean image is the same for every radius, so a clean start computes it only once.
    """

    move: Move
    eps_init: float | Tensor | None = None  # the first radius, or one for each row of a single batch; None: calibrate
    doublings: int = 12
    steps: int = 50
    step_ratio: float = 0.1  # length of a move, in radii
    start: Literal["clean", "warm"] = "clean"
    stop: Literal["full", "first_flip"] = "full"
    objective: str = "margin"

    def begin(self, clean: Tensor, label: Tensor) -> RadiusRows:
        rows = RadiusRows.fresh(clean, label, moves=torch.zeros_like(label), doubled=torch.zeros_like(label),
                                clean_gradient=torch.zeros_like(clean if self.start == "clean" else clean[:, :0]))
        assert self.eps_init is not None, "eps_init must be calibrated first"
        rows.eps += self.eps_init
        return rows

    def advance(self, rows: RadiusRows, look: Look) -> Tensor:
        """Judge the point just seen; move on inside the ball, or into the next one."""
        first = rows.looks == 1
        already_wrong = first & (look.predicted != rows.label)
        complete = rows.moves >= self.steps
        read = complete | (self.stop == "first_flip")
        hit = already_wrong | (read & ~first & fooled(look, rows.label))
        again = complete & ~hit
        capped = again & (rows.doubled >= self.doublings)
        done = hit | capped
        rows.best = torch.where(done[:, None], rows.point, rows.best)
        rows.flipped |= hit
        again &= ~capped
        rows.eps = torch.where(already_wrong, 0.0, torch.where(again, 2 * rows.eps, rows.eps))
        rows.doubled += again
        rows.moves = torch.where(again, 0, rows.moves) + 1
        rows.judged = (rows.moves >= self.steps) | (self.stop == "first_flip")
        rows.wants = (rows.moves < self.steps) | (self.start == "warm")
        rows.point = self._next(rows, look.gradient, first, again)
        return done

    def _next(self, rows: RadiusRows, gradient: Tensor, first: Tensor, again: Tensor) -> Tensor:
        point = rows.point
        if self.start == "clean":
            rows.clean_gradient = torch.where(first[:, None], gradient, rows.clean_gradient)
            if again.any():
                gradient = torch.where(again[:, None], rows.clean_gradient, gradient)
                point = torch.where(again[:, None], rows.clean, point)
        return self.move(rows.clean, point, gradient, rows.eps, self.step_ratio)
