"""The one training loop: it runs the passes of an epoch and hands control back; it knows nothing about its caller."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amun_ray.base.device import uses_bfloat16
from amun_ray.base.errors import Diverged, UserError
from amun_ray.base.seeds import derive
from amun_ray.training.augment import Augmentation
from amun_ray.training.batches import batch_sizes, batches
from amun_ray.training.cost import Cost
from amun_ray.training.group import ALONE, Group
from amun_ray.training.modes import frozen_statistics, has_batch_norm
from amun_ray.training.parts import Part, count
from amun_ray.training.recipe import Recipe
from amun_ray.training.spectral import Clipping
from amun_ray.training.trades import trades

Forward = Callable[[Tensor], Tensor]  # the model, possibly compiled
Objective = Callable[[Forward, Tensor, Tensor], Tensor]  # (model, images, labels) -> scalar to minimise
Mask = Mapping[str, Tensor]  # parameter name -> bool tensor of its shape, True where it may move


def cross_entropy(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of `labels` (B,) over the batch `images` (B, C, H, W)."""
    return F.cross_entropy(forward(images).float(), labels)


class Pass(NamedTuple):
    """One sweep over the union of some parts, shuffled together."""

    parts: tuple[Part, ...]
    objective: Objective = cross_entropy
    statistics: bool = True  # False: batch norm uses its running statistics without updating them
    moves: Mask | None = None  # where False, its gradient is 0; momentum and weight decay still move these weights
    clip: float = 0.0  # largest norm of its gradient, after `moves`; 0: that of the recipe


EpochPlan = Callable[[int], Sequence[Pass]]  # epoch, from 1 -> its passes, chosen when the epoch begins


