"""TRADES (Zhang et al., ICML 2019): a loss that trains robust networks, and the attack inside it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amun_ray.base.seeds import derive
from amun_ray.base.tensors import evaluating
from amun_ray.training.batches import send
from amun_ray.training.cost import Cost
from amun_ray.training.recipe import Recipe

START = 1e-3  # standard deviation of the noise at which the attack starts; at the clean image its gradient is 0

Forward = Callable[[Tensor], Tensor]


def trades(model: nn.Module, recipe: Recipe, *, generator: torch.Generator,
           cost: Cost) -> Callable[[Forward, Tensor, Tensor], Tensor]:
    """The objective CE(f(x), y) + beta KL(f(x) || f(x')), means over the batch, where x' is what `attack` finds.

    The attack sees `model` in eval mode, so that neither its batch norm statistics move nor dropout draws; both terms
    are of training mode. The authors' code predicts the clean batch a second time there, which changes nothing but the
    weight of that batch in the running statistics. A step costs 12 forward and backward passes, with ten inner steps,
    and one forward pass. The noise is drawn on the host, from a stream of its own.
    """
    noise = torch.Generator().manual_seed(derive(generator.initial_seed(), "trades"))

    def objective(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        start = send(torch.randn(images.shape, generator=noise), images.device)
        with evaluating(model):
            changed = attack(forward, images, start, norm=recipe.norm, epsilon=recipe.epsilon, steps=recipe.inner_steps,
                             step=recipe.inner_step or 2 * recipe.epsilon / recipe.inner_steps)
        clean, moved = forward(images).float(), forward(changed).float()
        cost.add(len(labels), backward=False)
        cost.add(len(labels) * (recipe.inner_steps + 1), backward=True)
        return (F.cross_entropy(clean, labels, label_smoothing=recipe.label_smoothing)
                + recipe.beta * _divergence(moved, F.softmax(clean, 1)) / len(labels))

    return objective


def attack(forward: Forward, images: Tensor, start: Tensor, *, norm: str, epsilon: float, steps: int,
           step: float) -> Tensor:
    """Images near `images` (B, C, H, W) in [0, 1] for which the prediction differs most: ascent of KL(f(x) || f(x')).

    Args:
        start: standard normal numbers (B, C, H, W). The attack starts at START times these.
        norm: a name of NORMS.
        epsilon: the radius, in pixel units; for L2 of the whole image.
        step: length of each of `steps` steps, in the same unit.
    """
    with torch.no_grad():
        clean = F.softmax(forward(images).float(), 1)
    changed = images + START * start
    for _ in range(steps):
        changed = changed.detach().requires_grad_()
        (slope,) = torch.autograd.grad(_divergence(forward(changed).float(), clean), [changed])
        changed = NORMS[norm](images, changed.detach(), slope, start, epsilon, step)
    return changed


def _divergence(logits: Tensor, clean: Tensor) -> Tensor:
    """KL(clean || softmax(logits)), summed over the batch."""
    return F.kl_div(F.log_softmax(logits, 1), clean, reduction="sum")


def _linf(images: Tensor, changed: Tensor, slope: Tensor, start: Tensor, epsilon: float, step: float) -> Tensor:
    """A step along the sign of the slope, back into the ball and the pixel range."""
    moved = changed + step * slope.sign()
    return moved.clamp(images - epsilon, images + epsilon).clamp_(0, 1)


def _l2(images: Tensor, changed: Tensor, slope: Tensor, start: Tensor, epsilon: float, step: float) -> Tensor:
    """A step along the slope or, where that is 0, along `start`; back into the pixel range, then into the ball."""
    slope = torch.where(_length(slope) > 0, slope, start)
    delta = (changed + step * slope / _length(slope)).clamp_(0, 1) - images
    return images + delta * (epsilon / _length(delta)).clamp_(max=1)


def _length(images: Tensor) -> Tensor:
    """The L2 norm of each image, (B, 1, 1, 1)."""
    return torch.linalg.vector_norm(images, dim=(1, 2, 3), keepdim=True)


NORMS = {"linf": _linf, "l2": _l2}
