"""Spectral clipping (Boroojeny, Telgarsky and Sundaram, AISTATS 2024): a bound on how far a layer stretches its input.

The bound is on the largest singular value of each convolution, as a linear map of images of the size that it sees, with
its stride and padding, and of each dense layer. It is kept from outside, between two steps of the optimiser.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amun_ray.base.errors import UserError
from amun_ray.base.seeds import generator
from amun_ray.base.tensors import evaluating
from amun_ray.training.modes import has_batch_norm

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
TINY = 1e-30  # avoids division by a norm of 0
EVERY = 100  # steps from one clipping to the next; another one ends every epoch
ITERATIONS = 10  # of power iteration, from where the last clipping ended
FRESH = 3  # random starts of it, beside that one: what a clipping leaves on top may be orthogonal to it
ROUNDS = 5  # at the end of an epoch, at most; whatever is above the bound then is scaled
AT_FIRST = 100  # iterations before weights that no clipping has seen are scaled
TOLERANCE = 1e-3  # of the bound


def clipped(model: nn.Module, bound: float) -> nn.Module:
    """`model`, whose layers every training in `training.loop` keeps at `bound` from now on; they are not changed yet.

    The bound is a buffer that state dicts do not have.

    Raises:
        UserError: it has batch norm, or other weights than those of convolutions and dense layers.
    """
    if has_batch_norm(model):
        raise UserError("model.spectral_clip: batch norm scales what the layers before it bound; choose a network "
                        "without it, such as resnet18 with model.options: {batch_norm: false}")
    for name, module in model.named_modules():
        if not isinstance(module, LAYERS) and [*module.parameters(recurse=False)]:
            raise UserError(f"model.spectral_clip: it bounds convolutions and dense layers, and "
                            f"{name or 'the network'} ({type(module).__name__}) has other weights")
    model.register_buffer("spectral_clip", torch.tensor(bound), persistent=False)
    return model


def bound_of(model: nn.Module) -> float | None:
    """The bound that `clipped` gave `model`; None without one."""
    bound = getattr(model, "spectral_clip", None)
    return None if bound is None else float(bound)


class Clipping:
    """Keeps the layers of a model that `clipped` has marked at its bound, while it is trained."""

    def __init__(self, layers: Sequence["_Layer"], bound: float) -> None:
        self.layers, self.bound, self.steps = layers, bound, 0

    @classmethod
    def of(cls, model: nn.Module, images: Tensor) -> Self | None:
        """The clipping of `model`, which sees images of the shape of `images` (N, C, H, W); None if it has no bound.
        Layers above the bound are scaled to it."""
        if (bound := bound_of(model)) is None:
            return None
        clipping = cls(_layers(model, images), bound)
        for layer in clipping.layers:
            layer.scale(bound, AT_FIRST)
        return clipping

    def step(self) -> None:
        """To be called after each step of the optimiser; every EVERY-th time it clips each layer once."""
        self.steps += 1
        if self.steps % EVERY == 0:
            for layer in self.layers:
                layer.clip(self.bound)

    def settle(self) -> None:
        """Clip until each layer is at the bound, or ROUNDS times, after which it is scaled."""
        for _ in range(ROUNDS):
            values = torch.stack([layer.clip(self.bound) for layer in self.layers])
            if values.max() <= self.bound * (1 + TOLERANCE):
                return
        for layer in self.layers:
            layer.scale(self.bound, ITERATIONS)


def singular_values(model: nn.Module, images: Tensor) -> dict[str, float]:
    """The largest singular value of each convolution and dense layer of `model` for images of the shape of `images`
    (N, C, H, W), in the order in which they are used; of one that sees several sizes, each.

    By the Lanczos method: some dozen passes of one image through each layer and back.
    """
    return {layer.name: layer.largest() for layer in _layers(model, images)}


class _Layer:
    """The linear map of one layer, without its bias, and a running estimate of its first right singular vector."""

    def __init__(self, name: str, module: nn.Module, shape: Sequence[int]) -> None:
        self.name, self.module = name, module
        weight: Any = module.weight
        self.weight: Tensor = weight
        self.shape, self.generator = shape, generator(0, "spectral", name)
        self.vector = self.drawn(1)

    def drawn(self, count: int) -> Tensor:
        """Random vectors (count, ...) of length 1."""
        return _unit(torch.randn(count, *self.shape, generator=self.generator).to(self.weight.device))

    def map(self, inputs: Tensor, weight: Tensor) -> Tensor:
        if isinstance(self.module, nn.Linear):
            return F.linear(inputs, weight)
        module: Any = self.module
        return module._conv_forward(inputs, weight, None)  # pads as the layer does, whatever its padding mode

    def there_and_back(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """A x, and A^T A x."""
        inputs = inputs.detach().requires_grad_()
        with torch.enable_grad():
            outputs = self.map(inputs, self.weight.detach())
        (back,) = torch.autograd.grad(outputs, inputs, outputs.detach())
        return outputs.detach(), back

    def iterate(self, iterations: int) -> tuple[Tensor, Tensor]:
        """Power iteration from the vector so far and from FRESH others, of which the most stretched one remains;
        returns A v, and the singular value that is its length."""
        vectors = torch.cat([self.vector, self.drawn(FRESH)])
        for _ in range(iterations):
            vectors = _unit(self.there_and_back(vectors)[1])
        with torch.no_grad():
            outputs = self.map(vectors, self.weight)
        most = outputs.flatten(1).norm(dim=1).argmax(0, keepdim=True)
        self.vector = vectors.index_select(0, most)
        return outputs.index_select(0, most), outputs.index_select(0, most).norm()

    def clip(self, bound: float) -> Tensor:
        """Bring the largest singular value to `bound` if it is above; returns it, as it was estimated.

        Of all changes of the weights that have this effect for its singular vectors u and v, this one is the smallest:
        along the gradient of u^T A v, in which A is linear. The other singular values of a dense layer remain.
        """
        outputs, largest = self.iterate(ITERATIONS)
        weight = self.weight.detach().requires_grad_()
        with torch.enable_grad():
            stretched = (self.map(self.vector, weight) * outputs / largest.clamp_min(TINY)).sum()
        (slope,) = torch.autograd.grad(stretched, weight)
        with torch.no_grad():
            self.weight -= (largest - bound).clamp_min(0) * slope / slope.square().sum().clamp_min(TINY)
        return largest

    def scale(self, bound: float, iterations: int) -> None:
        """Divide the weights so that the largest singular value is `bound`, if it is above by more than TOLERANCE."""
        _, largest = self.iterate(iterations)
        with torch.no_grad():
            self.weight *= torch.where(largest > bound * (1 + TOLERANCE), bound / largest, 1.0)

    def largest(self) -> float:
        """The largest singular value."""
        from scipy.sparse.linalg import LinearOperator, eigsh  # slow to import

        start = self.vector.flatten().cpu().numpy().astype(np.float64)

        def normal(flat: np.ndarray) -> np.ndarray:
            inputs = torch.from_numpy(flat.astype(np.float32)).reshape(self.vector.shape).to(self.weight.device)
            return self.there_and_back(inputs)[1].flatten().cpu().numpy().astype(np.float64)

        if len(start) == 1 or not self.weight.any():
            return float(np.sqrt(normal(start) @ start))
        square = LinearOperator((len(start), len(start)), matvec=normal, dtype=np.float64)
        return float(np.sqrt(eigsh(square, k=1, v0=start, tol=1e-5, return_eigenvectors=False)[0]))


def _unit(vectors: Tensor) -> Tensor:
    """Each of the `vectors` (B, ...) at length 1."""
    return F.normalize(vectors.flatten(1), eps=TINY).view_as(vectors)


def _layers(model: nn.Module, images: Tensor) -> list[_Layer]:
    """Every convolution and dense layer with the size of the input that it sees; one that sees several is there for
    each of them, with the size in its name."""
    seen: dict[tuple[str, tuple[int, ...]], nn.Module] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            shape = tuple(inputs[0].shape[1:])
            seen[name, shape[-1:] if isinstance(module, nn.Linear) else shape] = module
        return hook

    hooks = [module.register_forward_pre_hook(note(name)) for name, module in model.named_modules()
             if isinstance(module, LAYERS)]
    try:
        with torch.no_grad(), evaluating(model):
            model(torch.zeros(1, *images.shape[1:], device=next(model.parameters()).device))
    finally:
        for handle in hooks:
            handle.remove()
    names = [name for name, _ in seen]
    return [_Layer(name if names.count(name) == 1 else f"{name} at {'x'.join(map(str, shape))}", module, shape)
            for (name, shape), module in seen.items()]
