"""Runs an attack over any number of images in a batch that stays full: as one image finishes, the next one enters."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

from amun_ray.attacks.look import Look, Looker, fooled


@dataclass
class Rows:
    """Everything an attack knows about the N images in the batch; a subclass adds its attack's own columns.

    `Attack.begin` creates the columns, `Attack.advance` updates them in place.
    """

    clean: Tensor  # (N, D) the input
    label: Tensor  # (N,) int64
    point: Tensor  # (N, D) the image to look at next
    best: Tensor  # (N, D) the answer so far
    wants: Tensor  # (N,) bool: whether the look at `point` needs a gradient
    judged: Tensor  # (N,) bool: whether its prediction will be read
    flipped: Tensor  # (N,) bool: whether `best` is misclassified
    looks: Tensor  # (N,) int32: how often the image was looked at
    eps: Tensor  # (N,) radius of the ball that `best` lies in
    clean_margin: Tensor  # (N,) share of the spread of the logits, at `clean`

    @classmethod
    def fresh(cls, clean: Tensor, label: Tensor, **own: Tensor) -> Self:
        """The columns of new images (N, D); `own`: the subclass's columns."""
        count, yes = len(clean), torch.ones_like(label, dtype=torch.bool)
        return cls(clean=clean.clone(), label=label.clone(), point=clean.clone(), best=clean.clone(), wants=yes,
                   judged=yes.clone(), flipped=~yes, looks=torch.zeros_like(label, dtype=torch.int32),
                   eps=clean.new_zeros(count), clean_margin=clean.new_zeros(count), **own)

    @property
    def rivals(self) -> Tensor | None:
        """(N,) int64: what the next look takes its gradient against, as `Looker` has it."""
        return None

    @property
    def columns(self) -> dict[str, Tensor]:
        """Every column by its name."""
        return dict(vars(self))

    def keep_nearest(self, look: Look, kappa: float = 0.0) -> tuple[Tensor, Tensor]:
        """Let the point just seen be `best`, and its norm `eps`, if it is the nearest wrong one, or none was wrong.

        Returns:
            The point's offset from the clean image (N, D), and whether it is wrong there (N,) bool, by a margin of more
            than `kappa` logits unless it is the clean image itself.
        """
        step = self.point - self.clean
        distance = torch.linalg.vector_norm(step, dim=1)
        wrong = fooled(look, self.label, kappa) | ((self.looks == 1) & (look.predicted != self.label))
        better = wrong & (distance < self.eps)
        self.eps = torch.where(better, distance, self.eps)
        self.flipped |= wrong
        torch.where((better | ~self.flipped)[:, None], self.point, self.best, out=self.best)
        return step, wrong

    def kept(self, which: Tensor) -> Self:
        """The rows marked in `which` (N,) bool, as new columns."""
        return type(self)(**{name: column[which] for name, column in self.columns.items()})

    def put(self, places: Tensor, newcomers: Self) -> None:
        """Overwrite the rows at `places` (M,) with `newcomers`, M rows."""
        for name, column in newcomers.columns.items():
            getattr(self, name)[places] = column


R = TypeVar("R", bound=Rows)


class Attack(Protocol[R]):
    """An attack as a pure function of the rows of a batch: no row's result depends on another row."""

    @property
    def objective(self) -> str:
        """A row of look.OBJECTIVES."""

    def begin(self, clean: Tensor, label: Tensor) -> R:
        """The columns of new images: `clean` (N, D), `label` (N,)."""

    def advance(self, rows: R, look: Look) -> Tensor:
        """Update `rows` in place from a look at `rows.point`; returns (N,) bool: which rows are done."""


class Outcome(NamedTuple):
    """The results of an attack, in the order of its input."""

    best: Tensor  # (N, D) float32
    flipped: Tensor  # (N,) bool
    eps: Tensor  # (N,) float32
    looks: Tensor  # (N,) int32
    clean_margin: Tensor  # (N,) float32, share of the spread of the logits


def run(attack: Attack[R], look: Looker, clean: Tensor, label: Tensor, *, slots: int) -> Outcome:
    """Attack every row of `clean` (N, D) with at most `slots` of them in the batch at a time."""
    count, entered = len(clean), min(slots, len(clean))
    outcome = Outcome(torch.empty_like(clean), torch.empty_like(label, dtype=torch.bool), clean.new_empty(count),
                      torch.empty_like(label, dtype=torch.int32), clean.new_empty(count))
    rows = attack.begin(clean[:entered], label[:entered])
    owner = torch.arange(entered, device=clean.device)  # which input row sits in each slot
    while len(owner):
        seen = look(rows.point, rows.label, rows.wants, attack.objective, rows.judged, rows.rivals)
        first = rows.looks == 0
        rows.clean_margin = torch.where(first, seen.margin / seen.spread.clamp_min(1e-30), rows.clean_margin)
        rows.looks += 1
        leaving = attack.advance(rows, seen).nonzero().squeeze(1)
        if len(leaving) == 0:
            continue
        for answers, column in zip(outcome, Outcome._fields, strict=True):
            answers[owner[leaving]] = getattr(rows, column)[leaving]
        replaced = leaving[:count - entered]
        if len(replaced):
            newcomers = torch.arange(entered, entered + len(replaced), device=clean.device)
            entered += len(replaced)
            rows.put(replaced, attack.begin(clean[newcomers], label[newcomers]))
            owner[replaced] = newcomers
        if len(replaced) < len(leaving):
            staying = torch.ones_like(owner, dtype=torch.bool)
            staying[leaving[len(replaced):]] = False
            rows = rows.kept(staying)
            owner = owner[staying]
    return outcome
