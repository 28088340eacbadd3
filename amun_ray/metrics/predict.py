"""The only place where metrics run a model: one forward pass; everything after it is arithmetic."""

import torch
from torch import Tensor, nn

from amun_ray.base.errors import Diverged, UserError
from amun_ray.base.tensors import check_unit_range, evaluating, to_unit

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, rows: Tensor | None = None, *, batch_size: int | None = None,
            precision: str = "float32") -> Tensor:
    """Logits of `model` in eval mode.

    Args:
        model: (N, C, H, W) float32 in [0, 1] -> logits (N, classes). Its train or eval mode is restored.
        images: (N, C, H, W), uint8 in 0..255 or floating point in [0, 1], on any device.
        rows: (n,) int64 on the device of `images`: predict these alone, in this order; by default all.
        batch_size: samples per forward pass; by default 1024 on a GPU and 128 on a CPU, to fit its caches.
        precision: "float32", or "bfloat16" (autocast) where speed matters more than the last digits.

    Returns:
        (N or n, classes) float32 on the CPU.

    Raises:
        UserError: no images, pixels out of range, or an unknown precision.
        Diverged: some logits are not finite, so the model cannot be judged.
    """
    device = next((tensor.device for tensor in model.parameters()), images.device)
    batch_size = (128 if device.type == "cpu" else 1024) if batch_size is None else batch_size
    _check(images, rows, batch_size, precision)
    logits, count = images.new_empty(0), len(images) if rows is None else len(rows)
    with evaluating(model), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        for start in range(0, count, batch_size):
            end = start + batch_size
            batch = (images[start:end] if rows is None else images[rows[start:end]]).to(
                device, non_blocking=True, memory_format=torch.channels_last)
            output = model(to_unit(batch) if batch.dtype == torch.uint8 else batch.float())
            if start == 0:  # one buffer for all: separate results would fragment the memory that batches reuse,
                # and on a CPU no gap would be large enough for the next batch
                logits = output.new_empty((count, *output.shape[1:]), dtype=torch.float32)
            logits[start:end] = output
    logits = logits.cpu()  # the only synchronisation: no batch waits for a copy back
    broken = int((~logits.isfinite().all(dim=1)).sum())
    if broken:
        raise Diverged(f"the model's logits are not finite for {broken} of {len(logits)} images")
    return logits


def _check(images: Tensor, rows: Tensor | None, batch_size: int, precision: str) -> None:
    if precision not in PRECISIONS:
        raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    if images.ndim != 4 or len(images) == 0:
        raise UserError(f"images must be (N, C, H, W) with N >= 1, got shape {tuple(images.shape)}")
    if rows is not None and len(rows) == 0:
        raise UserError("rows: at least one is needed, but it is empty")
    if images.dtype != torch.uint8:
        if not images.is_floating_point():
            raise UserError(f"images must be uint8 in 0..255 or float in [0, 1], got {images.dtype}")
        check_unit_range(images, "images")
