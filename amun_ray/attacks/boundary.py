"""One step onto the linearised boundary, inside the box [0, 1]; it runs no model.

On a CPU all this is memory-bound, so buffers are overwritten instead of allocated.
"""

from typing import NamedTuple

import torch
from torch import Tensor

BOX_UPDATES = 3
SETTLED = 1e-5  # relative change below which a step's length needs no further update
TINY = 1e-30


def onto_boundary(clean: Tensor, step: Tensor, gradient: Tensor, margin: Tensor, *, reach: float | Tensor, out: Tensor,
                  tau: Tensor | None = None) -> None:
    """Set `out` (N, D) to the next point x of each of N rows, which stand at `clean + step` (both (N, D)).

        d' = (1 - tau) step - c gradient,   c such that   margin + gradient (d' - step) = 0,   then x = clean + reach d'

    At most three Newton updates on gradient (clamp(clean + (1 - tau) step - c gradient) - clean) find the length c.

    Args:
        step: overwritten.
        gradient: (N, D), of the margin.
        margin: (N,), which is to vanish.
        reach: a number, or (N, 1).
        tau: (N,), the share of the step that is given up before the boundary is met again; nothing if not given.
    """
    scratch = torch.empty_like(step), out
    along = torch.mul(gradient, step, out=scratch[0]).sum(1)
    target = along - margin  # what gradient d' must become
    if tau is not None:
        step.mul_((1 - tau)[:, None])
        along *= 1 - tau
    start = step.add_(clean)
    length = _length_in_box(_Line(start, clean, gradient, gradient.square(), target), along, scratch)
    start.addcmul_(gradient, length[:, None], value=-1)
    torch.lerp(clean, start, reach, out=out).clamp_(0, 1)


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
