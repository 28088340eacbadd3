"""The adversarial searches against other libraries: passes, distance and time, on CIFAR-10 and a trained ResNet-8.

    python benchmarks/adversaries.py [--json FILE] [--data FOLDER] [--model FILE] [--samples N] [--repeats N]

About 15 minutes on one core of a CPU (FAB-100 alone takes two or three), plus 5 for the model, which is kept in the
temporary folder. Everything runs in one process, interleaved; times are process CPU seconds (seconds by the clock on
a GPU), medians over the repeats. Libraries that are not installed are left out and named, see adversary_rivals.py.

How near the search comes to the bare passes of its model is measured on a larger set of its own, `--rate-samples` in
batches of 128 on a model prepared beforehand, as the workers of a sweep do it: a forget set has thousands of samples,
and what is paid once (folding the model) or at the end (a batch that runs empty) would weigh too much on one batch.
Bare passes are timed just before and after each run of the search, in the same batches of 128; the median of the
ratios counts.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adversary_model import load_images, trained
from adversary_rivals import EPS_INIT, RIVALS, Counter, installed
from claims import ROOT, Row, at_least, at_most, command, count, end, near, row, show
from torch import Tensor, nn

from amun_ray.attacks import AttackSettings, Prepared, craft
from amun_ray.attacks.frozen import folded, frozen
from amun_ray.attacks.look import margins
from amun_ray.base.progress import bar
from amun_ray.base.tensors import l2, to_unit
from amun_ray.data import shards

BATCH = 128
ALGORITHM_1 = {"name": "pgd_l2", "eps_init": EPS_INIT, "objective": "cross_entropy"}
OURS = {
    "nearest": AttackSettings(),
    "nearest_2_polish": AttackSettings(polish=2),
    "nearest_kappa_0.3": AttackSettings(kappa=0.3),
    "secant": AttackSettings(name="secant"),
    "secant_0.03_tolerance": AttackSettings(name="secant", tolerance=0.03),
    "secant_0.001_tolerance": AttackSettings(name="secant", tolerance=0.001),
    "secant_long": AttackSettings(name="secant", competitors=9, tolerance=0.0, steps=100),
    "algorithm1": AttackSettings(**ALGORITHM_1, start="warm", stop="first_flip"),
    "algorithm1_paper": AttackSettings(**ALGORITHM_1, start="clean", stop="full"),
    "algorithm1_10_steps_shrink": AttackSettings(**ALGORITHM_1, start="warm", stop="first_flip", steps=10,
                                                 step_ratio=0.25, shrink=6),
    "ddn": AttackSettings(name="ddn"),
    "fast_fgsm": AttackSettings(name="fast_fgsm"),
}
# search -> how many looks it may take, and how far its mean L2 may be from the best known, in the goals
AGAINST_BEST = {"nearest": (10, 1.03), "secant": (10, 1.03), "secant_0.03_tolerance": (6, 1.03),
                "secant_0.001_tolerance": (10, 1.01)}


@dataclass
class Measured:
    """One search: what it found (the same every time) and how long it took each time."""

    forward: float = 0.0  # passes per sample
    backward: float = 0.0
    verification: float = 0.0  # forward passes of the original, per sample
    flipped: Tensor | None = None  # (N,) bool, by the original model in float32
    l2: Tensor | None = None  # (N,)
    seconds: list[float] = field(default_factory=list)

    @property
    def time(self) -> float:
        return statistics.median(self.seconds)

    @property
    def mean(self) -> float:
        """Mean L2 of the flipped samples."""
        return self.l2[self.flipped].mean().item()


def versus_best(found: dict[str, Measured], name: str) -> tuple[float, float]:
    """How far a search is from the best known, the nearest flip of each sample by any of the searches: the ratio of the
    mean distances, and the 95th percentile of the samples' ratios."""
    far = [torch.where(one.flipped, one.l2, torch.inf) for one in found.values()]
    best = torch.stack(far).amin(0)
    ratios = (found[name].l2 / best)[found[name].flipped & (best > 0)]
    return found[name].mean / best.mean().item(), ratios.quantile(0.95).item()


