"""LoTUS: the original model teaches D_F softly, and part of D_R hard (Spartalis et al., CVPR 2025).

Constants are those of the authors' script. It asks for the original's accuracy on unseen images, or 0 where a class is
forgotten. A method here is given no such images, so that accuracy is a setting; the sweep prints it with the originals.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from amun_ray.base.seeds import generator
from amun_ray.base.tensors import evaluating
from amun_ray.training.batches import in_order, send
from amun_ray.training.loop import EpochPlan, Forward, Pass
from amun_ray.unlearn.method import Setting, Task
from amun_ray.unlearn.plans import original

RETAIN_SHARE = 0.3  # of D_R is seen, the same samples in every epoch
FORGOTTEN = -0.01  # accuracy on D_F less `unseen_accuracy` at which nothing more is done

LOTUS = {
    "alpha": Setting(default=1, low=0.5, high=8, log=True, at_least=0),
    "unseen_accuracy": Setting(default=0, low=0, high=1, at_least=0, at_most=1),
}


def lotus(task: Task) -> EpochPlan:
    """Each epoch is a pass over D_F and RETAIN_SHARE of D_R under what the original model says of the same images.

    What it says is drawn by the Gumbel-softmax: of D_R a class, of D_F a distribution of temperature
    exp(alpha * (accuracy of the model on D_F - unseen_accuracy)). The more of D_F is still known, the softer.
    """
    at, sets = task.settings, task.sets
    draw = generator(task.generator.initial_seed(), "lotus")
    kept = torch.randperm(count := len(sets.retained.labels), generator=draw)[:math.ceil(RETAIN_SHARE * count)]
    classes, forget_from, total = task.classes, len(kept), len(kept) + len(sets.forget.labels)
    retain = sets.retained.take(kept, augment=sets.retained.augment).numbered(0)
    parts = (retain, sets.forget.numbered(forget_from))
    teacher = original(task)

    def epoch_passes(epoch: int) -> tuple[Pass, ...]:
        ahead = _forget_accuracy(task) - at["unseen_accuracy"]
        if ahead <= FORGOTTEN:
            return ()
        temperature = math.exp(at["alpha"] * ahead)
        noise = send(-torch.empty(total, classes).exponential_(generator=draw).log(), retain.labels.device)

        def imitate(forward: Forward, images: Tensor, numbers: Tensor) -> Tensor:
            with torch.no_grad():
                drawn = teacher(images).float() + noise[numbers]
            task.report.add(len(numbers), backward=False)
            hard, soft = F.one_hot(drawn.argmax(1), classes).float(), (drawn / temperature).softmax(1)
            return F.cross_entropy(forward(images).float(), torch.where((numbers >= forget_from)[:, None], soft, hard))

        return (Pass(parts, imitate),)

    return epoch_passes


def _forget_accuracy(task: Task) -> float:
    """The share of D_F that the model gets right, in eval mode."""
    right = 0
    with torch.no_grad(), evaluating(task.model):
        for images, labels in in_order(task.sets.forget, task.recipe.batch_size):
            right += int((task.model(images).argmax(1) == labels).sum())
            task.report.add(len(labels), backward=False)
    return right / len(task.sets.forget.labels)
