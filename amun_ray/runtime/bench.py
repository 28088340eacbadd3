"""The dataset that the workers of a sweep share, sent to each node once, and the device that each worker uses."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import ray
import torch
from torch import Tensor, nn

from amun_ray.base.device import take_device
from amun_ray.base.names import allow
from amun_ray.base.tensors import shared_tensor
from amun_ray.config.schema import Sweep
from amun_ray.data.dataset import Dataset
from amun_ray.metrics import predict
from amun_ray.runtime.mapped import Mapped
from amun_ray.storage.store import Store
from amun_ray.training.parts import Part
from amun_ray.work.checkpoints import Checkpoint
from amun_ray.work.units import Workspace


@dataclass(frozen=True)
class SharedWorkspace(Workspace):
    """A workspace whose samples every node can reach: `samples` refers to them in the object store."""

    samples: "tuple[ray.ObjectRef[Any], ray.ObjectRef[Any]]"  # pixels (N, C, H, W) uint8 or `Mapped`, labels (N,) int64
    beginning: "tuple[ray.ObjectRef[Any]] | None" = None  # the weights of `start` by name, without a new head

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a worker: this process may import whatever the driver was allowed to import for this sweep."""
        self.__dict__.update(state)
        allow(self.sweep.own_names)

    @classmethod
    def open(cls, sweep: Sweep, store: Store, dataset: Dataset, start: Checkpoint | None = None) -> Self:
        """Put the dataset, and the weights from which every training starts, into the object store, once."""
        pixels = dataset.pixels if dataset.map_path is None else Mapped.of(dataset)
        arrays = start and {name: tensor.numpy() for name, tensor in start.state.items()}
        return cls.of(sweep, store, dataset, start, (ray.put(pixels), ray.put(dataset.labels)),
                      None if arrays is None else (ray.put(arrays),))

    def beginner(self, seed: int) -> nn.Module:
        """The network at the start of a training: as `new_model`, with the weights of `start` if there are any."""
        model = self.new_model(seed)
        if self.beginning is None:
            return model
        (given,) = ray.get(list(self.beginning))
        drawn = {name: tensor for name, tensor in model.state_dict().items() if name not in given}
        model.load_state_dict(drawn | {name: shared_tensor(array) for name, array in given.items()})
        return model


DEVICE_SHARE = 0.5  # of a worker's share of a GPU that the pixels may take; if they need more, they stay on the host


def _memory(device: torch.device) -> int:
    """The memory of a GPU, in bytes."""
    return torch.cuda.get_device_properties(device).total_memory


class Bench:
    """The worker's side of a dataset: the device, and the samples on it. One per process, kept between tasks."""

    def __init__(self, workspace: SharedWorkspace, device: torch.device) -> None:
        self.device = device
        pixels, labels = ray.get(list(workspace.samples))
        images = shared_tensor(pixels.array() if isinstance(pixels, Mapped) else pixels)
        self.streamed = isinstance(pixels, Mapped) if device.type == "cpu" else (
            images.nbytes > DEVICE_SHARE * workspace.sweep.resources.whole_gpus * _memory(device))
        self.pixels: Tensor = images if self.streamed else images.to(self.device)
        self.labels: Tensor = shared_tensor(labels).to(self.device)

    def part(self, rows: np.ndarray) -> Part:
        """The samples of `rows`, to be augmented in training; their pixels are shared with all samples, not copied."""
        chosen = torch.from_numpy(np.ascontiguousarray(rows))
        labels = self.labels[chosen.to(self.device)]
        return Part(self.pixels, labels, True, chosen.to(self.pixels.device), self.streamed)

    def logits(self, model: nn.Module, rows: np.ndarray | None = None) -> np.ndarray:
        """Logits (N, classes) float32 of `model` on every sample of the dataset, D first, then D_T; or on `rows`."""
        chosen = None if rows is None else torch.from_numpy(rows).to(self.pixels.device)
        return predict(model, self.pixels, chosen).numpy()


_BENCHES: dict[str, Bench] = {}


def bench(workspace: SharedWorkspace) -> Bench:
    """This process's `Bench` for the dataset of `workspace`: built at the first call, then reused by later tasks.

    The thread count is that of `workspace`, even if the process worked for another sweep before.
    """
    device = take_device(workspace.sweep.resources.threads)
    if workspace.data_digest not in _BENCHES:
        _BENCHES[workspace.data_digest] = Bench(workspace, device)
    return _BENCHES[workspace.data_digest]


def load_state(model: nn.Module, state: dict[str, np.ndarray]) -> nn.Module:
    """Copy `state` into `model`: exactly its tensors, no more and no fewer."""
    model.load_state_dict({key: shared_tensor(value) for key, value in state.items()})
    return model
