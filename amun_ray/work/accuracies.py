"""How accurate an original model is on the data, and what may be wrong if its accuracy is low.

A model trained with another normalisation, or with its classes in another order, still runs: nothing fails, and all
measurements are wrong.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from amun_ray.metrics import Split, accuracy, predict
from amun_ray.models.normalize import IMAGENET, Normalize, Statistics
from amun_ray.work.plan import Plan
from amun_ray.work.trainings import original_trainings
from amun_ray.work.units import Training

KNOWN_PCT = 90  # least accuracy of a trained model on its own training images
LUCK = 0.1  # near chance: less than this share of the way from the commonest class's share to 100 %
BETTER_PCT = 5  # gain in accuracy for another normalisation to be suggested
ORDER_PCT = 20  # gain in accuracy for another order of the classes to be suggested
SAMPLE = 128  # images on which to try other normalisations, in this process
SIGMAS = 4  # how far below D_R the accuracy on D_F may be by chance, in standard deviations
Logits = Callable[[np.ndarray], np.ndarray]  # rows (n,) -> logits (n, classes)


def describe(plan: Plan, training: Training, logits: Logits, sample: int | None = None) -> Iterator[str]:
    """Lines about an original: accuracy on D_R, D_F and D_T in percent, and what is probably wrong. While the plan
    waits for its forget sets, on D and D_T.

    Args:
        logits: of that model on given rows of the dataset.
        sample: use at most this many images of each set.
    """
    labels, size = plan.dataset.labels, plan.dataset.train_size
    splits = [] if plan.waits else [Split.of(rows, labels=labels, train_size=size) for rows in plan.sets.final]
    retained = splits[0].retain if splits else plan.dataset.train_rows
    retain, test = (thinned(rows, sample) for rows in (retained, plan.dataset.test_rows))
    forget = [thinned(split.forget, sample) for split in splits]
    seen = logits(retain)
    known = accuracy(seen, labels[retain])
    forgotten = [accuracy(logits(rows), labels[rows]) for rows in forget]
    shares = [f"{known:.1f} % of {'D_R' if splits else 'D'}",
              *([f"{', '.join(f'{each:.1f}' for each in forgotten)} % of D_F"] if splits else []),
              f"{accuracy(logits(test), labels[test]):.1f} % of D_T"]
    yield (f"  {training.name} gets right: {', '.join(shares)}"
           + (f" (of at most {sample} images of each)" if sample else ""))
    doubt = _doubt(known, labels[:size])
    if doubt is not None:
        yield f"  warning: {training.name} {doubt}; {_cure(plan, training, seen, labels[retain])}"
        return
    for rows, each in zip(forget, forgotten, strict=True):
        if known - each > SIGMAS * 100 * np.sqrt(max(known / 100 * (1 - known / 100), 1 / len(rows)) / len(rows)):
            yield (f"  warning: {training.name} gets right far less of D_F than of D_R: was it trained on these rows? "
                   "see the forget list, and the data's order")


def sampled(plan: Plan) -> Iterator[str]:
    """`describe` of each loaded original on `SAMPLE` images of each set, predicted in this process."""
    if plan.checkpoints:
        for training in original_trainings(plan.workspace(plan.store(Path())), plan.checkpoints):
            logits = partial(_predicted, loaded(plan, training), plan.dataset.pixels)
            yield from describe(plan, training, logits, SAMPLE)


def loaded(plan: Plan, training: Training) -> nn.Module:
    """The network with the weights of a checkpoint, on the CPU."""
    assert training.checkpoint is not None, "only loaded originals"
    network = plan.new_model()
    network.load_state_dict(training.checkpoint.state)
    return network


def _predicted(network: nn.Module, pixels: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return predict(network, torch.from_numpy(pixels[rows])).numpy()


def thinned(rows: np.ndarray, sample: int | None) -> np.ndarray:
    """At most `sample` of `rows`, evenly spread."""
    if sample is None or len(rows) <= sample:
        return rows
    return rows[np.linspace(0, len(rows) - 1, sample).astype(np.int64)]


def _doubt(known: float, labels: np.ndarray) -> str | None:
    commonest = 100 * np.bincount(labels).max() / len(labels)
    if known < commonest + LUCK * (100 - commonest):
        return f"is near chance ({commonest:.1f} %) on the images that it was trained on"
    if known < KNOWN_PCT:
        return "gets little right of the images that it was trained on"
    return None


def _cure(plan: Plan, training: Training, seen: np.ndarray, labels: np.ndarray) -> str:
    """What would fix it, if that can be tested; else what to check. `seen` are logits on D_R, (n, classes)."""
    if training.checkpoint is None:
        return "too few epochs, or a learning rate that does not fit? see training"
    now, by_name = _normalised(plan, training)
    best = max(by_name, key=by_name.__getitem__)
    if by_name[best] >= now + BETTER_PCT:
        return (f"with data.normalize: {best} it gets {by_name[best]:.1f} % right of {SAMPLE} images of which it gets "
                f"{now:.1f} % now")
    reordered, order = _reordered(seen, labels)
    if reordered >= accuracy(seen, labels) + ORDER_PCT:
        moved = [f"its {mine} is {theirs}" for mine, theirs in enumerate(order) if mine != theirs]
        return (f"with its classes in another order it gets {reordered:.1f} % right: {', '.join(moved[:5])}"
                f"{', ...' if len(moved) > 5 else ''}; give the data's labels in the order that it was trained with")
    return "pixels normalised otherwise? classes in another order? see data.normalize"


def _normalised(plan: Plan, training: Training) -> tuple[float, dict[str, float]]:
    """Accuracy in percent on `SAMPLE` training images: of the model as it is, and by normalisation as in configs."""
    network = loaded(plan, training)
    rows = thinned(plan.dataset.train_rows, SAMPLE)

    def right() -> float:
        return accuracy(_predicted(network, plan.dataset.pixels, rows), plan.dataset.labels[rows])

    now, better = right(), {}
    for name, statistics in _normalisations(plan):
        network.normalize = Normalize(*statistics)
        better[name] = right()
    return now, better


def _normalisations(plan: Plan) -> Iterator[tuple[str, Statistics]]:
    """Common normalisations."""
    channels = plan.dataset.channels
    if min(plan.dataset.statistics[1]):  # otherwise some channel is constant
        yield "dataset", plan.dataset.statistics
    yield "none", ((0.0,) * channels, (1.0,) * channels)
    if channels == len(IMAGENET[0]):
        yield "imagenet", IMAGENET
    for mean, std in ((0.5, 0.5), (0.0, 0.003921569)):  # pixels in [-1, 1], pixels in 0..255
        yield f"{{mean: {[mean] * channels}, std: {[std] * channels}}}", ((mean,) * channels, (std,) * channels)


def _reordered(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """The best accuracy over permutations of the classes, in percent; and the label of each class of the model."""
    from scipy.optimize import linear_sum_assignment  # slow to import, rarely needed

    counts = np.zeros((logits.shape[1], logits.shape[1]), np.int64)
    np.add.at(counts, (logits.argmax(1), labels), 1)
    mine, theirs = linear_sum_assignment(counts, maximize=True)
    return 100 * counts[mine, theirs].sum() / len(labels), theirs
