"""Theorem 4.1 term by term: on logistic regression, where it holds, and on the sweep's networks, where it is a guide.

Cost, on the driver: forward passes of every final AMUN model, its original and its retrained model on at most
`audit.samples` forgotten images and their adversarial ones.
"""

import numpy as np
import torch

from amun_ray import plots
from amun_ray.base.errors import UserError
from amun_ray.base.tensors import shared_tensor
from amun_ray.metrics import predict, softmax
from amun_ray.metrics.theorem import Logistic, Step, Terms, convex_steps, loss
from amun_ray.reporting.finding import Finding
from amun_ray.stages.subject import loaded
from amun_ray.storage.store import Unit
from amun_ray.studies.done import Done, gap, named
from amun_ray.unlearn import find
from amun_ray.work.artifacts import read_adversaries, read_logits
from amun_ray.work.units import Unlearned

SAYS = ("the terms of the bound, mean over forgotten images, and how well each explains how far an image's confidence "
        "is from that of the retrained model (rank correlation over images, mean over cases). Near 0 it explains "
        "nothing. delta is a distance in pixel units, all others are losses in nats.")
NAMES = {"distance": "delta", "original_at_adversarial": "l(f_o(x_adv), y)",
         "unlearned_at_adversarial": "l(f'(x_adv), y_adv)", "retrained": "l(f_u(x), y)",
         "transfer": "l(f_u(x_adv), y_adv)"}
STEPS, FITTED, POINTS = 40, 500, 500  # of the convex example


def study(done: Done) -> Finding:
    """Every contender that uses adversarial images, by its first run of each final case."""
    read: dict[str, list[tuple[Terms, np.ndarray]]] = {}
    runs: dict[str, list[Unlearned]] = {}
    for made in done.sound:
        if find(made.run.contender.method).needs_adversarial:
            runs.setdefault(named(made.run.contender), []).append(made)
            if made.run.number == 0:
                read.setdefault(named(made.run.contender), []).append(_measured(done, made))
    if not read:
        raise UserError("study theorem: no model of a method that uses adversarial images was made")
    head = ["method", *NAMES.values(), "C", *(f"explains: {name}" for name in NAMES.values()), "Avg. Gap"]
    explained = {title: explains(cases) for title, cases in read.items()}
    rows = [[title, *means(cases), *(f"{explained[title][name]:+.2f}" for name in NAMES.values()), gap(runs[title])]
            for title, cases in read.items()]
    convex = _convex(done)
    return Finding("theorem", SAYS, head, rows, {
        "theorem_terms": plots.png(plots.bars(explained, ylabel="rank correlation with the confidence gap",
                                              title="Which term explains an image's gap to the retrained model")),
        "theorem_convex": plots.png(plots.curves(
            {"logistic regression, one image forgotten": {
                "measured |theta' - theta_u|^2": [step.distance for step in convex],
                "bound of the paper": [step.bound for step in convex],
                "bound without its assumptions": [step.exact for step in convex]}},
            xlabel="steps", ylabel="squared distance of the weights", title="The theorem where it holds"))})


def means(cases: list[tuple[Terms, np.ndarray]]) -> list[str]:
    """Each term, and C: the mean over images, mean over cases."""
    return [f"{np.mean([np.mean(getattr(terms, name)) for terms, _ in cases]):.3g}" for name in (*NAMES, "c")]


def explains(cases: list[tuple[Terms, np.ndarray]]) -> dict[str, float]:
    """The rank correlation of each term with the gap (n,), mean over cases; 0 for a term that does not vary."""
    from scipy.stats import rankdata  # slow to import

    def correlation(first: np.ndarray, second: np.ndarray) -> float:
        if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
            return 0.0
        return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])

    return {title: float(np.mean([correlation(getattr(terms, name), gaps) for terms, gaps in cases]))
            for name, title in NAMES.items()}


def _measured(done: Done, made: Unlearned) -> tuple[Terms, np.ndarray]:
    """The terms of one final model, and how far the confidence in each image is from the retrained model's."""
    case, workspace = made.run.case, done.workspace
    images, wrong, places = read_adversaries(workspace.store, done.sets[case.key])
    some = slice(None, workspace.sweep.audit.samples)
    rows, shown, wrong = np.sort(case.rows)[places][some], shared_tensor(images[some]), wrong[some]
    true, original = done.labels[rows], done.models.originals[case.original]
    retrained = done.models.retrained[case.name][case.original]

    def said(unit: Unit) -> np.ndarray:
        return predict(loaded(workspace, unit, torch.device("cpu")), shown).numpy()

    mine = read_logits(workspace, made.run.unit, str(made.run.contender))[rows]
    theirs = read_logits(workspace, retrained.unit, retrained.name)[rows]
    terms = Terms(_distances(done, rows, images[some]), loss(said(original.unit), true),
                  loss(said(made.run.unit), wrong), loss(theirs, true), loss(said(retrained.unit), wrong))
    return terms, np.abs(softmax(mine, true) - softmax(theirs, true))


def _distances(done: Done, rows: np.ndarray, images: np.ndarray) -> np.ndarray:
    return np.linalg.norm((images - done.images(rows)).reshape(len(rows), -1), axis=1)


def _convex(done: Done) -> list[Step]:
    """The theorem on the pixels of two classes: that of the first forgotten image, and the next."""
    case, pixels = done.plan.final[0], done.plan.dataset.pixels
    row = int(np.sort(case.rows)[0])
    first = int(done.labels[row])
    second = (first + 1) % done.plan.dataset.classes
    kept = done.splits[case.name].retain
    kept = kept[np.isin(done.labels[kept], (first, second))][:POINTS]

    def points(rows: np.ndarray) -> np.ndarray:
        return pixels[rows].reshape(len(rows), -1) / 255.0

    retain = Logistic(points(kept), (done.labels[kept] == first).astype(int))
    point = points(np.array([row]))
    every = Logistic(np.vstack([retain.points, point]), np.append(retain.labels, 1))
    return [*convex_steps(retain, point[0], 1, every.fitted(FITTED), retain.fitted(FITTED), steps=STEPS)]
