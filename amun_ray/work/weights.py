"""Two models in the space of weights: how far apart they are, and what lies on the straight path between them."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from amun_ray.base.tensors import to_unit
from amun_ray.metrics import predict

POINTS = 21  # of a path, ends included: steps of 0.05
BATCH = 128


def distance(first: nn.Module, second: nn.Module) -> float:
    """The L2 norm of the difference of all parameters; buffers, as the statistics of batch norm, do not count."""
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return sum(float((a.detach().double() - b.detach().double()).square().sum()) for a, b in pairs) ** 0.5


def along_path(first: nn.Module, second: nn.Module, images: Tensor, labels: Tensor) -> Iterator[tuple[float, float]]:
    """Mean cross-entropy in nats, and accuracy in percent, at `POINTS` evenly spaced points from `first` to `second`.

    `first` is moved along, and ends at the weights of `second`. Batch norm has at each point, the ends too, the
    statistics of `images`: those of the ends, averaged, would fit neither (Jordan et al., ICLR 2023).

    Args:
        images: (n, C, H, W), uint8 or in [0, 1], on the models' device.
        labels: (n,) true classes.
    """
    begin, end = ([weight.detach().clone() for weight in model.parameters()] for model in (first, second))
    truth = labels.cpu()
    for share in np.linspace(0.0, 1.0, POINTS):
        with torch.no_grad():
            for weight, a, b in zip(first.parameters(), begin, end, strict=True):
                weight.copy_(torch.lerp(a, b, float(share)))
        _take_statistics(first, images)
        logits = predict(first, images)
        yield float(F.cross_entropy(logits, truth)), 100 * float((logits.argmax(1) == truth).float().mean())


@torch.no_grad()
def _take_statistics(model: nn.Module, images: Tensor) -> None:
    """Give batch norm the mean statistics of the batches of `images`; nothing happens to a model without it."""
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean
        layer.train()
    for batch in images.split(BATCH):
        if len(batch) > 1:
            model(to_unit(batch) if batch.dtype == torch.uint8 else batch)
    model.eval()
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
