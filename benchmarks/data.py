"""Pictures: decoded once into a mapped file, against torchvision's ImageFolder; and trainings that read that file.

    python benchmarks/data.py [--json FILE] [--images 4000] [--gib 4] [--rounds 5]

About 15 minutes on two idle cores, and 5 GiB of disk at TMPDIR. Rows:
- decode_images_per_second: JPEG files of 500 x 375 pixels, scaled to 256 and cut to 224: the first start (find, decode,
  write the file, its digest) against one epoch of ImageFolder with the same transforms and a DataLoader with two
  workers. The images are random smooth colours: their files have the size of photographs.
- second_start_speedup: the first start against the next one, which reads the bytes of all files, and maps the pixels.
- streaming_share_of_resident: images per second of a ResNet-18 trained on 128 x 128 pixels from the file, against the
  same from memory; medians of interleaved rounds.
- peak_memory_mib: a process that is limited to 1.5 GiB of its own (RLIMIT_DATA) trains one epoch and predicts on more
  pixels than that; the peak of its anonymous memory. The system reclaims mapped pages when it needs them.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch
from claims import Row, at_least, at_most, command, count, end, row, show
from PIL import Image
from torch.utils.data import DataLoader

from amun_ray.base.errors import UserError
from amun_ray.base.seeds import generator
from amun_ray.base.tensors import shared_tensor
from amun_ray.data import keep, load
from amun_ray.data.dataset import Dataset
from amun_ray.metrics import predict
from amun_ray.models import build
from amun_ray.storage.pixels import keep_in
from amun_ray.storage.store import Store
from amun_ray.training.augment import Augmentation
from amun_ray.training.loop import fit
from amun_ray.training.parts import Part
from amun_ray.training.recipe import Recipe

PHOTO, RESIZE, CROP = (500, 375), 256, 224
SIDE, CLASSES, BATCH = 128, 10, 64  # of the trainings
SMALL = 8  # images of a batch where memory is limited: the activations of 64 take 1.5 GiB alone
LIMIT = 3 * 2**29  # bytes, 1.5 GiB
MIB = 2**20


def photographs(folder: Path, number: int) -> None:
    """`number` JPEG files in ten classes."""
    draw = np.random.default_rng(0)
    for at in range(number):
        path = folder / f"class{at % CLASSES}" / f"{at}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(draw.integers(0, 256, (48, 64, 3), np.uint8))
        small.resize(PHOTO, Image.Resampling.BICUBIC).save(path, quality=90)


def decoding(folder: Path, number: int) -> list[Row]:
    """The first start, the second one, and ImageFolder."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    photographs(folder / "train", number)
    keep.KEPT_FROM = 0  # so that a short run writes the file, too

    def start() -> float:
        begun = time.perf_counter()
        dataset = load("folder", keep=keep_in(Store(str(folder / "store"))), train=str(folder / "train"), resize=RESIZE,
                       center_crop=CROP)
        assert dataset.digest
        return time.perf_counter() - begun

    first, second = start(), statistics.median(start() for _ in range(3))
    others = ImageFolder(folder / "train", v2.Compose([v2.Resize(RESIZE), v2.CenterCrop(CROP), v2.PILToTensor()]))
    begun = time.perf_counter()
    seen = sum(len(images) for images, _ in DataLoader(others, BATCH, num_workers=2))
    theirs = time.perf_counter() - begun
    assert seen == number
    return [row("decode_images_per_second", number / first, "images/s"),
            row("imagefolder_images_per_second", number / theirs, "images/s"),
            row("decode_against_imagefolder", theirs / first, "x", at_least(1.0)),
            row("second_start_speedup", first / second, "x", at_least(20))]


def mapped(path: Path, number: int) -> np.ndarray:
    """(number, 3, SIDE, SIDE) random pixels, mapped from a file that is written block by block."""
    block = np.random.default_rng(0).integers(0, 256, (64, 3, SIDE, SIDE), np.uint8)
    with path.open("wb") as file:
        for start in range(0, number, len(block)):
            file.write(block[:number - start].tobytes())
    return np.memmap(path, np.uint8, "r", shape=(number, *block.shape[1:]))


