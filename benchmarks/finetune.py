"""The fine-tuning loop beside the bare forward + backward of its model, and beside a conventional DataLoader loop.

    python benchmarks/finetune.py [--json FILE] [--model NAME] [--precision auto|float32|bfloat16] [--rounds 12]

About 4 minutes on two idle cores, one minute of it for the compiler; on a busy machine, `--threads 1` disturbs the
comparison least. Images per second of
- ours: `training.loop.fit`: shuffle, crop, flip, SGD step and the finite check of every epoch included;
- compiled: the same with `compile: true`, compiled before the clock; left out where there is no C++ compiler;
- bare: forward and backward of the same model on one resident float batch, again and again: no data, no optimiser;
- conventional: PIL images through torchvision's RandomCrop, RandomHorizontalFlip and ToTensor, a DataLoader with one
  worker per core (at most 4; started before the clock), contiguous weights, plain SGD: as research scripts have it.
All in the same precision and with the same threads. The speed of a shared machine varies. So rounds are
short, every loop runs once in each, in rotating order, and only rates of the same round are divided by each other; the
median of these ratios counts, with its quartiles beside it. The ceiling is what bare would reach against the
DataLoader loop: no loop around the same uncompiled model can be faster. Images are random: no time here depends on what
they show. Memory is each loop's own: on a GPU the peak that torch allocated, on a CPU the peak of its process beyond
what it held before (the workers of the DataLoader are not counted). On a CPU one more row says what it brings that a
worker keeps freed memory: ours in a process that does, beside one that does not, in CPU seconds. No other row has it.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from claims import NONE, Row, at_least, command, count, end, in_turns, row, show
from torch import nn
from torch.nn import functional as F

from amun_ray.base.device import uses_bfloat16
from amun_ray.base.memory import keep_freed_memory
from amun_ray.base.seeds import generator
from amun_ray.models import MODELS, build
from amun_ray.training.augment import Augmentation
from amun_ray.training.loop import fit
from amun_ray.training.parts import place
from amun_ray.training.recipe import Recipe

SIZE, CLASSES, BATCH = 32, 10, 128
LR = 0.01
MIB = 2**20


class Bench:
    """One device, one precision, one set of random images, a fresh model for each loop."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.name, self.device = options.model, torch.device(options.device)
        self.precision = "bfloat16" if uses_bfloat16(options.precision, self.device, on_cpu=False) else "float32"
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 256, (options.images, 3, SIZE, SIZE), np.uint8)
        self.labels = rng.integers(0, CLASSES, options.images)

    def model(self) -> nn.Module:
        return build(self.name, channels=3, classes=CLASSES, size=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3,
                     seed=0).to(self.device)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def ours(bench: Bench, *, compiled: bool = False) -> Callable[[], int]:
    """One epoch of the loop; returns the images it saw, as the others do."""
    part = place(bench.pixels, bench.labels, augment=True, device=bench.device)
    recipe = Recipe(lr=LR, epochs=10**6, batch_size=BATCH, precision=bench.precision, compile=compiled)
    epochs = fit(bench.model(), [part], recipe=recipe, augmentation=Augmentation(crop=4, flip=True),
                 generator=generator(0, "order"))
    return lambda: len(part.labels) * (next(epochs) > 0)


def bare(bench: Bench) -> Callable[[], int]:
    model = bench.model().to(memory_format=torch.channels_last).train()
    part = place(bench.pixels[:BATCH], bench.labels[:BATCH], augment=False, device=bench.device)
    images = (part.images / 255).to(memory_format=torch.channels_last)

    def epoch() -> int:
        steps = len(bench.labels) // BATCH
        for _ in range(steps):
            model.zero_grad()
            with bench.autocast():
                loss = F.cross_entropy(model(images).float(), part.labels)
            loss.backward()
        bench.wait()
        return steps * BATCH

    return epoch


