"""One epoch over several parts: a joint shuffle, cut into batches without asking the device anything."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from amun_ray.base.errors import UserError
from amun_ray.base.tensors import to_unit
from amun_ray.training.augment import Augmentation, augmented, draw
from amun_ray.training.parts import Part, count

CHUNK_BYTES = 64 * 2**20  # of float32 images that are assembled at once on a GPU: launches cost more than memory there


def batch_sizes(total: int, batch_size: int) -> list[int]:
    """The sizes of an epoch's batches: every sample once, and no last batch of a single sample.

    A remainder of one joins the batch before it, which then has `batch_size + 1` samples: one sample has no batch
    statistics, and dropping it would leave a sample out of every epoch of a small forget set.

    Raises:
        UserError: there is no sample at all.
    """
    if total < 1:
        raise UserError("there is nothing to train on: the parts of this pass hold no sample")
    full, rest = divmod(total, batch_size)
    if rest == 1 and full > 0:
        return [batch_size] * (full - 1) + [batch_size + 1]
    return [batch_size] * full + [rest] * (rest > 0)


def batches(parts: Sequence[Part], *, batch_size: int, augmentation: Augmentation,
            generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of one epoch over the union of `parts`, shuffled together.

    Yields images (B, C, H, W) float32 in [0, 1], channels_last, and labels (B,) int64. All draws come from
    `generator` on the host, and so do all sizes: nothing waits for the device.
    """
    total = count(parts)
    sizes = batch_sizes(total, batch_size)
    order = torch.randperm(total, generator=generator)
    draws = draw(total, augmentation, generator)
    start = 0
    for chunk in _chunks(sizes, parts[0].images):
        stop = start + sum(chunk)
        images, labels = _assemble(parts, order[start:stop], draws[start:stop])
        yield from zip(images.split(chunk), labels.split(chunk), strict=True)
        start = stop


def in_order(part: Part, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All of `part` in its own order, never augmented: images (B, C, H, W) float32 in [0, 1], and labels (B,)."""
    places = torch.arange(len(part.labels), device=part.labels.device)
    for chosen, labels in zip(places.split(batch_size), part.labels.split(batch_size), strict=True):
        yield _unit(part.images[part.rows_at(chosen)]), labels


def _unit(images: Tensor) -> Tensor:
    return to_unit(images) if images.dtype == torch.uint8 else images


def _chunks(sizes: list[int], like: Tensor) -> Iterator[list[int]]:
    """Runs of batches that are assembled together: one batch on a CPU (its cache), up to CHUNK_BYTES on a GPU."""
    per_chunk = 1
    if like.device.type != "cpu":
        per_chunk = max(1, CHUNK_BYTES // (4 * like[:1].numel() * sizes[0]))
    for start in range(0, len(sizes), per_chunk):
        yield sizes[start:start + per_chunk]


def _assemble(parts: Sequence[Part], rows: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Images and labels of `rows` (B,), which count through the parts one after another; all inputs on the host."""
    _, channels, height, width = parts[0].images.shape
    device = parts[0].images.device
    images = torch.empty((len(rows), height, width, channels), device=device)
    labels = torch.empty(len(rows), dtype=torch.int64, device=device)
    first = 0
    for part in parts:
        places = ((rows >= first) & (rows < first + len(part.labels))).nonzero().flatten()
        local, where = send(rows[places] - first, device), send(places, device)
        if part.augment:
            picked = augmented(part.images, part.rows_at(local), send(draws[places], device))
        else:
            picked = part.images.index_select(0, part.rows_at(local)).permute(0, 2, 3, 1)
        images.index_copy_(0, where, _unit(picked))
        labels.index_copy_(0, where, part.labels.index_select(0, local))
        first += len(part.labels)
    return images.permute(0, 3, 1, 2), labels


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on `device`; to a GPU through pinned memory, so that the host does not wait."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