def fit(model: nn.Module, parts: Sequence[Part], *, recipe: Recipe, augmentation: Augmentation,
        generator: torch.Generator, loss: Objective | None = None, cost: Cost | None = None,
        group: Group = ALONE) -> Iterator[int]:
    """Train `model` in place on the union of `parts`; yields the epoch, from 1, after each epoch.

    It minimises `loss`, by default the recipe's: the cross-entropy with its label smoothing, or TRADES.

    Raises:
        UserError: the parts are empty, or hold one sample for a model with batch norm.
        Diverged: after the epoch in which the loss or a weight stops being finite.
    """
    def smoothed(forward: Forward, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(forward(images).float(), labels, label_smoothing=recipe.label_smoothing)

    cost = cost or Cost()
    if loss is None:
        loss = trades(model, recipe, generator=generator, cost=cost) if recipe.loss == "trades" else smoothed
    every_epoch = (Pass(tuple(parts), loss),)
    return train(model, lambda epoch: every_epoch, recipe=recipe, augmentation=augmentation, generator=generator,
                 cost=cost, group=group)


def train(model: nn.Module, plan: EpochPlan, *, recipe: Recipe, augmentation: Augmentation, generator: torch.Generator,
          mask: Mask | None = None, cost: Cost | None = None, group: Group = ALONE) -> Iterator[int]:
    """Train `model` in place by the passes of each epoch; yields the epoch, from 1, after each epoch.

    The passes of an epoch share one optimiser, momentum included. A weight outside `mask` keeps its value bit for bit:
    neither gradient nor momentum nor weight decay moves it. Buffers (batch norm statistics) are not weights; a mask
    does not hold them still. The bound of a model that `spectral.clipped` has marked holds at each yield; to keep it,
    weights outside `mask` move, too.

    The host waits for the device once per epoch, to check that the numbers are finite. Afterwards the weights are in
    channels_last memory order, with unchanged shapes. Raises as `fit` does.
    """
    run = _Run(model=model, recipe=recipe, augmentation=augmentation, generator=generator, cost=cost or Cost(),
               mask=mask, group=group)
    for epoch in range(1, recipe.epochs + 1):
        passes = plan(epoch)
        losses = [run.one_pass(each, begin=epoch - 1 + number / len(passes), length=1 / len(passes))
                  for number, each in enumerate(passes)]
        if run.clipping is not None:
            run.clipping.settle()
        run.optimizer.zero_grad()  # the caller gets a model without gradients
        _check_finite(model, losses, f"epoch {epoch} of {recipe.epochs}, lr {recipe.lr_at(epoch - 1):.3g}")
        yield epoch


@dataclass(kw_only=True)
class _Run:
    """What stays the same from the first to the last batch of a training run."""

    model: nn.Module
    recipe: Recipe
    augmentation: Augmentation
    generator: torch.Generator
    cost: Cost
    mask: Mask | None
    group: Group

    def __post_init__(self) -> None:
        self.model.to(memory_format=torch.channels_last)
        joined = self.group.joined(self.model)
        self.forward = torch.compile(joined) if self.recipe.compile else joined
        self.named = [(name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad]
        self.weights = [weight for _, weight in self.named]
        self.device = self.weights[0].device
        self.masks = None if self.mask is None else [self.mask[name].to(weight) for name, weight in self.named]
        self.optimizer = self._optimizer()
        self.passes = 0
        self.clipping: Clipping | None = None

    def _optimizer(self) -> torch.optim.Optimizer:
        """The recipe's optimiser. With a mask the loop applies weight decay, since the optimiser would decay all."""
        decay = 0 if self.masks else self.recipe.weight_decay
        if self.recipe.optimizer == "adamw":
            return torch.optim.AdamW(self.weights, lr=self.recipe.lr, weight_decay=decay, fused=True)
        return torch.optim.SGD(self.weights, lr=self.recipe.lr, momentum=self.recipe.momentum, weight_decay=decay,
                               fused=True)

    def one_pass(self, sweep: Pass, *, begin: float, length: float) -> Tensor:
        """Train over `sweep`, which begins at `begin` and lasts `length`, in epochs; returns the summed loss."""
        total = count(sweep.parts)
        if total == 1 and sweep.statistics and has_batch_norm(self.model):
            raise UserError("a pass over one sample has no batch statistics; give at least two samples")
        if self.passes == 0:
            self.clipping = Clipping.of(self.model, sweep.parts[0].images)
        self.model.train()
        loss_sum = torch.zeros((), device=self.device)
        done = 0
        with self._layers_draw(), nullcontext() if sweep.statistics else frozen_statistics(self.model):
            for size, (images, labels) in zip(
                    batch_sizes(total, self.recipe.batch_size),
                    batches(sweep.parts, batch_size=self.recipe.batch_size, augmentation=self.augmentation,
                            generator=self.generator, group=self.group), strict=True):
                self._set_lr(self.recipe.lr_at(begin + length * done / total))
                loss_sum += self._step(sweep, images, labels, size)
                done += size
        self.cost.add(total, backward=True)
        return self.group.summed(loss_sum)

    @contextmanager
    def _layers_draw(self) -> Iterator[None]:
        """Make dropout and stochastic depth in a pass depend only on the training's own seed."""
        self.passes += 1
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            others = [self.group.rank] if self.group.rank else []  # each process draws for samples of its own
            torch.manual_seed(derive(self.generator.initial_seed(), "layers", self.passes, *others))
            yield

    def _step(self, sweep: Pass, images: Tensor, labels: Tensor, size: int) -> Tensor:
        """One optimiser step of `sweep` on a batch of `size` samples, or this process's share; returns its loss."""
        with torch.autocast(self.device.type, torch.bfloat16,
                            enabled=uses_bfloat16(self.recipe.precision, self.device, on_cpu=False)):
            loss = sweep.objective(self.forward, images, labels) if len(labels) else 0 * self.forward(images).sum()
        self.optimizer.zero_grad()
        self.group.scaled(loss, len(labels), size).backward()
        if self.masks is not None:
            self._mask_gradients(self.masks)
        if sweep.moves is not None:
            for name, weight in self.named:
                if weight.grad is not None:
                    weight.grad.mul_(sweep.moves[name])
        if clip := sweep.clip or self.recipe.clip:
            torch.nn.utils.clip_grad_norm_(self.weights, clip)
        self.optimizer.step()
        if self.clipping is not None:
            self.clipping.step()
        return loss.detach()

    def _mask_gradients(self, masks: list[Tensor]) -> None:
        """Set each gradient to exactly 0 where the mask is 0; elsewhere apply weight decay as the optimiser would."""
        decay = self.recipe.weight_decay
        for weight, mask in zip(self.weights, masks, strict=True):
            if weight.grad is None:
                continue
            if self.recipe.optimizer == "adamw":  # decays the weight directly, not through the gradient
                weight.detach().mul_(1 - self.optimizer.param_groups[0]["lr"] * decay * mask)
                weight.grad.mul_(mask)
            else:
                weight.grad.add_(weight.detach(), alpha=decay).mul_(mask)

    def _set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr


def _check_finite(model: nn.Module, losses: list[Tensor], where: str) -> None:
    """Raise Diverged unless the losses and the model's whole state are finite; waits for the device once."""
    state = [value for value in model.state_dict().values() if value.is_floating_point()]
    finite = torch.stack([value.isfinite().all() for value in (*losses, *state)])
    if not finite.all():
        value = sum(loss.item() for loss in losses)
        what = f"the summed loss is {value}" if not math.isfinite(value) else "weights or statistics are not finite"
        raise Diverged(f"{where}: {what}")
