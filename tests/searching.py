"""A search whose every score is known in closed form: a network with one weight, and methods that set it.

Each split has `RANKS` images, one of every rank 0..49; the network gets those right whose rank is at least its weight,
`wrong`. So all three accuracies are 100 - 2 wrong, FT AUC is 50, and the Avg. Gap to a perfect model 1.5 wrong points.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor, nn

from amun_ray.base.errors import Diverged
from amun_ray.base.names import allow
from amun_ray.config.schema import Sweep
from amun_ray.data.dataset import Dataset
from amun_ray.metrics import GAP_TERMS
from amun_ray.runtime.bench import SharedWorkspace
from amun_ray.stages.cases import OpenCase
from amun_ray.storage.store import Store
from amun_ray.unlearn import Method, Setting, Task
from amun_ray.work.units import Workspace

allow("searching")
RANKS, BEST_LR, BEST_EPOCH = 50, 1e-2, 2
FORGET = np.arange(RANKS)


def wrong(lr: float, epoch: int, shift: float = 0.0) -> int:
    """How many of the 50 images of a split the model gets wrong after an epoch of the method `known`."""
    return round(min(RANKS, 8 * abs(np.log10(lr / BEST_LR)) + 3 * abs(epoch - BEST_EPOCH) + shift))


def gap(lr: float, epoch: int, shift: float = 0.0) -> float:
    """The Avg. Gap to a perfect model, in points: accuracies are 2 points for each wrong image, FT AUC is ideal."""
    return 3 * 2 * wrong(lr, epoch, shift) / 4


class Dial(nn.Module):
    """Two classes; right about every image whose rank is not below the weight `wrong`."""

    def __init__(self, *, channels: int, classes: int, size: int, gate: str = "") -> None:
        super().__init__()
        self.wrong, self.gate = nn.Parameter(torch.zeros(())), gate

    def forward(self, images: Tensor) -> Tensor:
        rank, label, zero, one = images.flatten(1).unbind(1)  # of which the last two undo the normalisation
        rank, label = (255 * (value - zero) / (one - zero) for value in (rank, label))
        says = torch.where(rank.round() < self.wrong, 1 - label / 255, label / 255)
        return 4 * torch.stack([1 - says, says], dim=1)


def ranked() -> Dataset:
    """Images (3 x 50, 1, 2, 2): the forget set, the retain set, and the test set."""
    pixels = np.zeros((3 * RANKS, 1, 2, 2), np.uint8)
    labels = np.arange(3 * RANKS, dtype=np.int64) % 2
    pixels[:, 0, 0, 0], pixels[:, 0, 0, 1], pixels[:, 0, 1, 1] = np.arange(3 * RANKS) % RANKS, 255 * labels, 255
    return Dataset("ranked", pixels, labels, 2 * RANKS, 2)


def known(task: Task) -> Iterator[int]:
    """An unlearning method that does nothing but make so many mistakes; behind an armed gate it suffers first."""
    net = task.model.net
    suffer(Path(net.gate))
    for epoch in range(1, task.recipe.epochs + 1):
        if epoch == 3 and Path(net.gate).name == "diverges":
            raise Diverged(f"epoch {epoch} of {task.recipe.epochs}: the summed loss is nan")
        with torch.no_grad():
            net.wrong.fill_(wrong(task.recipe.lr, epoch, task.settings.get("shift", 0.0)))
        yield epoch


def suffer(gate: Path) -> None:
    """What the file `gate` orders, once where it is to happen once."""
    order = gate.read_text() if gate.is_file() else ""
    if order.startswith("once"):
        gate.unlink()
    if order.endswith("lost"):
        os.kill(os.getpid(), signal.SIGKILL)
    if order.endswith("memory"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    if order.endswith("mistake"):
        raise KeyError("teacher")
    if order.endswith("disk"):
        raise OSError(28, "No space left on device")


SHIFT = Setting(default=0.0, low=0.0, high=20.0, at_least=0)
PLAIN = Method(access=frozenset({"retain", "forget_only"}), run=known)
SHIFTED = Method(access=frozenset({"retain"}), run=known, settings={"shift": SHIFT, "other": SHIFT})


def sweep(search: dict[str, Any], methods: dict[str, Any] | None = None, gate: str = "") -> Sweep:
    return Sweep(name="known", data={"name": "searching:ranked"},
                 model={"name": "searching:Dial", "options": {"gate": gate}}, forget={"fraction": 0.1},
                 training={"lr": 0.1, "epochs": 1}, methods=methods or {"searching:PLAIN": {"access": ["retain"]}},
                 search={"trials": 12, "epochs": 3, "lr": {"low": 1e-4, "high": 1.0}, "startup": 4,
                         "stop_early": False} | search)


def without_ray(settings: Sweep, folder: Path) -> Workspace:
    """A workspace that no worker can use: enough to ask a study for trials."""
    return Workspace.of(settings, Store(str(folder)), ranked())


def case(name: str = "held_out 0", original: int = 0, put: Any = lambda array: None,
         perfect: float = 100.0, before: float = 20.0) -> OpenCase:
    """A case whose retrained models score `perfect` in all accuracies, and whose original is the perfect model, but
    said to have an Avg. Gap of `before`."""
    data, target = ranked(), dict.fromkeys(GAP_TERMS, perfect) | {"forget_test_auc": 50.0}
    lineage = {"original": f"original {original}", "forget": name, "adversarial": "none", "references": "none",
               "retrained": [f"{perfect}"]}
    state = {"net.wrong": np.zeros((), np.float32)} | {
        f"normalize.{key}": value.numpy() for key, value in normalization(data).items()}
    images = (data.pixels[:1] / 255).astype(np.float32)
    return OpenCase(original, name, FORGET, target, 100.0, lineage, (put(state),),
                (put(images), put(data.labels[:1]), put(np.zeros(1, np.int64))),
                (put(np.full(len(data), 0.5, np.float32)),),
                before=dict.fromkeys(GAP_TERMS, perfect) | {"average_gap": before})


def normalization(data: Dataset) -> dict[str, Tensor]:
    from amun_ray.models import build
    mean, std = data.statistics
    model = build("searching:Dial", channels=1, classes=2, size=2, mean=mean, std=std, seed=0)
    return dict(model.normalize.state_dict())


def with_ray(settings: Sweep, folder: Path) -> SharedWorkspace:
    return SharedWorkspace.open(settings, Store(str(folder)), ranked())


def cases(count: int = 1) -> list[OpenCase]:
    """`count` cases for the workers of a Ray; the k-th one's retrained models are 10 k points worse."""
    return [case(f"held_out {k}", k, ray.put, 100.0 - 10 * k) for k in range(count)]
