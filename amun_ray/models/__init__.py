"""MODELS: name -> constructor of a plain net; `build` puts normalisation before it and draws its weights."""

import math
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from amun_ray.base.blame import FAILURES, fault
from amun_ray.base.errors import UserError, in_words
from amun_ray.base.names import check_arguments, lookup
from amun_ray.base.seeds import derive
from amun_ray.models import library
from amun_ray.models.airbench import Airbench
from amun_ray.models.normalize import Normalize
from amun_ray.models.resnet import resnet18, resnet20
from amun_ray.models.small_cnn import SmallCNN
from amun_ray.models.vgg import VGG
from amun_ray.models.vit import ViT

MODELS: dict[str, Callable[..., nn.Module]] = {
    "small_cnn": SmallCNN,
    "airbench": Airbench,
    "resnet20": resnet20,
    "resnet18": resnet18,
    "vgg19": VGG,
    "vit": ViT,
}

SHAPE = ("channels", "classes", "size")  # what a constructor learns from the dataset, by keyword


def find(name: str) -> Callable[..., nn.Module]:
    """The constructor behind `name`; nothing is built.

    Args:
        name: a row of MODELS, `LIBRARY:NAME` of a row of LIBRARIES, or `package.module:callable` of the user's own
            with the keywords of SHAPE.

    Raises:
        UserError: unknown name, or a library that is not installed.
    """
    if (library_name := library.split(name)) is not None:
        other, rest = library_name
        other.check(rest)
        return partial(other.build, rest)
    return lookup(MODELS, name, "model")


def is_own(name: str) -> bool:
    """Whether `name` is that of the user's own code."""
    return ":" in name and library.split(name) is None


def check(name: str, options: Mapping[str, Any] | None = None) -> Callable[..., nn.Module]:
    """The constructor behind `name`, after its options were checked by name; nothing is built.

    Args:
        name: as in `find`.
        options: further keyword arguments, e.g. `width`.

    Raises:
        UserError: unknown name, an option that does not exist, or one that is missing.
    """
    constructor = find(name)
    if not callable(constructor):
        raise UserError(f"model {name!r} must be a callable that returns a module, found {type(constructor).__name__}")
    check_arguments(constructor, options or {}, f"model {name!r}", supplied=SHAPE)
    return constructor


def build(
    name: str, *, channels: int, classes: int, size: int, mean: Sequence[float], std: Sequence[float], seed: int,
    options: Mapping[str, Any] | None = None,
) -> nn.Sequential:
    """A fresh model on the CPU: `Sequential(normalize=Normalize, net=MODELS[name])`.

    Args:
        name: as in `find`.
        channels, size: of the images (N, C, H, W); `size` is the shorter side in pixels.
        classes: number of logits.
        mean, std: per channel, of training pixels in [0, 1]; `Dataset.statistics` has them.
        seed: decides the weights, which do not depend on what was drawn before; the global generator is left as it was.
        options: further keyword arguments of the constructor, e.g. `width`.

    Returns:
        A module (N, C, H, W) float32 in [0, 1] -> logits (N, classes).

    Raises:
        UserError: as `check`; `mean` and `std` that do not fit the channels; a net larger than this machine's memory; a
            user's net of another output shape.
    """
    constructor = check(name, options)
    if len(mean) != channels:
        raise UserError(f"model {name!r}: {channels} channels need {channels} means, found {len(mean)}")
    arguments = {"channels": channels, "classes": classes, "size": size} | dict(options or {})
    network = partial(constructor, **arguments)
    if name in MODELS:
        _check_size(name, **arguments)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "model weights"))
        net = network() if name in MODELS else _own_net(network, name, (2, channels, size, size), (2, classes))
    return nn.Sequential(OrderedDict(normalize=Normalize(mean, std), net=net))


def head(build_for: Callable[[int], nn.Module], classes: int) -> frozenset[str]:
    """The names of the tensors whose shape depends on the number of classes; `build_for` makes a model for so many."""
    few, more = (build_for(count).state_dict() for count in (classes, classes + 1))
    return frozenset(name for name in few if name not in more or few[name].shape != more[name].shape)


class _Unfilled(TorchFunctionMode):
    """New tensors have a shape but only one number of memory, and nothing is drawn. UserError if together they would
    need more memory than this machine has."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name, self._bytes = name, 0
        self._memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        given, name = [*args, *(kwargs or {}).values()], getattr(function, "__name__", "")
        if function in (torch.empty, torch.zeros, torch.ones, torch.randn):
            shape = args if isinstance(args[0], int) else args[0]
            self._bytes += 4 * math.prod(shape)
            if self._bytes > self._memory:
                raise UserError(f"model {self._name!r} with these options has more weights than the "
                                f"{self._memory / 2**30:.0f} GiB of memory of this machine")
            return torch.zeros(()).expand(shape)
        if name.endswith("_") and not name.startswith("_") and name != "requires_grad_":
            return given[0]  # what would be filled in place
        return function(*args, **(kwargs or {}))


@cache
def _check_size(name: str, **arguments: int) -> None:
    """UserError if a row of MODELS with these arguments has weights that do not fit into this machine's memory."""
    with _Unfilled(name):
        MODELS[name](**arguments)


def _own_net(make: Callable[[], nn.Module], name: str, images: tuple[int, ...], logits: tuple[int, ...]) -> nn.Module:
    """The user's net; UserError unless it maps a batch of shape `images` to one of shape `logits`."""
    try:
        net = make()
        if not isinstance(net, nn.Module):
            raise UserError(f"model {name!r} must return a torch module, found {type(net).__name__}")
        training = net.training
        with torch.no_grad():
            output = net.eval()(torch.zeros(images))
    except UserError:
        raise
    except FAILURES as error:
        raise UserError(f"model {name!r}, asked for logits {logits} of images {images}, fails: "
                        f"{fault(error, name) or in_words(error)}") from error
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if shape != logits:
        raise UserError(f"model {name!r}: images {images} must give logits {logits}, found {shape}")
    return net.train(training)
