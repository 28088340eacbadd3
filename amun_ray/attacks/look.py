"""One look at a model: logits and the gradient of an objective, for rows of flat images, and the cost.

Inside the attacks an image is a row of a matrix (N, D) with D = H * W * C, in that order. Its view (N, C, H, W) is
then channels_last without a copy, and distances and projections are plain vector arithmetic.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from amun_ray.base.errors import UserError

logger = logging.getLogger(__name__)

# A margin smaller than this share of the logits' spread is float32 noise: another batch size, layout or folding
# may change its sign. Rows must cross the boundary by more, so that they flip the model wherever it runs.
SLACK = 2e-5
# bfloat16 keeps 8 bits: on a ResNet, margins are off by up to 1 % of the spread. Margins below this share are
# computed again in float32.
BFLOAT16_DOUBT = 0.03
STRONGEST = -1  # for a rival: whichever other class has the largest logit at the point


class Look(NamedTuple):
    """What one pass says about N images."""

    predicted: Tensor  # (N,) int64
    margin: Tensor  # (N,) float32, true logit minus the largest other one: negative where the model is wrong
    spread: Tensor  # (N,) float32, largest minus smallest logit: the unit in which margins are small or large
    logits: Tensor  # (N, classes) float32
    gradient: Tensor  # (N, D) float32, of the objective w.r.t. the image; zero where not wanted
    compared: Mapping[int, Tensor] = {}  # K -> (M, K, D), against K classes, of the M rows that want K, in their order


def flat(images: Tensor) -> Tensor:
    """Images (N, C, H, W) as rows (N, H * W * C)."""
    return images.permute(0, 2, 3, 1).reshape(len(images), -1)


def shape_of(images: Tensor) -> tuple[int, int, int]:
    """(C, H, W) of images (N, C, H, W)."""
    _, channels, height, width = images.shape
    return channels, height, width


def unflat(rows: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Rows (N, H * W * C) as images (N, C, H, W) in channels_last; a view."""
    channels, height, width = shape
    return rows.view(-1, height, width, channels).permute(0, 3, 1, 2)


def margins(logits: Tensor, labels: Tensor, rivals: Tensor | None = None) -> Tensor:
    """(N,) the label's logit minus the largest other one, or that of the rival, `rivals` (N,) int64, where it is not
    negative. Scales with the logits."""
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    if rivals is not None:
        others = torch.where(rivals < 0, others, logits.gather(1, rivals.clamp_min(0)[:, None]).squeeze(1))
    return logits.gather(1, labels[:, None]).squeeze(1) - others


def strongest(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """(N, K) int64: the other classes with the largest logits, the largest first; K is `count`, or all there are."""
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.topk(min(count, logits.shape[1] - 1)).indices


def log_odds(logits: Tensor, labels: Tensor, _: Tensor | None = None) -> Tensor:
    """(N,) log(p / (1 - p)) of the label, against all other classes together.

    Its gradient is that of the cross-entropy divided by p - 1, so a step along the normalised gradient (or its
    sign) is the same. Unlike the cross-entropy it does not underflow when the model is sure.
    """
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)
    return logits.gather(1, labels[:, None]).squeeze(1) - others


OBJECTIVES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {"margin": margins,
                                                                            "cross_entropy": log_odds}


def fooled(look: Look, labels: Tensor, kappa: float = 0.0) -> Tensor:
    """(N,) bool: wrong, by a margin of more than `kappa` (logit units) and more than float noise."""
    return (look.predicted != labels) & (look.margin <= -(kappa + SLACK * look.spread))


@dataclass
class Capacity:
    """How many images go through a model at a time; lowered for good when the GPU runs out of memory.

    Share one Capacity between all attacks on a device, so that the limit is found only once.
    """

    images: int