class PilImages(torch.utils.data.Dataset):
    """What torchvision's CIFAR10 does for one sample: an array becomes a PIL image and goes through the transforms."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray) -> None:
        from torchvision import transforms

        self.pixels, self.labels = pixels.transpose(0, 2, 3, 1), labels
        self.transform = transforms.Compose([transforms.ToPILImage(), transforms.RandomCrop(SIZE, padding=4),
                                             transforms.RandomHorizontalFlip(), transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.pixels[row]), int(self.labels[row])


def conventional(bench: Bench) -> Callable[[], int]:
    on_gpu = bench.device.type == "cuda"
    loader = torch.utils.data.DataLoader(PilImages(bench.pixels, bench.labels), BATCH, shuffle=True,
                                         num_workers=min(4, os.cpu_count() or 1), persistent_workers=True,
                                         pin_memory=on_gpu)
    model = bench.model().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)

    def epoch() -> int:
        for images, labels in loader:
            images, labels = (tensor.to(bench.device, non_blocking=on_gpu) for tensor in (images, labels))
            with bench.autocast():
                loss = F.cross_entropy(model(images).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        bench.wait()
        return len(bench.labels)

    return epoch


LOOPS = {"ours": ours, "bare": bare, "conventional": conventional}
COMPILED = {"compiled": partial(ours, compiled=True)} if shutil.which(os.environ.get("CXX", "g++")) else {}


def rates(bench: Bench, rounds: int) -> list[dict[str, float]]:
    """Images per second of each loop, which all run once per round."""
    epochs = {name: make(bench) for name, make in (LOOPS | COMPILED).items()}
    for epoch in epochs.values():
        epoch()  # warms up caches, workers, kernels
    return [{name: seen / seconds for name, (seconds, seen) in one.items()} for one in in_turns(epochs, rounds)]


def peak_bytes(name: str, options: argparse.Namespace) -> int:
    """The peak memory of one epoch of the loop `name`; call it in a process of its own."""
    torch.set_num_threads(options.threads)
    bench = Bench(options)
    bench.model()  # so that what loading the libraries takes is not counted
    if bench.device.type == "cuda":
        LOOPS[name](bench)()
        return torch.cuda.max_memory_allocated()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    LOOPS[name](bench)()
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def alone(function: Callable[..., int], *arguments: Any) -> int:
    """The result of `function` in a fresh process, which holds nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


STARTED: list[Callable[[], int]] = []  # in a process that `start` has begun: its loop


def start(options: argparse.Namespace, keep: bool) -> None:
    """Begin a process that trains by our loop, and keeps the memory that it frees or not."""
    torch.set_num_threads(options.threads)
    if keep:
        keep_freed_memory()
    STARTED.append(ours(Bench(options)))
    STARTED[0]()


def cpu_seconds() -> float:
    """Of one more epoch, in a process that `start` has begun."""
    begun = time.process_time()
    STARTED[0]()
    return time.process_time() - begun


def gains_of_kept_memory(options: argparse.Namespace) -> list[float]:
    """In each round, the CPU seconds of a process that gives freed memory back, over those of one that keeps it."""
    context = multiprocessing.get_context("spawn")
    with (ProcessPoolExecutor(1, context, start, (options, False)) as returning,
          ProcessPoolExecutor(1, context, start, (options, True)) as keeping):
        found = in_turns({"returned": lambda: returning.submit(cpu_seconds).result(),
                          "kept": lambda: keeping.submit(cpu_seconds).result()}, options.rounds)
    return [one["returned"][1] / one["kept"][1] for one in found]


def rows_of(bench: Bench, found: list[dict[str, float]], peaks: dict[str, int]) -> list[Row]:
    """All rows of the benchmark."""
    where = f"{bench.name}, {bench.precision}, {bench.device.type}"
    speedup_goal = 5.0 if bench.device.type == "cuda" else 1.5

    def ratio(name: str, one: str, other: str, goal: float | None = None) -> Row:
        return row(name, [each[one] / each[other] for each in found], f"ratio ({where})",
                   NONE if goal is None else at_least(goal))

    rows = [ratio("share_of_bare_rate", "ours", "bare", 0.95),
            ratio("speedup_vs_dataloader", "ours", "conventional", speedup_goal),
            *(ratio("compiled_speedup_vs_dataloader", name, "conventional", speedup_goal) for name in COMPILED),
            ratio("ceiling_of_speedup_vs_dataloader", "bare", "conventional")]
    rows += [row(f"{name}_images_per_second", [each[name] for each in found], f"images/s ({where})")
             for name in found[0]]
    return rows + [row(f"{name}_peak_memory_mib", peak / MIB, f"MiB ({where})") for name, peak in peaks.items()]


def parse() -> argparse.Namespace:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = command(__doc__)
    parser.add_argument("--device", default=device)
    parser.add_argument("--model", choices=MODELS, default="resnet18" if device == "cuda" else "resnet20")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--images", type=count, default=50_000 if device == "cuda" else 1_280)
    parser.add_argument("--rounds", type=count, default=12)
    parser.add_argument("--threads", type=count, default=os.cpu_count())
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write the rows where asked."""
    options = parse()
    torch.set_num_threads(options.threads)
    peaks = {name: alone(peak_bytes, name, options) for name in LOOPS}
    bench = Bench(options)
    rows = rows_of(bench, rates(bench, options.rounds), peaks)
    if bench.device.type == "cpu":
        rows.append(row("speedup_by_kept_memory", gains_of_kept_memory(options), f"ratio ({bench.name}, CPU seconds)"))
    show(rows, options.json)


if __name__ == "__main__":
    end(main)