def clock(device: torch.device) -> float:
    """Seconds that this process has used; on a GPU, seconds by the clock after all its work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def run_ours(found: Measured, settings: AttackSettings, model: nn.Module | Prepared, images: Tensor,
             labels: Tensor) -> Any:
    """One run of `craft`, verification included; the rows."""
    start = clock(images.device)
    rows = craft(model, images, labels, settings=settings)
    found.seconds.append(clock(images.device) - start)
    found.forward, found.backward = rows.cost.forward / len(images), rows.cost.backward / len(images)
    found.verification = rows.cost.verification / len(images)
    found.l2 = torch.from_numpy(rows.l2)
    original = model.original if isinstance(model, Prepared) else model
    with torch.no_grad():
        found.flipped = (original(torch.from_numpy(rows.image).to(images.device)).argmax(1) != labels).cpu()
    return rows


def run_rival(found: Measured, attack: Callable, model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """One run of a rival, in batches, on the model as it is: eval mode, no parameter gradients."""
    counter = Counter(frozen(model)).eval()
    start = clock(images.device)
    parts = [attack(counter, images[at:at + BATCH], labels[at:at + BATCH]) for at in range(0, len(images), BATCH)]
    found.seconds.append(clock(images.device) - start)
    found.forward, found.backward = counter.forward_count / len(images), counter.backward_count / len(images)
    image = torch.cat(parts).detach().float()
    found.l2 = l2(image - images).cpu()
    with torch.no_grad():
        found.flipped = (model(image).argmax(1) != labels).cpu()


def bare_seconds(model: nn.Module, images: Tensor, labels: Tensor, times: int = 3) -> list[float]:
    """Seconds per image of bare passes: folded model with input gradient, folded model, original model."""
    fast = folded(frozen(model), images[:1])
    batch = images[:BATCH].contiguous(memory_format=torch.channels_last)
    label = labels[:BATCH]

    def with_gradient() -> None:
        given = batch.detach().requires_grad_()
        torch.autograd.grad(margins(fast(given), label).sum(), given)

    @torch.no_grad()
    def without() -> None:
        fast(batch)

    @torch.no_grad()
    def original() -> None:
        model(images[:BATCH])

    found = []
    for once in (with_gradient, without, original):
        once()
        start = clock(images.device)
        for _ in range(times):
            once()
        found.append((clock(images.device) - start) / times / len(batch))
    return found


def rate(model: nn.Module, settings: AttackSettings, images: Tensor, labels: Tensor,
         repeats: int) -> tuple[float, float]:
    """The share of the bare rate that a search reaches, and the share of its time that verification takes.

    The first is of the search alone: the time of its passes, run bare, over that of `craft` without the
    verifying passes.
    """
    shares, verifications = [], []
    ready = Prepared(model, settings)
    ready.fast(images[:1])
    for _ in range(repeats):
        before, found = bare_seconds(model, images, labels), Measured()
        run_ours(found, settings, ready, images, labels)
        pairs = zip(before, bare_seconds(model, images, labels), strict=True)
        grad, forward, original = (len(images) * (one + other) / 2 for one, other in pairs)
        verifying = found.verification * original
        bare = found.backward * grad + (found.forward - found.backward) * forward
        shares.append(bare / (found.time - verifying))
        verifications.append(verifying / found.time)
    return statistics.median(shares), statistics.median(verifications)


def measure(model: nn.Module, images: Tensor, labels: Tensor, repeats: int) -> tuple[dict, Any]:
    """All searches, interleaved: name -> Measured, and the rows of `nearest`."""
    rivals = installed()
    for name in RIVALS.keys() - rivals.keys():
        print(f"left out, not installed: {name}", file=sys.stderr)
    found, nearest = {name: Measured() for name in (*OURS, *rivals)}, None
    run_ours(Measured(), OURS["nearest"], model, images[:BATCH], labels[:BATCH])  # warm-up
    with bar("comparing", repeats * len(found), "searches") as progress:
        for repeat in range(repeats):
            for name, settings in OURS.items():
                rows = run_ours(found[name], settings, model, images, labels)
                nearest = rows if name == "nearest" else nearest  # it comes first
                progress.advance()
            for name, (attack, _, most) in rivals.items():
                if most is None or repeat < most:
                    run_rival(found[name], attack, model, images, labels)
                progress.advance()
    return found, nearest


def scaled(model: nn.Module, factor: float) -> nn.Module:
    """The model with its logits times `factor`."""
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            return factor * self.model(images)
    return Scaled().eval()


def still_flip_percent(model: nn.Module, rows: Any) -> float:
    """Write the rows as a shard, read them back, and ask the original model one image at a time."""
    columns, _ = shards.decode(shards.encode(rows.columns, metadata={}))
    device = next(model.parameters()).device
    with torch.no_grad():
        said = [model(torch.from_numpy(image[None].copy()).to(device)).argmax().item() for image in columns["image"]]
    return 100 * float(np.mean(np.array(said) == columns["label"]))


def claims(model: nn.Module, images: Tensor, labels: Tensor, *, samples: int, repeats: int) -> list[Row]:
    """Run everything, the comparison on the last `samples` images; print the table, and return the claims."""
    share, verification = rate(model, OURS["nearest"], images, labels, repeats)
    secant_share, _ = rate(model, OURS["secant"], images, labels, repeats)
    grad, forward, _ = bare_seconds(model, images, labels)
    images, labels = images[-samples:], labels[-samples:]
    found, crafted = measure(model, images, labels, repeats)
    print(comparison(found, len(images)))
    nearest, authors = found["nearest"], found["authors_rules"]
    print(f"\nbare model, folded, channels_last: {1 / grad:,.0f} passes/s with gradient, {1 / forward:,.0f} without")
    scale = [craft(scaled(model, k), images, labels, settings=OURS["nearest"]).l2.mean() for k in (4, 8, 16)]
    ratio = "ratio of mean L2"
    rows = [
        row("nearest.evaluations_per_sample", nearest.forward, "looks, forward with or without backward", at_most(8)),
        row("nearest.backward_per_sample", nearest.backward, "backward passes", at_most(8)),
        row("nearest.flipped_percent", 100 * nearest.flipped.float().mean().item(), "%", at_least(100)),
        row("nearest.l2_vs_authors_rules", nearest.mean / authors.mean, ratio, at_most(0.96)),
        row("nearest.speedup_vs_authors_rules", authors.time / nearest.time, "x", at_least(15)),
        row("nearest.share_of_bare_rate", share, "bare time / time of the search", at_least(0.9)),
        row("secant.share_of_bare_rate", secant_share, "bare time / time of the search", at_least(0.9)),
        row("nearest.verification_share", verification, "of the time of craft", at_most(0.15)),
        *(row(f"nearest.logit_scale_{k}_l2_ratio", value / crafted.l2.mean(), ratio, near(1, 0.001))
          for k, value in zip((4, 8, 16), scale, strict=True)),
        row("algorithm1.speedup_vs_authors_rules", authors.time / found["algorithm1"].time, "x", at_least(2)),
        row("algorithm1.l2_vs_authors_rules", found["algorithm1"].mean / authors.mean, ratio, near(1, 0.01)),
        row("stored_rows_still_flip_percent", still_flip_percent(model, crafted), "%", at_least(100)),
    ]
    for name, (looks, most) in AGAINST_BEST.items():
        mean, p95 = versus_best(found, name)
        rows += [row(f"{name}.evaluations_per_sample", found[name].forward, "looks", at_most(looks)),
                 row(f"{name}.backward_per_sample", found[name].backward, "backward passes")] * (name != "nearest")
        rows += [row(f"{name}.l2_vs_best_known", mean, ratio, at_most(most)),
                 row(f"{name}.l2_p95_vs_best_known", p95, "ratio of L2", at_most(1.05))]
    rows += [row(f"{name}.l2_vs_{rival}", found[name].mean / found[f"advlib_{rival}"].mean, ratio, at_most(1.05))
             for name in ("nearest", "secant") for rival in ("superdeepfool", "fab100") if f"advlib_{rival}" in found]
    if "torchattacks_pgdl2" in found:
        theirs = found["torchattacks_pgdl2"].time
        rows += [row("nearest.speedup_vs_torchattacks", theirs / nearest.time, "x", at_least(25)),
                 row("algorithm1_paper.speedup_vs_torchattacks", theirs / found["algorithm1_paper"].time, "x",
                     at_least(2))]
    return rows


def comparison(found: dict[str, Measured], samples: int) -> str:
    """The measurements, a line per search."""
    columns = f"{'fwd':>8}{'bwd':>8}{'flipped':>9}{'mean L2':>9}{'median':>8}{'seconds':>9}{'samples/s':>11} runs"
    lines = [" " * 28 + columns]
    for name, one in found.items():
        lines.append(f"{name:28}{one.forward:8.1f}{one.backward:8.1f}{100 * one.flipped.float().mean():8.1f}%"
                     f"{one.mean:9.4f}{one.l2[one.flipped].median():8.4f}{one.time:9.2f}{samples / one.time:11.1f}"
                     f" {len(one.seconds):4}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the rows where asked."""
    parser = command(__doc__)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="with cifar10-train.parquet and -test.parquet; "
                        "default: the environment variable AMUN_CIFAR10, or ../shared/data beside the project",
                        default=Path(os.environ.get("AMUN_CIFAR10") or ROOT.parent / "shared" / "data"))
    parser.add_argument("--model", type=Path, metavar="FILE", help="weights; trained and written where not there",
                        default=Path(tempfile.gettempdir()) / "amun_ray_benchmarks" / "resnet8.safetensors")
    parser.add_argument("--samples", type=count, default=128, metavar="N", help="for the comparison (default: 128)")
    parser.add_argument("--rate-samples", type=count, default=512, metavar="N", help="for the rate (default: 512)")
    parser.add_argument("--repeats", type=count, default=5, metavar="N")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device, dataset = torch.device(options.device), load_images(options.data)
    model = trained(dataset, options.model, device)
    kept = dataset.train_rows[-max(options.samples, options.rate_samples):]
    show(claims(model, to_unit(torch.from_numpy(dataset.pixels[kept])).to(device),
                torch.from_numpy(dataset.labels[kept]).to(device), samples=options.samples,
                repeats=options.repeats), options.json)


if __name__ == "__main__":
    end(main)