@dataclass
class Looker:
    """Runs a frozen model on as many images at a time as fit, and counts the passes.

    If the GPU runs out of memory, it halves the capacity until the batch fits, warns and goes on.
    """

    model: Callable[[Tensor], Tensor]
    shape: tuple[int, int, int]  # C, H, W
    capacity: Capacity
    bfloat16: bool = False
    contiguous: bool = False  # images contiguous in (N, C, H, W), as a user's model gets them, not channels_last
    fixed: bool = False  # every pass has one shape (N = the capacity) and a gradient, as a CUDA graph requires
    forward: int = field(default=0, init=False)  # images passed, each way
    backward: int = field(default=0, init=False)

    def __call__(self, rows: Tensor, labels: Tensor, wants: Tensor, objective: str = "margin",
                 judged: Tensor | None = None, rivals: Tensor | None = None) -> Look:
        """Look at rows (N, D).

        Args:
            wants: (N,) bool, where to compute the gradient of `objective`; a backward pass runs only there.
            judged: (N,) bool, where prediction and margin must be exact; elsewhere they may be rough. None: everywhere.
            rivals: (N,) int64, the class that the gradient of `margin` is taken against; -1, the default: the strongest
                other one; -K: each of the K strongest, in one forward and K backward passes.
        """
        judged = torch.ones_like(wants) if judged is None else judged
        rivals = torch.full_like(labels, STRONGEST) if rivals is None else rivals
        kind = torch.where(wants, -rivals.clamp(max=STRONGEST), 0)  # the number of gradients
        if self.fixed:
            kind.clamp_(min=1)
        kinds = kind.unique().tolist()
        if len(kinds) == 1:
            return self._chunked(rows, labels, rivals, judged, objective if kinds[0] else None)
        places = [(kind == one).nonzero().squeeze(1) for one in kinds]
        whole = _joined([self._chunked(rows[place], labels[place], rivals[place], judged[place],
                                       objective if one else None) for one, place in zip(kinds, places, strict=True)])
        order = torch.cat(places).argsort()
        return Look._make((*(column[order] for column in whole[:-1]), whole.compared))

    def _chunked(self, rows: Tensor, labels: Tensor, rivals: Tensor, judged: Tensor, objective: str | None) -> Look:
        looks, begin, halved = [], 0, False
        while begin < len(rows):
            part = slice(begin, begin + self.capacity.images)
            try:
                looks.append(self._look(rows[part], labels[part], rivals[part], judged[part], objective))
                begin = part.stop
            except torch.OutOfMemoryError:
                if self.capacity.images == 1:
                    raise
                self.capacity.images //= 2
                halved = True
        if halved:
            logger.warning("out of GPU memory: the attack goes on with %d images at a time", self.capacity.images)
        return looks[0] if len(looks) == 1 else _joined(looks)

    def _look(self, rows: Tensor, labels: Tensor, rivals: Tensor, judged: Tensor, objective: str | None) -> Look:
        logits, *gradients = self._pass(rows, labels, rivals, objective)
        if self.bfloat16:
            logits = self._sharpened(rows, labels, judged, logits)
        low, high = logits.aminmax(dim=1)
        spread = high - low
        if not spread.isfinite().all():
            raise UserError("model: its logits or their gradient are NaN or infinite for images in [0, 1]; "
                            "fix its weights")
        return Look(logits.argmax(1), margins(logits, labels), spread, logits, gradients[0],
                    {-int(rivals[0]): torch.stack(gradients, 1)} if len(gradients) > 1 else {})

    def _pass(self, rows: Tensor, labels: Tensor, rivals: Tensor, objective: str | None) -> list[Tensor]:
        """Logits (N, classes), of dtype float32, and one or more gradients (N, D)."""
        count = len(rows)
        self.forward += count
        if objective is None:
            with torch.no_grad():
                return [self._logits(rows, self.bfloat16), rows.new_zeros(()).expand_as(rows)]
        if self.fixed:
            rows, labels, rivals = (_padded(column, self.capacity.images) for column in (rows, labels, rivals))
        rows = rows.detach().requires_grad_()
        with torch.enable_grad():
            logits = self._logits(rows, self.bfloat16)
            if not logits.requires_grad:
                raise UserError("model: its logits do not depend on the image in a way that has a gradient")
            several = -int(rivals[0])
            against = strongest(logits, labels, several).T if several > 1 else rivals[None]
            found = [logits.detach()[:count].clone()]
            for place, rival in enumerate(against):
                if place and self.fixed:  # a compiled pass goes back once
                    logits, self.forward = self._logits(rows, self.bfloat16), self.forward + count
                self.backward += count
                gradient, = torch.autograd.grad(OBJECTIVES[objective](logits, labels, rival).sum(), rows,
                                                retain_graph=not self.fixed and place < len(against) - 1)
                found.append(gradient[:count].clone() if self.fixed else gradient)
        return found

    def _logits(self, rows: Tensor, bfloat16: bool) -> Tensor:
        images = unflat(rows, self.shape)
        with torch.autocast(rows.device.type, torch.bfloat16, enabled=bfloat16):
            return self.model(images.contiguous() if self.contiguous else images).float()

    def _sharpened(self, rows: Tensor, labels: Tensor, judged: Tensor, logits: Tensor) -> Tensor:
        """The logits, recomputed in float32 where bfloat16 cannot tell which side of the boundary a judged image is."""
        low, high = logits.aminmax(dim=1)
        doubtful = (judged & (margins(logits, labels) < BFLOAT16_DOUBT * (high - low))).nonzero().squeeze(1)
        if len(doubtful):
            self.forward += len(doubtful)
            again = rows[doubtful]
            with torch.no_grad():
                sharp = self._logits(_padded(again, self.capacity.images) if self.fixed else again, False)
            logits[doubtful] = sharp[:len(doubtful)]
        return logits


def _joined(looks: list[Look]) -> Look:
    """The rows of all `looks`, one after another."""
    columns = (torch.cat(parts) for parts in zip(*(look[:-1] for look in looks), strict=True))
    counts = {count for look in looks for count in look.compared}
    return Look._make((*columns, {
        count: torch.cat([look.compared[count] for look in looks if count in look.compared]) for count in counts}))


def _padded(rows: Tensor, count: int) -> Tensor:
    """`rows` (N, ...) with zeros appended up to `count` rows."""
    return torch.cat([rows, rows.new_zeros(count - len(rows), *rows.shape[1:])]) if len(rows) < count else rows
