"""What robust training costs: an epoch of TRADES beside its bare passes, and spectral clipping's share of an epoch.

    python benchmarks/robust.py [--json FILE] [--model resnet20] [--images 640] [--rounds 8] [--threads 1]

A few minutes on two idle cores. Seconds of an epoch of
- trades: `training.loop.fit` with the TRADES recipe (10 inner steps): data, attack, SGD and finite check included;
- bare: 11 forward and backward passes of the same model for each batch, with the gradients of its weights (in TRADES
  ten of them are of images alone), on one resident batch: no data, no optimiser;
- clipped, plain: the loop with cross-entropy on the network without batch norm, with a bound on its layers and without.
Clipping is done every hundredth step and at the end of each epoch, so its share falls with the number of steps:
`clipping_share` is of an epoch of `--images`, `clipping_share_50000` of one of 50,000, from the seconds of the plain
epoch, of the clipping at its end, and of one clipping of all layers on the way. All run once in each round, in
rotating order; only seconds of the same round are divided by each other, and the median of these ratios counts.
"""

import argparse
import os
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from claims import Row, at_least, at_most, command, count, end, in_turns, row, show
from torch import nn
from torch.nn import functional as F

from amun_ray.base.seeds import generator
from amun_ray.models import build
from amun_ray.training.augment import Augmentation
from amun_ray.training.loop import fit
from amun_ray.training.parts import Part, place
from amun_ray.training.recipe import Recipe
from amun_ray.training.spectral import EVERY, Clipping, clipped

SIZE, CLASSES, BATCH, PASSES = 32, 10, 128, 11
FULL = 50_000  # images of an epoch of CIFAR-10
MODELS = ("small_cnn", "resnet20", "resnet18")


class Bench:
    """One device, and a set of random images on it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.name, self.device = options.model, torch.device(options.device)
        rng = np.random.default_rng(0)
        self.part = place(rng.integers(0, 256, (options.images, 3, SIZE, SIZE), np.uint8),
                          rng.integers(0, CLASSES, options.images), augment=True, device=self.device)

    def model(self, *, batch_norm: bool = True) -> nn.Module:
        return build(self.name, channels=3, classes=CLASSES, size=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3, seed=0,
                     options={} if batch_norm else {"batch_norm": False}).to(self.device)

    def loop(self, model: nn.Module, **recipe: str) -> Callable[[], object]:
        """One more epoch of the training loop."""
        made = Recipe(lr=1e-3, epochs=10**6, batch_size=BATCH, precision="float32", **recipe)
        epochs = fit(model, [self.part], recipe=made, augmentation=Augmentation(crop=4, flip=True),
                     generator=generator(0, "order"))
        return lambda: next(epochs)

    def whole(self, epoch: Callable[[], object]) -> None:
        """One epoch, until the device has finished it."""
        epoch()
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def bare(bench: Bench) -> Callable[[], None]:
    """11 forward and backward passes for each batch of an epoch."""
    model = bench.model().to(memory_format=torch.channels_last).train()
    images = (bench.part.images[:BATCH] / 255).to(memory_format=torch.channels_last)
    labels = bench.part.labels[:BATCH]

    def epoch() -> None:
        for _ in range(PASSES * (len(bench.part.labels) // BATCH)):
            model.zero_grad()
            F.cross_entropy(model(images), labels).backward()

    return epoch


def clippings(model: nn.Module, part: Part) -> dict[str, Callable[[], object]]:
    """The clipping of all layers of a model at its bound: at the end of an epoch, and one step of it on the way."""
    made = Clipping.of(model, part.images)
    assert made is not None, "the model has a bound"
    made.settle()
    return {"settle": made.settle, "once": lambda: [layer.clip(made.bound) for layer in made.layers]}


def seconds(bench: Bench, rounds: int) -> list[dict[str, float]]:
    """Seconds of each, which all run once per round."""
    bounded = clipped(bench.model(batch_norm=False), 1.0)
    epochs = {"trades": bench.loop(bench.model(), loss="trades"), "bare": bare(bench), "clipped": bench.loop(bounded),
              "plain": bench.loop(bench.model(batch_norm=False)),
              **clippings(clipped(bench.model(batch_norm=False), 1.0), bench.part)}
    epochs = {name: partial(bench.whole, epoch) for name, epoch in epochs.items()}
    for epoch in epochs.values():
        epoch()  # warms up caches and kernels; clipping has brought the first weights to the bound
    return [{name: taken for name, (taken, _) in one.items()} for one in in_turns(epochs, rounds)]


def rows_of(bench: Bench, found: list[dict[str, float]]) -> list[Row]:
    """All rows of the benchmark."""
    images = len(bench.part.labels)
    where = f"{bench.name}, {images} images, float32, {bench.device.type}"

    def full(one: dict[str, float]) -> float:
        clipping = one["settle"] + FULL / BATCH / EVERY * one["once"]
        return clipping / (clipping + one["plain"] * FULL / images)

    return [row("trades_share_of_bare_rate", [one["bare"] / one["trades"] for one in found], f"ratio ({where})",
                at_least(0.9)),
            row("clipping_share_50000", [full(one) for one in found], f"ratio ({where})", at_most(0.1)),
            row("clipping_share", [1 - one["plain"] / one["clipped"] for one in found], f"ratio ({where})"),
            *(row(f"{name}_seconds", [one[name] for one in found], f"s ({where})") for name in found[0])]


def main() -> None:
    """Measure, print, and write the rows where asked."""
    parser = command(__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", choices=MODELS, default="resnet20")
    parser.add_argument("--images", type=count, default=5 * BATCH)
    parser.add_argument("--rounds", type=count, default=8)
    parser.add_argument("--threads", type=count, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    show(rows_of(bench, seconds(bench, options.rounds)), options.json)


if __name__ == "__main__":
    end(main)
