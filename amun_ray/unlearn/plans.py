"""What each fine-tuning method sees and minimises, epoch by epoch (the AMUN paper, experiments).

Batch norm: a pass with samples of D_R updates the running statistics, as in any training. A pass over D_F or D_A alone
normalises with the model's statistics and does not update them: they are estimates over all of D, and a forget set
that is not a random sample would bias them. (Measured on digits, forgetting one class with a learning rate too small
to move anything: updating the statistics alone took test accuracy from 98 to 91 percent.) In the authors' scripts every
pass updates them; the setting `forget_statistics: 1` does the same, and with random forget sets it allows larger
learning rates. Every method with a pass over D_F or D_A alone has this setting, so that all can be compared alike.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amun_ray.base.tensors import evaluating
from amun_ray.training.batches import batches, in_order, send
from amun_ray.training.loop import EpochPlan, Forward, Objective, Pass, cross_entropy
from amun_ray.training.modes import frozen_statistics
from amun_ray.training.parts import Part
from amun_ray.unlearn.method import FORGET_ONLY, Sets, Setting, Task


def joint(sees: Callable[[Sets], tuple[Part | None, ...]]) -> Callable[[Task], EpochPlan]:
    """The plan of one cross-entropy pass per epoch over the union of the parts in `sees`; absent parts are skipped."""

    def plan(task: Task) -> EpochPlan:
        parts = tuple(part for part in sees(task.sets) if part is not None)
        every_epoch = (Pass(parts, statistics=joint_updates(task)),)
        return lambda epoch: every_epoch

    return plan


STATISTICS = Setting(default=0, low=0, high=1, choices=(0, 1))
FORGET_STATISTICS = {"forget_statistics": STATISTICS}  # for methods with a pass over D_F alone
JOINT_STATISTICS = {"forget_statistics": replace(STATISTICS, access=FORGET_ONLY)}  # for those that join D_F to D_R
L1 = {
    "alpha": Setting(default=5e-4, low=1e-5, high=1e-2, log=True, at_least=0),
    "decay_epochs": Setting(default=10, low=1, high=20, at_least=1),
    "compounded": Setting(default=0, low=0, high=1, choices=(0, 1), later=True),
}
PAPER, SCRIPTS, ORIGINAL = 0, 1, 2  # see `boundary_shrink`
BOUNDARY = FORGET_STATISTICS | {
    "bound": Setting(default=0.1, low=0.01, high=0.3, above=0, at_most=1),
    "labelled_by": Setting(default=PAPER, low=PAPER, high=ORIGINAL, choices=(PAPER, SCRIPTS, ORIGINAL), later=True),
}
NEGGRAD = FORGET_STATISTICS | {"retain_weight": Setting(default=0.95, low=0.8, high=0.9999, above=0, at_most=1)}
SCRUB = FORGET_STATISTICS | {
    "alpha": Setting(default=0.5, low=1e-3, high=1, log=True, at_least=0),
    "gamma": Setting(default=1, low=0.1, high=1, at_least=0),
    "temperature": Setting(default=4, low=1, high=8, above=0),
    "max_epochs": Setting(default=2, low=1, high=5, at_least=0),
}

finetune = joint(lambda sets: (sets.retain,))
amun = joint(lambda sets: (sets.retain, sets.forget, sets.adversarial))
amun_without_forget = joint(lambda sets: (sets.retain, sets.adversarial))


def random_label(task: Task) -> EpochPlan:
    """D_R with its own labels, joined with D_F with wrong labels redrawn every epoch; without D_R, D_F alone."""
    sets, classes = task.sets, task.classes

    def epoch_passes(epoch: int) -> tuple[Pass, ...]:
        relabelled = sets.forget._replace(labels=wrong_labels(sets.forget.labels, classes, task.generator))
        parts = (relabelled,) if sets.retain is None else (sets.retain, relabelled)
        return (Pass(parts, statistics=joint_updates(task)),)

    return epoch_passes


def wrong_labels(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """For each of `labels` (N,) one of the `classes - 1` other classes, uniformly drawn on the CPU."""
    shift = torch.randint(1, classes, labels.shape, generator=generator)
    return (labels + send(shift, labels.device)) % classes


def ascend(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
    """The negative cross-entropy: minimising it climbs the loss of D_F."""
    return -cross_entropy(forward, images, labels)


def gradient_ascent(task: Task) -> EpochPlan:
    """Every epoch: a pass over D_R (if there is one), then ascent on D_F."""
    every_epoch = (*_retain_pass(task.sets), _forget_pass(task, task.sets.forget, ascend))
    return lambda epoch: every_epoch


def _retain_pass(sets: Sets) -> tuple[Pass, ...]:
    return () if sets.retain is None else (Pass((sets.retain,)),)


def _forget_pass(task: Task, forget: Part, objective: Objective = cross_entropy) -> Pass:
    return Pass((forget,), objective, statistics=forget_updates(task))


def joint_updates(task: Task) -> bool:
    """Whether a pass over D_F, joined with D_R where it is at hand, updates batch norm statistics."""
    return task.sets.retain is not None or forget_updates(task)


def forget_updates(task: Task) -> bool:
    """Whether a pass without samples of D_R updates batch norm statistics (see the top of this file)."""
    return task.settings["forget_statistics"] == 1


def l1_sparse(task: Task) -> EpochPlan:
    """Fine-tuning on D_R with `alpha` times the l1 norm of all weights added (Jia et al., NeurIPS 2023).

    The weight of an epoch is that of `l1_weight`. It does not depend on the run's number of epochs, so that a run
    passes through every shorter run.
    """
    weights = [weight for weight in task.model.parameters() if weight.requires_grad]

    def epoch_passes(epoch: int) -> tuple[Pass, ...]:
        now = l1_weight(epoch, task.settings["alpha"], task.settings["decay_epochs"],
                        compounded=task.settings["compounded"] == 1)

        def sparse(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
            return cross_entropy(forward, images, labels) + now * sum(weight.abs().sum() for weight in weights)

        return (Pass((task.sets.retained,), sparse),)

    return epoch_passes


def l1_weight(epoch: int, alpha: float, decay_epochs: float, *, compounded: bool) -> float:
    """The weight of the l1 norm in `epoch`, from 1.

    alpha * max(0, 1 - (epoch - 1) / decay_epochs): it falls linearly to 0 after `decay_epochs` epochs, 10 in the AMUN
    paper. Its scripts multiply the weight of the epoch before by twice the factor that was meant for alpha; with
    `compounded` so does this: 1, 2, 3.6, 5.76, 8.06, 9.68, 9.68, 7.74, ... times alpha.
    """
    if not compounded:
        return alpha * max(0.0, 1 - (epoch - 1) / decay_epochs)
    return alpha * math.prod(max(0.0, 2 * (1 - past / decay_epochs)) for past in range(epoch - 1))


def boundary_shrink(task: Task) -> EpochPlan:
    """D_F with the labels of its FGSM neighbours, after a pass over D_R if there is one (Chen et al., CVPR 2023).

    `labelled_by` says who names the neighbours: PAPER, the model at the start of the epoch, before its pass over D_R;
    SCRIPTS, a copy of it after that pass, from augmented images and neighbours rounded to whole 255ths, as in the AMUN
    paper's scripts; ORIGINAL, the original model, as Chen et al. do.
    """
    sets, source = task.sets, task.settings["labelled_by"]
    fixed = neighbour_labels(task) if source == ORIGINAL else None

    def epoch_passes(epoch: int) -> tuple[Pass, ...]:
        if source == SCRIPTS:
            return (*_retain_pass(sets), _forget_pass(task, sets.forget, _named_by_a_copy(task)))
        labels = neighbour_labels(task) if fixed is None else fixed
        return (*_retain_pass(sets), _forget_pass(task, sets.forget._replace(labels=labels)))

    return epoch_passes


def _named_by_a_copy(task: Task) -> Objective:
    """The cross-entropy of the labels that a copy gives to the neighbours; it is made at the first batch."""
    copies: list[nn.Module] = []

    def named(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        if not copies:
            copies.append(copy.deepcopy(task.model).eval())
        with torch.autocast(images.device.type, enabled=False):
            wanted = _neighbours(task, copies[0], images, labels, rounded=True)
        return cross_entropy(forward, images, wanted)

    return named


def neighbour_labels(task: Task) -> Tensor:
    """The model's predictions (N,), in eval mode, for D_F moved up the loss gradient by `bound` (Linf, in [0, 1]).

    If the neighbour is still in the sample's class, its label is the true one.
    """
    nearest = []
    with evaluating(task.model):
        for images, labels in in_order(task.sets.forget, task.recipe.batch_size):
            nearest.append(_neighbours(task, task.model, images, labels))
    return torch.cat(nearest)


def _neighbours(task: Task, model: nn.Module, images: Tensor, labels: Tensor, *, rounded: bool = False) -> Tensor:
    """The predictions of `model` for one batch, as in `neighbour_labels`; `rounded`: to pixels that a file can hold."""
    images = images.detach().requires_grad_()
    loss = F.cross_entropy(model(images), labels, reduction="sum")
    with torch.no_grad():
        moved = (images + task.settings["bound"] * torch.autograd.grad(loss, images)[0].sign()).clamp(0, 1)
        predicted = model((255 * moved).round() / 255 if rounded else moved).argmax(1)
    task.report.add(len(labels), backward=True)
    task.report.add(len(labels), backward=False)
    return predicted


def neggrad_plus(task: Task) -> EpochPlan:
    """Descent on a batch of D_R and ascent on one of D_F in the same step (Kurmanji et al., NeurIPS 2023).

    Minimises retain_weight * CE(D_R batch) - (1 - retain_weight) * CE(D_F batch). An epoch is one pass over D_R; the
    batches of D_F repeat as often as needed.
    """
    share = task.settings["retain_weight"]
    forget_batches = _endless_forget(task)

    def contrast(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        retained = cross_entropy(forward, images, labels)
        forget_images, forget_labels = next(forget_batches)
        with nullcontext() if forget_updates(task) else frozen_statistics(task.model):
            forgotten = cross_entropy(forward, forget_images, forget_labels)
        task.report.add(len(forget_labels), backward=True)
        return share * retained - (1 - share) * forgotten

    every_epoch = (Pass((task.sets.retained,), contrast),)
    return lambda epoch: every_epoch


def _endless_forget(task: Task) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from batches((task.sets.forget,), batch_size=task.recipe.batch_size, augmentation=task.augmentation,
                           generator=task.generator)


def scrub(task: Task) -> EpochPlan:
    """Away from the original model on D_F, towards it on D_R (Kurmanji et al., NeurIPS 2023, equation 4).

    In each of the first `max_epochs` epochs a pass over D_F maximises KL(original || model); then every epoch minimises
    alpha * KL(original || model) + gamma * CE on D_R. Distributions are softened by `temperature`. With frozen
    statistics the very first pass does nothing: model and original agree, so the gradient of KL is exactly zero.
    """
    alpha, gamma = task.settings["alpha"], task.settings["gamma"]
    teacher = original(task)

    def divergence(logits: Tensor, images: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = teacher(images).float()
        task.report.add(len(images), backward=False)
        return softened_divergence(wanted, logits, task.settings["temperature"])

    def away(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        return -divergence(forward(images).float(), images)

    def towards(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        logits = forward(images).float()
        return alpha * divergence(logits, images) + gamma * F.cross_entropy(logits, labels)

    max_pass, min_pass = _forget_pass(task, task.sets.forget, away), Pass((task.sets.retained,), towards)
    return lambda epoch: (max_pass, min_pass) if epoch <= task.settings["max_epochs"] else (min_pass,)


def original(task: Task) -> nn.Module:
    """A copy of the model as it is when the plan is made, for what it says while the model moves."""
    return copy.deepcopy(task.model).eval().to(memory_format=torch.channels_last)


def softened_divergence(wanted: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """KL(softmax(wanted / T) || softmax(logits / T)), mean over rows (N, classes), times T^2.

    The factor keeps the gradient's size independent of T (Hinton et al., 2015).
    """
    return temperature**2 * F.kl_div(F.log_softmax(logits / temperature, 1), F.log_softmax(wanted / temperature, 1),
                                     reduction="batchmean", log_target=True)
