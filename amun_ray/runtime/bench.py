"""What the workers of a sweep share of its dataset, which reaches a node once, and the device that each works on."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import ray
import torch
from torch import Tensor, nn

from amun_ray.base.names import allow
from amun_ray.base.tensors import shared_tensor
from amun_ray.config.schema import Sweep
from amun_ray.data.dataset import Dataset
from amun_ray.metrics import predict
from amun_ray.runtime.cluster import take_device
from amun_ray.runtime.mapped import Mapped
from amun_ray.storage.store import Store
from amun_ray.training.parts import Part
from amun_ray.work.checkpoints import Checkpoint
from amun_ray.work.units import Workspace


@dataclass(frozen=True)
class SharedWorkspace(Workspace):
    """A workspace whose samples every node can reach: they stay in the object store behind `samples`."""

    samples: "tuple[ray.ObjectRef[Any], ray.ObjectRef[Any]]"  # pixels (N, C, H, W) uint8 or `Mapped`, labels (N,) int64
    beginning: "tuple[ray.ObjectRef[Any]] | None" = None  # of `start`, as arrays by name: all but a fresh head

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a worker: what the driver was allowed to import for this sweep, this process is allowed, too."""
        self.__dict__.update(state)
        allow(self.sweep.own_names)

    @classmethod
    def open(cls, sweep: Sweep, store: Store, dataset: Dataset, start: Checkpoint | None = None) -> Self:
        """Put the dataset, and the weights at which every training begins, into the object store, once."""
        pixels = dataset.pixels if dataset.map_path is None else Mapped.of(dataset)
        arrays = start and {name: tensor.numpy() for name, tensor in start.state.items()}
        return cls.of(sweep, store, dataset, start, (ray.put(pixels), ray.put(dataset.labels)),
                      None if arrays is None else (ray.put(arrays),))

    def beginner(self, seed: int) -> nn.Module:
        """The network as a training finds it: as `new_model`, with the weights of `start` where there are any."""
        model = self.new_model(seed)
        if self.beginning is None:
            return model
        (given,) = ray.get(list(self.beginning))
        drawn = {name: tensor for name, tensor in model.state_dict().items() if name not in given}
        model.load_state_dict(drawn | {name: shared_tensor(array) for name, array in given.items()})
        return model


DEVICE_SHARE = 0.5  # of a worker's part of a GPU that the pixels may take; where they need more, they stay on the host


def _memory(device: torch.device) -> int:
    """Bytes that a GPU has."""
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
        """The samples of `rows`, to be augmented in training; their pixels stay where those of all samples are."""
        chosen = torch.from_numpy(np.ascontiguousarray(rows))
        labels = self.labels[chosen.to(self.device)]
        return Part(self.pixels, labels, True, chosen.to(self.pixels.device), self.streamed)

    def logits(self, model: nn.Module) -> np.ndarray:
        """Logits (N, classes) float32 of `model` on every sample of the dataset, D first, then D_T."""
        return predict(model, self.pixels).numpy()


_BENCHES: dict[str, Bench] = {}


def bench(workspace: SharedWorkspace) -> Bench:
    """This process's `Bench` for the dataset of `workspace`: made at the first call, then reused by every later task.

    The threads are those of `workspace`, also where the process worked for another sweep before.
    """
    device = take_device(workspace.sweep.resources.threads)
    if workspace.data_digest not in _BENCHES:
        _BENCHES[workspace.data_digest] = Bench(workspace, device)
    return _BENCHES[workspace.data_digest]


def load_state(model: nn.Module, state: dict[str, np.ndarray]) -> nn.Module:
    """Copy `state` into `model`, every tensor of it and no other."""
    model.load_state_dict({key: shared_tensor(value) for key, value in state.items()})
    return model
