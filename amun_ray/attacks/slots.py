"""Runs an attack over any number of images in a batch that stays full: who is done leaves, the next one enters."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from amun_ray.attacks.look import Look, Looker

Rows = dict[str, Tensor]  # column name -> tensor (N, ...): all that an attack knows of N images

# What every attack keeps of an image: `begin` makes these columns, `advance` updates them in place.
#   clean (N, D) and label (N,): what it was given        point (N, D): the image to look at next
#   wants (N,) bool: whether that look needs a gradient   looks (N,) int32: how often it was looked at
#   judged (N,) bool: whether its prediction will be read
#   best (N, D): the answer so far                        flipped (N,) bool: whether `best` is misclassified
#   eps (N,): radius of the ball that `best` lies in      clean_margin (N,): share of the spread, at `clean`


class Attack(Protocol):
    """An attack as a pure function of the rows of a batch: what it does to one never depends on another."""

    objective: str  # a row of look.OBJECTIVES

    def begin(self, clean: Tensor, label: Tensor) -> Rows:
        """The columns of fresh images: `clean` (N, D), `label` (N,)."""

    def advance(self, rows: Rows, look: Look) -> Tensor:
        """Take in a look at `rows["point"]`, in place; (N,) bool: which rows are done."""


class Found(NamedTuple):
    """The answers of an attack, in the order of its input."""

    best: Tensor  # (N, D) float32
    flipped: Tensor  # (N,) bool
    eps: Tensor  # (N,) float32
    looks: Tensor  # (N,) int32
    clean_margin: Tensor  # (N,) float32, share of the spread of the logits


def fresh(clean: Tensor, label: Tensor) -> Rows:
    """The columns that every attack has."""
    count = len(clean)
    return {
        "clean": clean.clone(),
        "label": label.clone(),
        "point": clean.clone(),
        "best": clean.clone(),
        "wants": torch.ones_like(label, dtype=torch.bool),
        "judged": torch.ones_like(label, dtype=torch.bool),
        "flipped": torch.zeros_like(label, dtype=torch.bool),
        "looks": torch.zeros_like(label, dtype=torch.int32),
        "eps": clean.new_zeros(count),
        "clean_margin": clean.new_zeros(count),
    }


def run(attack: Attack, look: Looker, clean: Tensor, label: Tensor, *, slots: int) -> Found:
    """Attack every row of `clean` (N, D) with at most `slots` of them in the batch at a time."""
    count, entered = len(clean), min(slots, len(clean))
    found = Found(torch.empty_like(clean), torch.empty_like(label, dtype=torch.bool), clean.new_empty(count),
                  torch.empty_like(label, dtype=torch.int32), clean.new_empty(count))
    rows = attack.begin(clean[:entered], label[:entered])
    owner = torch.arange(entered, device=clean.device)  # which input row sits in each slot
    while len(owner):
        seen = look(rows["point"], rows["label"], rows["wants"], attack.objective, rows["judged"])
        first = rows["looks"] == 0
        rows["clean_margin"] = torch.where(first, seen.margin / seen.spread.clamp_min(1e-30), rows["clean_margin"])
        rows["looks"] += 1
        leaving = attack.advance(rows, seen).nonzero().squeeze(1)
        if len(leaving) == 0:
            continue
        for answers, column in zip(found, Found._fields, strict=True):
            answers[owner[leaving]] = rows[column][leaving]
        replaced = leaving[:count - entered]
        if len(replaced):
            newcomers = torch.arange(entered, entered + len(replaced), device=clean.device)
            entered += len(replaced)
            _enter(rows, attack.begin(clean[newcomers], label[newcomers]), replaced)
            owner[replaced] = newcomers
        if len(replaced) < len(leaving):
            staying = torch.ones_like(owner, dtype=torch.bool)
            staying[leaving[len(replaced):]] = False
            rows = {name: column[staying] for name, column in rows.items()}
            owner = owner[staying]
    return found


def _enter(rows: Rows, newcomers: Rows, places: Tensor) -> None:
    for name, column in newcomers.items():
        rows[name][places] = column
