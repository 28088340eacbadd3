"""One look at a model: logits and the gradient of an objective, for rows of flat images, and the cost.

Inside the attacks an image is a row of a matrix (N, D) with D = H * W * C, in that order. Its view (N, C, H, W) is
then channels_last without a copy, and distances and projections are plain vector arithmetic.
"""

import logging
from collections.abc import Callable
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
            rivals: (N,) int64, the class that the gradient of `margin` is taken against; the strongest where negative,
                and everywhere if None.
        """
        judged = torch.ones_like(wants) if judged is None else judged
        rivals = torch.full_like(labels, STRONGEST) if rivals is None else rivals
        count = int(wants.sum())
        if self.fixed or count in (0, len(rows)):
            return self._chunked(rows, labels, rivals, judged, objective if count else None)
        parts = [(place, self._chunked(rows[place], labels[place], rivals[place], judged[place], kind))
                 for place, kind in ((wants.nonzero().squeeze(1), objective), ((~wants).nonzero().squeeze(1), None))]
        order = torch.cat([place for place, _ in parts]).argsort()
        return Look(*(torch.cat(columns)[order] for columns in zip(*(look for _, look in parts), strict=True)))

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
        return looks[0] if len(looks) == 1 else Look(*(torch.cat(columns) for columns in zip(*looks, strict=True)))

    def _look(self, rows: Tensor, labels: Tensor, rivals: Tensor, judged: Tensor, objective: str | None) -> Look:
        logits, gradient = self._pass(rows, labels, rivals, objective)
        if self.bfloat16:
            logits = self._sharpened(rows, labels, judged, logits)
        low, high = logits.aminmax(dim=1)
        spread = high - low
        if not spread.isfinite().all():
            raise UserError("model: its logits or their gradient are NaN or infinite for images in [0, 1]; "
                            "fix its weights")
        return Look(logits.argmax(1), margins(logits, labels), spread, logits, gradient)

    def _pass(self, rows: Tensor, labels: Tensor, rivals: Tensor, objective: str | None) -> tuple[Tensor, Tensor]:
        """Logits (N, classes), of dtype float32, and gradient (N, D) of one pass."""
        count = len(rows)
        self.forward += count
        if self.fixed:
            rows, labels, rivals = (_padded(column, self.capacity.images) for column in (rows, labels, rivals))
        if objective is None and not self.fixed:
            with torch.no_grad():
                return self._logits(rows, self.bfloat16), rows.new_zeros(()).expand_as(rows)
        self.backward += count
        rows = rows.detach().requires_grad_()
        with torch.enable_grad():
            logits = self._logits(rows, self.bfloat16)
            if not logits.requires_grad:
                raise UserError("model: its logits do not depend on the image in a way that has a gradient")
            gradient, = torch.autograd.grad(OBJECTIVES[objective or "margin"](logits, labels, rivals).sum(), rows)
        return logits.detach()[:count].clone(), gradient[:count]

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


def _padded(rows: Tensor, count: int) -> Tensor:
    """`rows` (N, ...) with zeros appended up to `count` rows."""
    return torch.cat([rows, rows.new_zeros(count - len(rows), *rows.shape[1:])]) if len(rows) < count else rows
