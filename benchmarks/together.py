"""Several models trained at once in one process, with batched weights, beside the loop that trains one after another.

    python benchmarks/together.py [--json FILE] [--models NAME,...] [--at-once N,...] [--size PIXELS] [--batch-size N]
        [--images N] [--rounds N] [--device DEVICE]

Each model has its own weights, its own images in its own order with its own flips, and its own batch norm statistics:
- alone: `training.loop.fit`, one model after another, as the product trains them;
- grouped: one network whose channels are those of all models, side by side; its convolutions have a group per model;
- mapped: `torch.func.vmap` over the stacked weights, as `torch.func.stack_module_state` makes them.
All in the same precision (bfloat16 where a GPU has it), on one thread of a CPU. Every way trains every model for one
epoch in each round, in rotating order. Only times of the same round are divided by each other, CPU seconds on a CPU and
seconds by the clock on a GPU; the median of these ratios counts. What as many processes reach: `packing.py`.
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from claims import Row, command, count, end, in_turns, row, show
from packing import counts, networks
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from amun_ray.base.device import uses_bfloat16
from amun_ray.base.errors import UserError
from amun_ray.base.memory import keep_freed_memory
from amun_ray.base.seeds import generator
from amun_ray.models import build
from amun_ray.models.normalize import Normalize
from amun_ray.training.augment import Augmentation
from amun_ray.training.batches import batches
from amun_ray.training.loop import fit
from amun_ray.training.parts import Part, place
from amun_ray.training.recipe import Recipe

CLASSES = 10


class Grouped(nn.Module):
    """The networks of `models` as one, for networks that treat channels alike but for the layers of `_widen`.

    Raises:
        UserError: another layer with weights.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.number, self.network = len(models), copy.deepcopy(models[0])
        for layer, *alike in zip(self.network.modules(), *(model.modules() for model in models), strict=True):
            _widen(layer, alike)
        self.network.to(memory_format=torch.channels_last)

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """Of each model's images (B, C, H, W): all logits (models, B, classes)."""
        return self.network(torch.cat(list(images), dim=1)).unflatten(1, (self.number, -1)).transpose(0, 1)

    @torch.no_grad()
    def write(self, models: Sequence[nn.Module]) -> None:
        """Give each of `models` its weights and statistics back."""
        states = [model.state_dict() for model in models]
        for name, value in self.network.state_dict().items():
            for state, own in zip(states, value.chunk(self.number) if value.ndim else [value] * self.number,
                                  strict=True):
                state[name].copy_(own)


def _widen(layer: nn.Module, alike: Sequence[nn.Module]) -> None:
    """Make `layer` the layers `alike`, one of each model, side by side."""
    tensors = [*alike[0].named_parameters(recurse=False), *alike[0].named_buffers(recurse=False)]
    if tensors and not isinstance(layer, nn.Conv2d | nn.Linear | _BatchNorm | Normalize):
        raise UserError(f"a layer {type(layer).__name__} cannot be grouped")
    for name, first in tensors:
        own = [getattr(one, name).detach() for one in alike]
        joined = torch.cat(own) if first.ndim else first.clone()
        setattr(layer, name, nn.Parameter(joined) if isinstance(first, nn.Parameter) else joined)
    if isinstance(layer, nn.Conv2d):
        layer.groups *= len(alike)
    elif isinstance(layer, nn.Linear):
        layer.forward = partial(_dense, layer, len(alike))


def _dense(layer: nn.Linear, number: int, features: Tensor) -> Tensor:
    """(B, models x inputs) -> (B, models x outputs)."""
    own = features.unflatten(1, (number, -1)).transpose(0, 1)
    logits = own @ layer.weight.unflatten(0, (number, -1)).mT  # (models, B, outputs)
    return logits.transpose(0, 1).flatten(1) + (0 if layer.bias is None else layer.bias)


