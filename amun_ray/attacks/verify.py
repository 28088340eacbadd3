"""What follows a search: bisection back towards the clean image, then verification of each row by the original model,
unfolded, in float32, on the image exactly as it will be stored."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from amun_ray.attacks.look import SLACK, Look, Looker, fooled
from amun_ray.attacks.slots import Outcome

# A row that does not quite flip the original is pushed away from the clean image by these factors, one after another.
PUSHES = (1.002, 1.005, 1.01, 1.02, 1.05, 1.1, 1.2)
# Search and verification compute differently, so a row may lose part of the slack it was found with, not all.
KEPT_SLACK = SLACK / 2
# Clean margins below this share of the spread are checked on the original: is the sample already wrong?
DOUBT = 1e-3


class Verdict(NamedTuple):
    """The rows as they will be stored."""

    image: Tensor  # (N, D) float32
    label: Tensor  # (N,) int64, what the original predicts for it
    flipped: Tensor  # (N,) bool
    already_wrong: Tensor  # (N,) bool


def shrink(look: Looker, clean: Tensor, adversarial: Tensor, label: Tensor, *, times: int) -> Tensor:
    """The last misclassified point of `times` bisections between `clean` and `adversarial`, both (N, D).

    `adversarial` is misclassified; so is every answer, which is no farther. The boundary may cross the line more than
    once: the answer is next to one crossing, not always the nearest.
    """
    low = adversarial.new_zeros(len(adversarial))
    high = torch.ones_like(low)
    nothing = torch.zeros_like(label, dtype=torch.bool)
    for _ in range(times):
        middle = (low + high) / 2
        wrong = fooled(look(torch.lerp(clean, adversarial, middle[:, None]), label, nothing), label)
        low = torch.where(wrong, low, middle)
        high = torch.where(wrong, middle, high)
    return torch.where((high < 1)[:, None], torch.lerp(clean, adversarial, high[:, None]), adversarial)


def flips(look: Look, label: Tensor, kappa: float) -> Tensor:
    """(N,) bool: wrong by `kappa` logits, and by enough to stay wrong in another batch or layout."""
    return (look.predicted != label) & (look.margin <= -(kappa + KEPT_SLACK * look.spread))


def verify(original: Looker, clean: Tensor, label: Tensor, outcome: Outcome, *, kappa: float,
           again: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """Check every row on the original; fix those that should flip it but do not: push them farther, else search again.

    Args:
        original: the looker of the original model.
        clean: (N, D), before the search.
        outcome: the search's results; rows that it could not flip are checked, but not fixed.
        again: a search on the original itself: (clean, label) -> best.
    """
    nothing = torch.zeros_like(label, dtype=torch.bool)
    best = outcome.best.clone()
    already = nothing.clone()
    doubtful = (outcome.clean_margin < DOUBT).nonzero().squeeze(1)
    if len(doubtful):
        seen = original(clean[doubtful], label[doubtful], nothing[doubtful])
        already[doubtful] = seen.predicted != label[doubtful]
        best[already] = clean[already]
    seen = original(best, label, nothing)
    predicted, good = seen.predicted.clone(), flips(seen, label, kappa) | already
    for push in (*PUSHES, None):
        rows = (outcome.flipped & ~good).nonzero().squeeze(1)
        if len(rows) == 0:
            break
        tried = again(clean[rows], label[rows]) if push is None else _pushed(clean[rows], best[rows], push)
        seen = original(tried, label[rows], nothing[rows])
        fixed = flips(seen, label[rows], kappa)
        best[rows[fixed]], predicted[rows[fixed]] = tried[fixed], seen.predicted[fixed]
        good[rows] = fixed
    return Verdict(best, predicted, good & ~already, already)


def _pushed(clean: Tensor, best: Tensor, push: float) -> Tensor:
    return (clean + push * (best - clean)).clamp_(0, 1)
