"""The sweep's network, identical on every machine, and the statistics by which it normalises pixels."""

from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from amun_ray import models
from amun_ray.base.errors import UserError
from amun_ray.base.files import expanded
from amun_ray.config.fields import FOLDER
from amun_ray.config.schema import Sweep
from amun_ray.data.dataset import Dataset
from amun_ray.models import library
from amun_ray.models.normalize import statistics
from amun_ray.training.spectral import clipped


class Network(NamedTuple):
    """The arguments of `models.build` without the seed; and the reason for these pixel statistics."""

    name: str
    options: dict[str, Any]
    channels: int
    classes: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalize: Any  # as digests include it; None: from the training images
    why: str
    class_names: tuple[str, ...] = ()  # what the user calls the classes, in the order of their numbers
    spectral_clip: float | None = None  # the bound on the singular values of its layers

    @classmethod
    def of(cls, sweep: Sweep, dataset: Dataset) -> "Network":
        """UserError if the weights' folders name different pixel statistics, or ones that do not fit the images."""
        name, options = library.portable(sweep.model.name, sweep.model.options)
        return cls(name, options, dataset.channels, dataset.classes, dataset.size, *_normalization(sweep, dataset),
                   dataset.class_names, sweep.model.spectral_clip)

    @property
    def identity(self) -> dict[str, Any]:
        """What everything made with the network depends on."""
        clip = {} if self.spectral_clip is None else {"spectral_clip": self.spectral_clip}
        chosen = {"model": {"name": self.name, "options": self.options} | clip}
        return chosen if self.normalize is None else chosen | {"normalize": self.normalize}

    @property
    def description(self) -> dict[str, Any]:
        """The arguments of `models.build` but for the seed."""
        return {key: value for key, value in self._asdict().items()
                if key not in ("normalize", "why", "class_names", "spectral_clip")}

    @property
    def saved(self) -> dict[str, Any]:
        """What is written beside weights: the `description`, and what the classes are called."""
        return self.description | {"class_names": list(self.class_names)}

    def build(self, seed: int) -> nn.Module:
        """The network on the CPU, initialised from `seed`, normalisation in front, with the bound on its layers.

        Raises:
            UserError: as `models.build`, or `training.spectral.clipped` where there is a bound.
        """
        network = models.build(seed=seed, **self.description)
        return network if self.spectral_clip is None else clipped(network, self.spectral_clip)

    def head(self) -> frozenset[str]:
        """The names of the tensors that depend on the number of classes."""
        return models.head(lambda classes: self._replace(classes=classes).build(0), self.classes)


def _normalization(sweep: Sweep, dataset: Dataset) -> tuple[tuple[float, ...], tuple[float, ...], Any, str]:
    """Mean, std, their form in digests, and the reason for them."""
    setting = sweep.data.normalize
    if setting is None and (brought := _brought(sweep)) is not None:
        (mean, std), place = brought
        if len(mean) == dataset.channels:
            return mean, std, {"mean": mean, "std": std}, f"as {place} says"
    if setting in (None, "dataset"):
        hint = "; public weights of torchvision's are for data.normalize: imagenet"
        torchvision = setting is None and sweep.model.name.startswith("torchvision:")
        return *dataset.statistics, None, f"as the training images are{hint if torchvision else ''}"
    fixed = statistics(setting, dataset.channels)
    return tuple(fixed[0]), tuple(fixed[1]), setting, "as data.normalize says"


def _brought(sweep: Sweep) -> tuple[library.Constants, str] | None:
    """The statistics that come with a library's pretrained network, and where they are stored."""
    given = [place for place in (sweep.model.weights, *(sweep.originals.checkpoints or ())) if place]
    library_name = library.split(sweep.model.name)
    if library_name is None or not given:
        return None
    folders = [place.removeprefix(FOLDER).partition("#")[0] for place in given]
    brought = {folder: constants for folder in folders if Path(expanded(folder)).is_dir()
               and (constants := library.folder_constants(folder)) is not None}
    if len(set(brought.values())) > 1:
        raise UserError(f"data.normalize: {' and '.join(list(brought)[:2])} are for pixels normalised differently; say "
                        "here which is meant")
    for place, constants in brought.items():
        return constants, place
    row, rest = library_name
    constants = row.constants(rest)
    return None if constants is None else (constants, sweep.model.name)
