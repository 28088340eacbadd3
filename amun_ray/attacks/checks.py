"""The checks on settings, model and batch before an attack starts; an error names the argument."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from amun_ray.attacks.look import OBJECTIVES
from amun_ray.base.errors import UserError
from amun_ray.base.space import Allowed
from amun_ray.base.tensors import check_unit_range

RULES = {  # for the settings of all attacks
    "steps": Allowed(whole=True, at_least=1, at_most=1e6), "step_ratio": Allowed(above=0), "eps_init": Allowed(above=0),
    "doublings": Allowed(whole=True, at_least=0, at_most=100), "shrink": Allowed(whole=True, at_least=0, at_most=100),
    "kappa": Allowed(at_least=0), "polish": Allowed(whole=True, at_least=0, at_most=1e6),
    "tolerance": Allowed(at_least=0), "competitors": Allowed(whole=True, at_least=1, at_most=1e6),
    "gamma": Allowed(above=0, below=1), "batch_size": Allowed(whole=True, at_least=1, at_most=1e6),
    "start": Allowed(choices=("clean", "warm")),
    "stop": Allowed(choices=("full", "first_flip")), "objective": Allowed(choices=tuple(OBJECTIVES)),
    "precision": Allowed(choices=("float32", "bfloat16", "auto")),
}
PROBES = 2  # images that the model is tried on first


def check_settings(settings: Mapping[str, Any], where: str = "") -> None:
    """Raise UserError for a value that RULES does not allow. Tensors pass, and so does None (chosen later)."""
    for name, value in settings.items():
        known = name in RULES and value is not None and not isinstance(value, Tensor)
        if known and (problem := RULES[name].problem(value)) is not None:
            raise UserError(f"{where}{name} {problem}")


def check_batch(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Raise UserError unless the frozen `model` takes `images` (N, C, H, W) and knows every class in `labels` (N,)."""
    check_tensors(images, labels)
    check_model(model, images, labels)


def check_tensors(images: Tensor, labels: Tensor) -> None:
    """Raise UserError unless images are float32 (N, C, H, W) in [0, 1] and labels int64 (N,), N >= 1."""
    if images.ndim != 4:
        raise UserError(f"images: must have the shape (N, C, H, W), found {tuple(images.shape)}")
    if len(images) == 0:
        raise UserError("images: the forget set is empty; give at least one image")
    if images.dtype != torch.float32:
        raise UserError(f"images: must be float32 in [0, 1], found {images.dtype}; see amun_ray.base.tensors.to_unit")
    if labels.dtype != torch.int64:
        raise UserError(f"labels: must be int64, found {labels.dtype}")
    if labels.shape != images.shape[:1]:
        raise UserError(f"labels: must have the shape ({len(images)},), one per image, found {tuple(labels.shape)}")
    if labels.device != images.device:
        raise UserError(f"labels: must be on the images' device {images.device}, found {labels.device}")
    check_unit_range(images, "images")


def check_model(model: nn.Module, images: Tensor, labels: Tensor, name: str = "model") -> None:
    """Raise UserError unless the frozen `model` has all `labels` and gives finite logits (N, classes) for images."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.device != images.device:
            raise UserError(f"{name}: it is on {tensor.device}, the images are on {images.device}")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise UserError(f"{name}: its tensors must be float32, found {tensor.dtype}; set the precision of the "
                            "attack instead")
    with torch.no_grad():
        logits = model(images[:PROBES])
    count = min(PROBES, len(images))
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != count or logits.shape[1] < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(f"{name}: must return logits (N, classes) with 2 or more classes, found {shape} for N={count}")
    if logits.dtype != torch.float32:
        raise UserError(f"{name}: its logits must be float32, found {logits.dtype}")
    if not logits.isfinite().all():
        raise UserError(f"{name}: it returned NaN or infinite logits for images in [0, 1]; fix its weights")
    low, high = labels.aminmax()
    if low < 0 or high >= logits.shape[1]:
        wrong = low.item() if low < 0 else high.item()
        raise UserError(f"labels: must lie in 0 .. {logits.shape[1] - 1}, the model's classes, found {wrong}")
