"""What an attacker reads who knows AMUN: distances to the decision boundary, and answers at adversarial images.

Cost for each model: about eight forward and backward passes on at most `audit.samples` forgotten and as many unseen
images, and one forward pass on the adversarial images (for a retrained model, of every original). Storage: one number
per image. Apollo: with m other models that never saw the set, eight at most, on as many images m times eight forward
and backward passes, and 31 forward passes of m + 1 models. Storage: two numbers per image.
"""

from collections.abc import Sequence

import numpy as np
import ray
import torch

from amun_ray.attacks import AttackSettings, craft
from amun_ray.attacks.look import margins
from amun_ray.base.tensors import shared_tensor, to_unit
from amun_ray.metrics import adversarial_label, apollo, moved_boundary, predict
from amun_ray.runtime.bench import SharedWorkspace, bench
from amun_ray.stages.cases import OpenCase
from amun_ray.stages.subject import Measured, Probe, Read, Scores, Subject, loaded
from amun_ray.storage.store import Unit
from amun_ray.work.apollo import MODELS, walk
from amun_ray.work.units import rows_digest

DISTANCES, MARGINS, WALKS = "distances.npy", "margins.npy", "walks.npy"


def _unit(workspace: SharedWorkspace, subject: Subject) -> Unit:
    return Unit("boundaries", {
        "weights": subject.weights, "dataset": workspace.data_digest, "model": workspace.network.identity["model"],
        "forget": rows_digest(subject.forget), "unseen": rows_digest(subject.unseen),
        "adversarial": [case.lineage["adversarial"] for case in subject.cases]})


def _read(workspace: SharedWorkspace, subject: Subject) -> Measured:
    """DISTANCES (F + U,) of the forgotten and the unseen images, pixel units; MARGINS (originals, F)."""
    here = bench(workspace)
    model = loaded(workspace, subject.model, here.device)
    part = here.part(np.concatenate([subject.forget, subject.unseen]))
    nearest = craft(model, to_unit(part.own_images), part.labels, settings=AttackSettings())
    return Measured({}, {DISTANCES: nearest.l2.astype(np.float32),
                         MARGINS: np.stack([_margins(model, case, subject.forget) for case in subject.cases])})


def _margins(model: torch.nn.Module, case: OpenCase, forget: np.ndarray) -> np.ndarray:
    """(F,) by how much the stored label leads at the adversarial images of the rows `forget`; NaN where there is
    none."""
    images, labels, places = ray.get(list(case.adversarial))
    rows = np.sort(case.rows)[places]
    wanted = np.isin(rows, forget)
    leads = np.full(len(forget), np.nan, np.float32)
    if wanted.any():
        logits = predict(model, shared_tensor(images)[torch.from_numpy(wanted)])
        leads[np.searchsorted(forget, rows[wanted])] = margins(logits, torch.from_numpy(labels[wanted])).numpy()
    return leads


def _scores(model: Read, never: Sequence[Read], original: int) -> Scores:
    """In percent. A retrained model that is alone is compared with itself."""
    sides = [np.split(each.reading.arrays[DISTANCES], [len(each.subject.forget)]) for each in (model, *never)]
    forget, unseen = sides[0]
    moved = moved_boundary(forget, unseen, *(np.array([side[k] for side in sides[1:]]).reshape(len(never), len(size))
                                             for k, size in enumerate((forget, unseen))))
    margin, *others = (_margin(each, original) for each in (model, *never))
    known = np.isfinite(margin)
    beside = np.array(others or [margin])
    return moved | (adversarial_label(margin[known], beside[:, known]) if known.any() else {})


def _margin(model: Read, original: int) -> np.ndarray:
    originals = [case.original for case in model.subject.cases]
    return model.reading.arrays[MARGINS][originals.index(original)]


def _walk_unit(workspace: SharedWorkspace, subject: Subject) -> Unit | None:
    """None for a retrained model that is alone."""
    never = [each.weights for each in subject.others[:MODELS]]
    rows = {"forget": rows_digest(subject.forget), "unseen": rows_digest(subject.unseen)}
    return Unit("walks", subject.inputs(workspace) | {"never": never} | rows) if never else None


def _walks(workspace: SharedWorkspace, subject: Subject) -> Measured:
    """WALKS (2, F + U): Apollo's evidence at the forgotten and the unseen images."""
    here = bench(workspace)
    part = here.part(np.concatenate([subject.forget, subject.unseen]))
    model, *never = (loaded(workspace, unit, here.device)
                     for unit in (subject.model, *(each.unit for each in subject.others[:MODELS])))
    return Measured({}, {WALKS: walk(model, never, part.own_images, part.labels).astype(np.float32)})


def _walk_scores(model: Read, never: Sequence[Read], original: int) -> Scores:
    """In percent. The other models are in the reading."""
    return apollo(*np.split(model.reading.arrays[WALKS], [len(model.subject.forget)], axis=1))


BOUNDARY = Probe(_unit, _read, (DISTANCES, MARGINS), _scores)
APOLLO = Probe(_walk_unit, _walks, (WALKS,), _walk_scores)
