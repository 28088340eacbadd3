"""What a training step takes by one GPU, and by several: the assumptions of scale.md, and FLOPs counted by PyTorch."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

FLOPS_PER_SECOND = 8e13  # assumed: what a training gets of one GPU of the H100 class in bfloat16
NVLINK, NETWORK = 3e11, 1.25e10  # assumed: bytes/s between the GPUs of a node, and of a node's 100 Gbit/s network
LATENCY = 2e-5  # assumed: seconds in which GPUs exchange the statistics of a layer, of which they wait for every one


class Network(NamedTuple):
    """What the arithmetic needs to know of a network."""

    flops: float  # of the forward pass of one image
    weights: int  # bytes
    norms: int  # layers of batch norm


class Step(NamedTuple):
    """What takes time in a training step by several GPUs of a node, or of several: torch exchanges gradients while it
    computes earlier ones, but waits for the batch statistics, twice a layer."""

    computed: float  # seconds
    waited: float
    exchanged: float

    @classmethod
    def of(cls, net: Network, batch: int, gpus: int, speed: float = NVLINK) -> "Step":
        return cls(batch / gpus * 3 * net.flops / FLOPS_PER_SECOND, 2 * net.norms * LATENCY * (gpus > 1),
                   2 * net.weights * (gpus - 1) / gpus / speed)

    @property
    def seconds(self) -> float:
        return max(self.computed + self.waited, self.exchanged)

    def __str__(self) -> str:
        return (f"a step computes {1e3 * self.computed:.3g} ms, waits {1e3 * self.waited:.2g} and exchanges "
                f"{1e3 * self.exchanged:.2g}")


@cache
def network(constructor: Callable[..., Any], size: int, classes: int) -> Network:
    """What `constructor` makes for images of `size` pixels a side; nothing is computed."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        net = (constructor(num_classes=classes) if constructor is torchvision.models.resnet50
               else constructor(channels=3, classes=classes, size=size))
        net.eval()(torch.empty(1, 3, size, size))
    return Network(counter.get_total_flops(), 4 * sum(parameter.numel() for parameter in net.parameters()),
                   sum(isinstance(layer, nn.BatchNorm2d) for layer in net.modules()))
