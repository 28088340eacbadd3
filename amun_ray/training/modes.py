"""In which mode the layers of a model run, and how it is put back."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch norm normalise with its running statistics and leave them as they are; weights still learn."""
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True


def has_batch_norm(model: nn.Module) -> bool:
    """Whether any layer of `model` normalises by batch statistics."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())
