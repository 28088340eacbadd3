"""Robust accuracy: the share of test images that a model gets right, and still gets right under AutoAttack.

Cost for each model: with nine targets, about 300 forward passes on an image that gives in at once and 11,600 on one
that withstands (a backward pass counts two), on at most `audit.autoattack.samples` images, PIECE of them in one piece
of work; all pieces are independent, so time falls with the number of workers. Storage: a byte per image.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from amun_ray.attacks.autoattack import withstood
from amun_ray.base.seeds import derive
from amun_ray.base.tensors import to_unit
from amun_ray.runtime.bench import SharedWorkspace, bench
from amun_ray.stages.subject import Measured, Probe, Read, Scores, Subject, loaded
from amun_ray.storage.store import Unit
from amun_ray.work.units import rows_digest

PIECE = 250  # images that a worker attacks at a time; part of the result, since they share a stream of draws
WITHSTOOD = "withstood.npy"


def _pieces(subject: Subject) -> Sequence[Subject]:
    return [replace(subject, tested=subject.tested[start:start + PIECE])
            for start in range(0, len(subject.tested), PIECE)]


def _unit(workspace: SharedWorkspace, subject: Subject) -> Unit:
    attack = workspace.sweep.audit.autoattack
    assert attack is not None, "chosen only where the config has it"
    return Unit("robustness", subject.inputs(workspace) | {
        "norm": attack.norm, "eps": attack.eps, "tested": rows_digest(subject.tested), "seed": workspace.sweep.seed})


def _read(workspace: SharedWorkspace, subject: Subject) -> Measured:
    """WITHSTOOD (T,) bool."""
    here, attack = bench(workspace), workspace.sweep.audit.autoattack
    assert attack is not None, "chosen only where the config has it"
    part = here.part(subject.tested)
    seed = derive(workspace.sweep.seed, "autoattack", rows_digest(subject.tested))
    return Measured({}, {WITHSTOOD: withstood(loaded(workspace, subject.model, here.device), to_unit(part.own_images),
                                              part.labels, norm=attack.norm, eps=attack.eps, seed=seed)})


def _scores(model: Read, never: Sequence[Read], original: int) -> Scores:
    return {"robust_accuracy": 100 * float(np.mean(model.reading.arrays[WITHSTOOD]))}


AUTOATTACK = Probe(_unit, _read, (WITHSTOOD,), _scores, _pieces)
