"""Derivatives of the training loss with respect to the weights, over whole sets.

All are taken in eval mode, in float32, on unaugmented images, so that they are functions of the weights alone.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from amun_ray.base.tensors import evaluating
from amun_ray.training.batches import in_order
from amun_ray.training.cost import Cost
from amun_ray.training.parts import Part

Vector = dict[str, Tensor]  # one tensor per trainable parameter, with its name and shape


def trainable(model: nn.Module) -> Vector:
    """The parameters of `model` that training moves, by name; the live tensors."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def dot(first: Vector, second: Vector) -> Tensor:
    """The inner product of two vectors, a scalar."""
    return torch.stack([(first[name] * second[name]).sum() for name in first]).sum()


def combine(first: Vector, factor: float, second: Vector) -> Vector:
    """`one + factor * other`."""
    return {name: first[name] + factor * second[name] for name in first}


def scaled(vector: Vector, factor: float) -> Vector:
    """`factor * vector`."""
    return {name: factor * value for name, value in vector.items()}


def gradient(model: nn.Module, part: Part, *, batch_size: int, cost: Cost, weight_decay: float = 0.0) -> Vector:
    """The gradient of the mean cross-entropy over `part` plus weight_decay / 2 * |w|^2."""
    weights = trainable(model)
    total = {name: weight_decay * weight.detach() for name, weight in weights.items()}
    with evaluating(model):
        for images, labels in in_order(part, batch_size):
            loss = F.cross_entropy(model(images), labels, reduction="sum") / len(part.labels)
            for name, slope in zip(weights, _grad(loss, weights), strict=True):
                total[name] += slope
    cost.add(len(part.labels), backward=True)
    return total


def curvature(model: nn.Module, part: Part, vector: Vector, *, batch_size: int, cost: Cost,
              weight_decay: float = 0.0) -> Vector:
    """H v for v = `vector`, H the Hessian of the mean cross-entropy over `part` plus weight_decay / 2 * |w|^2."""
    weights = trainable(model)
    total = {name: weight_decay * vector[name] for name in weights}
    with evaluating(model), sdpa_kernel(SDPBackend.MATH):  # other attention kernels have no second derivative
        for images, labels in in_order(part, batch_size):
            loss = F.cross_entropy(model(images), labels, reduction="sum") / len(part.labels)
            slopes = dict(zip(weights, _grad(loss, weights, create_graph=True), strict=True))
            for name, bend in zip(weights, _grad(dot(slopes, vector), weights), strict=True):
                total[name] += bend
    cost.add(len(part.labels), backward=True)
    cost.backward += len(part.labels)  # the second derivative is a second backward pass
    return total


def _grad(of: Tensor, weights: Vector, *, create_graph: bool = False) -> tuple[Tensor, ...]:
    return torch.autograd.grad(of, list(weights.values()), create_graph=create_graph, materialize_grads=True)