def train(part: Part, batch: int = BATCH) -> float:
    """Images per second of one pass of ResNet-18 over a part."""
    model = build("resnet18", channels=3, classes=CLASSES, size=SIDE, mean=[0.5] * 3, std=[0.5] * 3, seed=0,
                  options={"width": 16})
    begun = time.perf_counter()
    for _ in fit(model, [part], recipe=Recipe(epochs=1, lr=0.01, batch_size=batch), generator=generator(0),
                 augmentation=Augmentation(4, True)):
        pass
    return len(part.labels) / (time.perf_counter() - begun)


def streaming(folder: Path, rounds: int) -> list[Row]:
    """A training from the file against the same from memory, in alternating order."""
    pixels = mapped(folder / "pixels.u8", 4 * BATCH)
    labels = torch.arange(len(pixels)) % CLASSES
    parts = {"resident": Part(torch.from_numpy(np.array(pixels)), labels, True),
             "streamed": Part(shared_tensor(pixels), labels, True, streamed=True)}
    shares, rates = [], []
    for number in range(rounds + 1):
        order = list(parts) if number % 2 else list(parts)[::-1]
        found = {name: train(parts[name]) for name in order}
        if number:  # the first round warms up
            shares.append(found["streamed"] / found["resident"])
            rates.append(found["streamed"])
    return [row("streaming_share_of_resident", shares, "x", at_least(0.95)),
            row("streaming_images_per_second", rates, "images/s")]


def peak(path: Path, gib: float) -> None:
    """In a process of its own: read, train on and predict more pixels than its memory may hold."""
    number = int(gib * 2**30 / (3 * SIDE * SIDE))
    pixels = mapped(path, number)
    seen: list[float] = []
    threading.Thread(target=_watch, args=[seen], daemon=True).start()
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    dataset = Dataset("large", pixels, np.arange(number) % CLASSES, number - BATCH, CLASSES)
    assert dataset.digest
    assert dataset.statistics
    assert len(dataset.first_alike) == number
    rows = torch.arange(0, number, max(1, number // (4 * BATCH)))
    images = shared_tensor(pixels)
    train(Part(images, torch.from_numpy(dataset.labels)[rows], True, rows, streamed=True), SMALL)
    model = build("small_cnn", channels=3, classes=CLASSES, size=SIDE, mean=[0.5] * 3, std=[0.5] * 3, seed=0)
    predict(model, images[:number // 8], batch_size=SMALL)
    print(max(seen))


def _watch(seen: list[float]) -> None:
    """Note every 20 ms how many MiB of anonymous memory this process holds."""
    while True:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                seen.append(int(line.split()[1]) / 1024)
        time.sleep(0.02)


def main() -> None:
    """Measure everything and report."""
    parser = command(__doc__)
    parser.add_argument("--images", type=count, default=4000, help="photographs to decode")
    parser.add_argument("--gib", type=float, default=4.0, help="size of the pixels in the measurement of memory")
    parser.add_argument("--rounds", type=count, default=5, help="of the trainings")
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)  # the process of `peak`
    options = parser.parse_args()
    if options.peak is not None:
        peak(options.peak, options.gib)
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = decoding(Path(folder) / "decode", options.images) + streaming(Path(folder), options.rounds)
        child = subprocess.run([sys.executable, __file__, "--peak", str(Path(folder) / "large.u8"), "--gib",
                                str(options.gib)], capture_output=True, text=True, check=False)
        if child.returncode:
            raise UserError(f"the process with a limit of memory failed: {child.stderr.strip().splitlines()[-1]}")
        rows.append(row("peak_memory_mib", float(child.stdout), "MiB", at_most(LIMIT / MIB)))
    show(rows, options.json)


if __name__ == "__main__":
    end(main)
