"""What benchmarks/adversaries.py measures the searches against: other libraries, and a plain loop of its own.

The libraries come with the extra `benchmarks`. Their own requirements do not install everywhere (torchattacks pins
an old `requests`, adv-lib wants `visdom`, whose source build fails with a new setuptools), hence:

    pip install --no-deps adv-lib==0.2.8 torchattacks==3.5.1 foolbox==3.3.4 eagerpy==0.30.0
"""

import importlib.util
import sys
import types
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS_INIT, DOUBLINGS, STEPS, STEP_RATIO = 0.04, 12, 50, 0.1
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (model, images, labels) -> adversarial images


class Counter(nn.Module):
    """The model, counting the images that go through it in each direction."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forward_count, self.backward_count = model, 0, 0

    def forward(self, images: Tensor) -> Tensor:
        self.forward_count += len(images)
        logits = self.model(images)
        if logits.requires_grad:
            # one call per backward pass through this output: a Jacobian of 10 classes counts 10 times
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backward_count += int((gradient != 0).flatten(1).any(1).sum())


def authors_rules(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Algorithm 1 as the authors' scripts run it: warm start, and a sample stops at its first flip.

    PGD-L2 on the batch's mean cross-entropy, at most 50 steps of eps / 10, then eps doubles. Solved samples leave, and
    the forward pass that reads a prediction also serves the next step.
    """
    point = images.clone()
    todo = torch.arange(len(images), device=images.device)
    eps, taken = EPS_INIT, 0
    for _ in range((DOUBLINGS + 1) * STEPS + 1):
        here = point[todo].requires_grad_()
        logits = model(here)
        right = logits.detach().argmax(1) == labels[todo]
        if not right.any():
            return point
        gradient, = torch.autograd.grad(F.cross_entropy(logits[right], labels[todo[right]]), here)
        eps, taken = (2 * eps, 1) if taken == STEPS else (eps, taken + 1)
        gradient, todo = gradient[right], todo[right]
        clean = images[todo]
        norm = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1e-10
        step = point[todo] + STEP_RATIO * eps * gradient / norm - clean
        length = step.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        point[todo] = (clean + step * (eps / length.clamp_min(1e-30)).clamp_max(1)).clamp(0, 1)
    return point


def torchattacks_doubling(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """torchattacks' PGDL2 in the same doubling loop, from the clean image, prediction read after 50 steps."""
    import torchattacks

    found = images.clone()
    todo, eps = (model(images).argmax(1) == labels).nonzero().squeeze(1), EPS_INIT
    for _ in range(DOUBLINGS + 1):
        if len(todo) == 0:
            break
        attack = torchattacks.PGDL2(model, eps=eps, alpha=STEP_RATIO * eps, steps=STEPS, random_start=False)
        found[todo] = attack(images[todo], labels[todo])
        with torch.no_grad():
            todo = todo[model(found[todo]).argmax(1) == labels[todo]]
        eps *= 2
    return found


def foolbox_ddn(steps: int) -> Attack:
    """foolbox' DDN."""
    def attack(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        import foolbox

        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=images.device)
        return foolbox.attacks.DDNAttack(steps=steps)(wrapped, images, labels, epsilons=None)[1]
    return attack


def adv_lib(name: str, **options: float) -> Attack:
    """A function of adv_lib.attacks."""
    def attack(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        # adv-lib imports it for plots that are never drawn here
        if "visdom" not in sys.modules and importlib.util.find_spec("visdom") is None:
            sys.modules["visdom"] = types.ModuleType("visdom")
        import adv_lib.attacks

        return getattr(adv_lib.attacks, name)(model, images.clone(), labels.clone(), **options)
    return attack


# name -> (attack, package it needs, how often it runs at most: two take minutes, and their results do not vary)
RIVALS: dict[str, tuple[Attack, str | None, int | None]] = {
    "authors_rules": (authors_rules, None, None),
    "torchattacks_pgdl2": (torchattacks_doubling, "torchattacks", None),
    "foolbox_ddn50": (foolbox_ddn(50), "foolbox", None),
    "foolbox_ddn100": (foolbox_ddn(100), "foolbox", None),
    "foolbox_ddn1000": (foolbox_ddn(1000), "foolbox", 1),
    "advlib_deepfool": (adv_lib("df"), "adv_lib", None),
    "advlib_superdeepfool": (adv_lib("sdf"), "adv_lib", None),
    "advlib_fab100": (adv_lib("fab", norm=2, n_iter=100, restarts=1), "adv_lib", 1),
}


def installed() -> dict[str, tuple[Attack, str | None, int | None]]:
    """The rows of RIVALS whose package is there."""
    return {name: rival for name, rival in RIVALS.items()
            if rival[1] is None or importlib.util.find_spec(rival[1]) is not None}
