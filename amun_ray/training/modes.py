"""The mode in which a model's layers run, and how it is restored."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Let batch norm normalise with its running statistics without updating them; weights still learn."""
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    for layer in layers:
        layer.training = False
    try:
        yield
    finally:
        for layer in layers:
            layer.training = True


def has_batch_norm(model: nn.Module) -> bool:
    """Whether any layer of `model` normalises with batch statistics."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())