class Mapped(nn.Module):
    """The networks of `models` under `torch.vmap`."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        weights, self.statistics = stack_module_state(list(models))
        self.stacked = nn.ParameterList(weights.values())
        self.weights = dict(zip(weights, self.stacked, strict=True))
        self.one = [copy.deepcopy(models[0]).train()]  # in a list: its weights are not this module's

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        """As that of `Grouped`."""
        def logits(weights: dict[str, Tensor], statistics: dict[str, Tensor], own: Tensor) -> Tensor:
            return functional_call(self.one[0], (weights, statistics), (own,))

        return torch.vmap(logits)(self.weights, self.statistics, torch.stack(list(images)))

    @torch.no_grad()
    def write(self, models: Sequence[nn.Module]) -> None:
        """As that of `Grouped`."""
        states = [model.state_dict() for model in models]
        for name, value in (self.weights | self.statistics).items():
            for state, own in zip(states, value, strict=True):
                state[name].copy_(own)


def fit_together(join: Callable[[Sequence[nn.Module]], Grouped | Mapped], models: Sequence[nn.Module],
                 parts: Sequence[Part], *, recipe: Recipe, augmentation: Augmentation,
                 generators: Sequence[torch.Generator]) -> Iterator[int]:
    """Train `models` in place, each on its part of the same size, by SGD; yields the epoch, from 1.

    Each takes the batches that `fit` would make for it from its own generator, and ends as `fit` would leave it, to
    float noise: the losses are added, so that no gradient depends on another model.
    """
    joined = join(models).train()
    optimizer = torch.optim.SGD(joined.parameters(), lr=recipe.lr, momentum=recipe.momentum,
                                weight_decay=recipe.weight_decay, fused=True)
    device, total = parts[0].labels.device, len(parts[0].labels)
    for epoch in range(1, recipe.epochs + 1):
        streams = [batches([part], batch_size=recipe.batch_size, augmentation=augmentation, generator=own)
                   for part, own in zip(parts, generators, strict=True)]
        done = 0
        for own_batches in zip(*streams, strict=True):
            images, labels = zip(*own_batches, strict=True)
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr_at(epoch - 1 + done / total)
            with torch.autocast(device.type, torch.bfloat16,
                                enabled=uses_bfloat16(recipe.precision, device, on_cpu=False)):
                logits = joined(images).float()
            optimizer.zero_grad()
            (len(models) * F.cross_entropy(logits.flatten(0, 1), torch.cat(labels))).backward()
            optimizer.step()
            done += len(labels[0])
        joined.write(models)
        yield epoch


def fit_alone(models: Sequence[nn.Module], parts: Sequence[Part], *, recipe: Recipe, augmentation: Augmentation,
              generators: Sequence[torch.Generator]) -> Iterator[int]:
    """As `fit_together`, by the product's loop: each model's epoch after that of the model before it."""
    loops = [fit(model, [part], recipe=recipe, augmentation=augmentation, generator=own)
             for model, part, own in zip(models, parts, generators, strict=True)]
    for epochs in zip(*loops, strict=True):
        yield epochs[0]


WAYS = {"alone": fit_alone, "grouped": partial(fit_together, Grouped), "mapped": partial(fit_together, Mapped)}


def epochs_of(way: str, name: str, number: int, options: argparse.Namespace) -> Callable[[], float]:
    """What trains `number` networks called `name` for one more epoch, and returns the CPU seconds that it took."""
    size, rng = options.size, np.random.default_rng(0)
    models = [build(name, channels=3, classes=CLASSES, size=size, mean=(0.5,) * 3, std=(0.25,) * 3,
                    seed=seed).to(options.device) for seed in range(number)]
    parts = [place(rng.integers(0, 256, (options.images, 3, size, size), np.uint8),
                   rng.integers(0, CLASSES, options.images), augment=True, device=options.device) for _ in models]
    loop = WAYS[way](models, parts, recipe=Recipe(lr=0.01, epochs=10**6, batch_size=options.batch_size),
                     augmentation=Augmentation(flip=True),
                     generators=[generator(seed, "order") for seed in range(number)])

    def epoch() -> float:
        begun = time.process_time()
        next(loop)
        if torch.device(options.device).type == "cuda":
            torch.cuda.synchronize()
        return time.process_time() - begun

    epoch()  # warms up
    return epoch


def rows_of(name: str, number: int, options: argparse.Namespace) -> list[Row]:
    """What each way gains for `number` networks at once, against one after another."""
    found = in_turns({way: epochs_of(way, name, number, options) for way in WAYS}, options.rounds)
    on_cpu = torch.device(options.device).type == "cpu"
    seconds = [{way: cpu if on_cpu else wall for way, (wall, cpu) in each.items()} for each in found]
    where = f"{name}.{options.size}_pixels.{number}_at_once"
    return [row(f"{where}.alone", [number * options.images / each["alone"] for each in seconds],
                "images/s of CPU" if on_cpu else "images/s"),
            *(row(f"{where}.{way}", [each["alone"] / each[way] for each in seconds], "x of alone")
              for way in WAYS if way != "alone")]


def main() -> None:
    """Measure, print, and write the rows where asked."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = command(__doc__)
    parser.add_argument("--models", type=networks, metavar="NAME,...", default=["small_cnn", "resnet20", "resnet18"])
    parser.add_argument("--at-once", type=counts, metavar="N,...", default=[1, 2, 4, 8, 16])
    parser.add_argument("--size", type=count, metavar="PIXELS", default=32)
    parser.add_argument("--batch-size", type=count, default=128)
    parser.add_argument("--images", type=count, default=5_120 if device == "cuda" else 256)
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--device", default=device)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    show([one for name in options.models for number in options.at_once for one in rows_of(name, number, options)],
         options.json)


if __name__ == "__main__":
    end(main)
