"""A model to probe, and what a probe is: the work that runs a finished model again, and the scores that follow."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from amun_ray.base.seeds import generator
from amun_ray.runtime.bench import SharedWorkspace, load_state
from amun_ray.stages.cases import OpenCase
from amun_ray.storage.store import Unit
from amun_ray.work.artifacts import numpy_state
from amun_ray.work.units import WEIGHTS, Trained

Scores = dict[str, float]
Spent = Callable[[str, float, bool], None]  # told of the work, its seconds, and whether an earlier start made it


@dataclass(frozen=True, eq=False)
class Subject:
    """A model that should have forgotten a set: where its weights are, the rows at which it is read, each part sorted
    and at most `audit.samples`, and the models that it is held against."""

    title: str
    model: Unit
    weights: str  # their digest
    cases: Sequence[OpenCase]  # of one forget set: whose adversarial images it is shown
    forget: np.ndarray  # (F,)
    unseen: np.ndarray  # (U,)
    retain: np.ndarray  # (R,)
    tested: np.ndarray  # (T,) test rows under AutoAttack, at most `audit.autoattack.samples`; (0,) without it
    original: Trained  # from which it was made or, for a retrained model, that of the same number
    others: Sequence[Trained]  # the models that never saw the set, without this one; that of the same number first

    @property
    def retrained(self) -> Trained | None:
        """The first of the others."""
        return next(iter(self.others), None)

    def inputs(self, workspace: SharedWorkspace) -> dict[str, Any]:
        """What every reading depends on; a purge finds it by the forget set."""
        return {"weights": self.weights, "dataset": workspace.data_digest,
                "model": workspace.network.identity["model"],
                "cases": [{"forget": self.cases[0].lineage["forget"]}]}


class Measured(NamedTuple):
    """What a probe read of a model: numbers, and arrays by file name."""

    numbers: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = {}


    @classmethod
    def joined(cls, pieces: Iterable["Measured"]) -> "Measured":
        """The readings of one model's pieces, as one: arrays one after another."""
        first, *others = pieces
        return cls(first.numbers, {name: np.concatenate([array, *(other.arrays[name] for other in others)])
                                   for name, array in first.arrays.items()})


class Read(NamedTuple):
    """A subject with its reading."""

    subject: Subject
    reading: Measured


class Probe(NamedTuple):
    """A row of PROBES."""

    unit: Callable[[SharedWorkspace, Subject], Unit | None]  # the address of a reading; None: nothing to read
    read: Callable[[SharedWorkspace, Subject], Measured]  # in a worker
    files: tuple[str, ...]  # the arrays of a reading
    scores: Callable[[Read, Sequence[Read], int], Scores]  # of a model, by the retrained models, for an original
    pieces: Callable[[Subject], Sequence[Subject]] = lambda subject: [subject]  # what one worker reads at a time


def loaded(workspace: SharedWorkspace, unit: Unit, device: torch.device) -> nn.Module:
    """A finished model, in a worker."""
    return load_state(workspace.new_model(0), numpy_state(workspace.store, unit, WEIGHTS)).to(device)


def some(rows: np.ndarray, workspace: SharedWorkspace, *purpose: str) -> np.ndarray:
    """At most `audit.samples` of the rows, drawn at random, in ascending order."""
    return drawn(rows, workspace.sweep.audit.samples, workspace, "boundary", *purpose)


def drawn(rows: np.ndarray, most: int, workspace: SharedWorkspace, *purpose: str) -> np.ndarray:
    """At most so many of the rows, drawn at random for a purpose, in ascending order."""
    order = torch.randperm(len(rows), generator=generator(workspace.sweep.seed, *purpose)).numpy()
    return np.sort(rows[order[:most]])
