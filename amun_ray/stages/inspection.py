"""What the weights and the features of a model tell: linear probe, distances, connectivity, relearning.

Cost for each model, with s = `audit.samples`: the linear probe, a forward pass on 2 s images and a logistic regression;
connectivity, two paths of 21 points with two forward passes on s images each; relearning, `audit.relearn_epochs` epochs
of training on D_R. Storage: a few numbers.
"""

from collections.abc import Sequence

import numpy as np
import torch

from amun_ray.base.errors import Diverged
from amun_ray.base.seeds import generator
from amun_ray.metrics import accuracy, barrier, linear_probe, predict
from amun_ray.models.features import Features
from amun_ray.runtime.bench import SharedWorkspace, bench
from amun_ray.stages.subject import Measured, Probe, Read, Scores, Subject, loaded
from amun_ray.storage.store import Unit
from amun_ray.training.loop import fit
from amun_ray.training.recipe import Recipe
from amun_ray.work.units import Trained, rows_digest
from amun_ray.work.weights import along_path, distance

TEACHERS = 5  # the first fifth of a permutation of D_F may be shown again, accuracy is that of the others


def _probe_unit(workspace: SharedWorkspace, subject: Subject) -> Unit:
    return Unit("linear_probes", subject.inputs(workspace) | {
        "forget": rows_digest(subject.forget), "retain": rows_digest(subject.retain)})


def _probe(workspace: SharedWorkspace, subject: Subject) -> Measured:
    here = bench(workspace)
    part = here.part(np.concatenate([subject.retain, subject.forget]))
    features = predict(Features(loaded(workspace, subject.model, here.device)), part.own_images).numpy()
    forget = np.arange(len(features)) >= len(subject.retain)
    return Measured({"linear_probe": linear_probe(features, part.labels.cpu().numpy(), forget)})


def _distance_unit(workspace: SharedWorkspace, subject: Subject) -> Unit:
    return Unit("distances", subject.inputs(workspace) | {"to": [end.weights for end in _ends(subject).values()]})


def _distance(workspace: SharedWorkspace, subject: Subject) -> Measured:
    device = torch.device("cpu")
    model = loaded(workspace, subject.model, device)
    return Measured({f"distance_{name}": distance(model, loaded(workspace, end.unit, device))
                    for name, end in _ends(subject).items()})


def _paths_unit(workspace: SharedWorkspace, subject: Subject) -> Unit:
    return Unit("paths", subject.inputs(workspace) | {
        "to": [end.weights for end in _ends(subject).values()], "retain": rows_digest(subject.retain)})


def _paths(workspace: SharedWorkspace, subject: Subject) -> Measured:
    here = bench(workspace)
    part, barriers = here.part(subject.retain), dict[str, float]()
    for name, end in _ends(subject).items():
        first, second = (loaded(workspace, unit, here.device) for unit in (subject.model, end.unit))
        loss, right = np.array([*along_path(first, second, part.own_images, part.labels)]).T
        barriers |= {f"loss_barrier_{name}": barrier(loss), f"accuracy_barrier_{name}": barrier(-right)}
    return Measured(barriers)


def _ends(subject: Subject) -> dict[str, Trained]:
    """The models to which weights are compared, by name."""
    return {"original": subject.original} | ({"retrained": subject.retrained} if subject.retrained else {})


def _relearned_unit(workspace: SharedWorkspace, subject: Subject) -> Unit:
    audit, inputs = workspace.sweep.audit, subject.inputs(workspace)
    return Unit("relearned", inputs | {
        "seed": workspace.sweep.seed, "samples": audit.relearn_samples, "epochs": audit.relearn_epochs,
        "lr": audit.relearn_lr, "augmentation": workspace.sweep.data.augmentation.inputs})


def _relearned(workspace: SharedWorkspace, subject: Subject) -> Measured:
    """The accuracy on D_F, but for what may be shown again, before and after each epoch."""
    here, case, audit = bench(workspace), subject.cases[0], workspace.sweep.audit
    rows = np.sort(case.rows)
    order = torch.randperm(len(rows), generator=generator(workspace.sweep.seed, "relearn", case.name)).numpy()
    shown, asked = np.split(rows[order], [max(1, len(rows) // TEACHERS)])
    retained = workspace.split(case.rows, here.labels.cpu().numpy()).retain
    model, part = loaded(workspace, subject.model, here.device), here.part(np.sort(asked))
    labels = part.labels.cpu().numpy()
    recipe = Recipe(lr=audit.relearn_lr, epochs=audit.relearn_epochs, optimizer="adamw", weight_decay=0.0,
                    schedule="cosine")
    accuracies = [accuracy(predict(model, part.own_images).numpy(), labels)]
    parts = [here.part(some) for some in (retained, np.sort(shown[:audit.relearn_samples])) if len(some)]
    try:
        for _ in fit(model, parts, recipe=recipe, augmentation=workspace.sweep.data.augmentation,
                     generator=generator(workspace.sweep.seed, "relearn", case.name, "order")):
            accuracies.append(accuracy(predict(model, part.own_images).numpy(), labels))
    except Diverged:
        pass  # an attacker would stop there, too
    return Measured({"curve": accuracies})


def _as_read(model: Read, never: Sequence[Read], original: int) -> Scores:
    return dict(model.reading.numbers)


def _relearned_scores(model: Read, never: Sequence[Read], original: int) -> Scores:
    """The most that was relearned, and the most by which that was more than retrained models learned so far."""
    mine, *theirs = (each.reading.numbers["curve"] for each in (model, *never))
    steps = min(map(len, (mine, *theirs)))
    usual = np.mean([curve[:steps] for curve in theirs or [mine]], axis=0)
    return {"relearned_accuracy": max(mine), "relearned_more": float(np.max(mine[:steps] - usual))}


LINEAR_PROBE = Probe(_probe_unit, _probe, (), _as_read)
DISTANCE = Probe(_distance_unit, _distance, (), _as_read)
CONNECTIVITY = Probe(_paths_unit, _paths, (), _as_read)
RELEARNING = Probe(_relearned_unit, _relearned, (), _relearned_scores)
