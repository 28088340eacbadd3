"""What every worker of a sweep shares: settings, store, and the dataset, which reaches a node once."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import safetensors.numpy
import torch
from torch import Tensor, nn

from amun_ray import models
from amun_ray.config.schema import Sweep
from amun_ray.data.dataset import Dataset
from amun_ray.metrics import predict
from amun_ray.runtime.cluster import take_device
from amun_ray.storage.store import Store, Unit
from amun_ray.training.parts import Part


@dataclass(frozen=True)
class Workspace:
    """Small enough to travel with every piece of work; the pixels stay in the object store behind `samples`."""

    sweep: Sweep
    store: Store
    data_digest: str
    shape: tuple[int, int, int]  # channels, height, width
    classes: int
    size: int  # N, training and test samples together
    train_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    samples: tuple[ray.ObjectRef, ray.ObjectRef]  # pixels (N, C, H, W) uint8, labels (N,) int64

    @classmethod
    def open(cls, sweep: Sweep, store: Store, dataset: Dataset) -> "Workspace":
        """Put the dataset into the object store, once, and note what a model needs to know of it."""
        mean, std = dataset.statistics
        return cls(sweep, store, dataset.digest, dataset.pixels.shape[1:], dataset.classes, len(dataset),
                   dataset.train_size, mean, std, (ray.put(dataset.pixels), ray.put(dataset.labels)))

    @property
    def model_inputs(self) -> dict:
        """What a model depends on beside the rows and the seed it is trained with."""
        return {"dataset": self.data_digest, "model": self.sweep.model.model_dump(),
                "recipe": self.sweep.model_dump()["training"], "augmentation": list(self.sweep.data.augmentation)}

    @property
    def model_shape(self) -> dict[str, Any]:
        """What the network learns from the dataset: the arguments of `models.build` that no config can choose."""
        return {"channels": self.shape[0], "classes": self.classes, "size": min(self.shape[1:]),
                "mean": self.mean, "std": self.std}

    def new_model(self, seed: int) -> nn.Module:
        """The sweep's network on the CPU, initialised from `seed`, normalisation in front."""
        return models.build(self.sweep.model.name, seed=seed, options=self.sweep.model.options, **self.model_shape)


class Bench:
    """The worker's side of a dataset: the device, and the samples on it. One per process, kept between tasks."""

    def __init__(self, workspace: Workspace, device: torch.device) -> None:
        self.device = device
        pixels, labels = ray.get(list(workspace.samples))
        self.pixels: Tensor = shared_tensor(pixels).to(self.device)
        self.labels: Tensor = shared_tensor(labels).to(self.device)

    def part(self, rows: np.ndarray) -> Part:
        """The samples of `rows`, to be augmented in training; their pixels stay where those of all samples are."""
        chosen = torch.from_numpy(np.ascontiguousarray(rows)).to(self.device)
        return Part(self.pixels, self.labels[chosen], augment=True, rows=chosen)

    def logits(self, model: nn.Module) -> np.ndarray:
        """Logits (N, classes) float32 of `model` on every sample of the dataset, D first, then D_T."""
        return predict(model, self.pixels).numpy()


_BENCHES: dict[str, Bench] = {}


def bench(workspace: Workspace) -> Bench:
    """This process's `Bench` for the dataset of `workspace`: made at the first call, then reused by every later task.

    The threads are those of `workspace`, also where the process worked for another sweep before.
    """
    device = take_device(workspace.sweep.resources.threads)
    if workspace.data_digest not in _BENCHES:
        _BENCHES[workspace.data_digest] = Bench(workspace, device)
    return _BENCHES[workspace.data_digest]


def shared_tensor(array: np.ndarray) -> Tensor:
    """A tensor over an array of the object store, without a copy. It is read-only: nothing may write to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def numpy_state(store: Store, unit: Unit, name: str) -> dict[str, np.ndarray]:
    """The weights of a finished model as arrays, the form that the object store shares without a copy."""
    return safetensors.numpy.load(store.read(unit, name).to_pybytes())


def load_state(model: nn.Module, state: dict[str, np.ndarray]) -> nn.Module:
    """Copy `state` into `model`, every tensor of it and no other."""
    model.load_state_dict({key: shared_tensor(value) for key, value in state.items()})
    return model
