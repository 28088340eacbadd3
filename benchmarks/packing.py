"""Trainings side by side on one device: what `resources: {gpus: 0.125}` gains, and how many are worth it.

    python benchmarks/packing.py [--json FILE] [--models NAME,...] [--at-once N,...] [--images N] [--device DEVICE]

About a minute on a GPU. Processes train the same network on random images, in batches of 128 with flips, in bfloat16
where a GPU has it. The first epoch warms up; when all have done theirs, the next two count. The rate is all images over
the time from the first start to the last end, so a straggler costs. Small networks leave a large GPU waiting for the
next kernel launch, which a neighbour fills, under NVIDIA's MPS while others compute; the gain ends where the kernels
themselves fill the GPU.
"""

import argparse
import itertools
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier

import numpy as np
import torch
from claims import Row, command, count, end, row, show

from amun_ray.base.errors import UserError
from amun_ray.base.seeds import generator
from amun_ray.models import build, find
from amun_ray.training.augment import Augmentation
from amun_ray.training.loop import fit
from amun_ray.training.parts import place
from amun_ray.training.recipe import Recipe

SIZE, CLASSES, EPOCHS = 32, 10, 2
WARM: dict[int, Barrier] = {}  # by how many train at once: where they wait for each other after the first epoch


def train_one(name: str, together: int, images: int, device: str) -> tuple[float, float]:
    """Train the network called `name` beside others, `together` of them in all; the start and the end of the epochs
    that count, in seconds by the clock."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (images, 3, SIZE, SIZE), np.uint8), rng.integers(0, CLASSES, images)
    part = place(pixels, labels, augment=True, device=device)
    model = build(name, channels=3, classes=CLASSES, size=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3, seed=0).to(device)
    epochs = fit(model, [part], recipe=Recipe(lr=0.01, epochs=1 + EPOCHS), augmentation=Augmentation(flip=True),
                 generator=generator(0, "order"))
    next(epochs)
    WARM[together].wait(timeout=600)
    start = time.time()
    for _ in epochs:  # each ends with a check that waits for the device
        pass
    return start, time.time()


def wait_for_all(everybody: Barrier, warm: dict[int, Barrier]) -> None:
    """Start a process of the pool; work begins when all have started."""
    torch.set_num_threads(1)
    WARM.update(warm)
    everybody.wait()


def rates(names: list[str], at_once: list[int], images: int, device: str) -> dict[str, dict[int, float]]:
    """Images per second of all trainings together: network -> how many at once -> rate."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, dict[int, float]] = {name: {} for name in names}
    barriers = context.Barrier(max(at_once)), {number: context.Barrier(number) for number in at_once}
    with ProcessPoolExecutor(max(at_once), context, wait_for_all, barriers) as pool:
        list(pool.map(math.sqrt, range(max(at_once))))
        for name, number in itertools.product(names, at_once):
            spans = np.array(list(pool.map(train_one, *zip(*[(name, number, images, device)] * number, strict=True))))
            found[name][number] = number * EPOCHS * images / (spans[:, 1].max() - spans[:, 0].min())
    return found


def claims(found: dict[str, dict[int, float]]) -> list[Row]:
    """The rate of one training, and the gain of several at once."""
    rows = []
    for name, by_number in found.items():
        one = by_number[min(by_number)]
        rows += [row(f"{name}.images_per_second", one, "images/s"),
                 *(row(f"{name}.{number}_at_once", rate / one, "x of one")
                   for number, rate in by_number.items() if number != min(by_number))]
    return rows


def networks(text: str) -> list[str]:
    """Names of networks, with commas between them."""
    try:
        for name in text.split(","):
            find(name)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text.split(",")


def counts(text: str) -> list[int]:
    """Positive numbers, with commas between them."""
    return [count(one) for one in text.split(",")]


def main() -> None:
    """Measure, print, and write the rows where asked."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = command(__doc__)
    parser.add_argument("--models", type=networks, metavar="NAME,...",
                        default=["small_cnn", "airbench", "resnet20", "resnet18"])
    parser.add_argument("--at-once", type=counts, default=[1, 2, 4, 8] if device == "cuda" else [1, 2], metavar="N,...")
    parser.add_argument("--images", type=count, default=20_000 if device == "cuda" else 640)
    parser.add_argument("--device", default=device)
    options = parser.parse_args()
    show(claims(rates(options.models, options.at_once, options.images, options.device)), options.json)


if __name__ == "__main__":
    end(main)
