"""One epoch over several parts: shuffled together and cut into batches without waiting for the device."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, islice, repeat
from typing import TypeVar

import torch
from torch import Tensor

from amun_ray.base.errors import UserError
from amun_ray.base.tensors import to_unit
from amun_ray.training.augment import Augmentation, augmented, draw
from amun_ray.training.group import ALONE, Group
from amun_ray.training.parts import Part, count

T = TypeVar("T")
U = TypeVar("U")
CACHE_BYTES = 2**20  # of float32 images assembled at once on a CPU: what fits the cache of a core
CHUNK_BYTES = 64 * 2**20  # the same on a GPU, where kernel launches cost more than memory


def batch_sizes(total: int, batch_size: int) -> list[int]:
    """The sizes of an epoch's batches: every sample once, and no last batch with a single sample.

    A remainder of one joins the batch before it, which then has `batch_size + 1` samples: one sample has no batch
    statistics, and dropping it would skip a sample in every epoch of a small forget set.

    Raises:
        UserError: there are no samples.
    """
    if total < 1:
        raise UserError("there is nothing to train on: the parts of this pass are empty")
    full, rest = divmod(total, batch_size)
    if rest == 1 and full > 0:
        return [batch_size] * (full - 1) + [batch_size + 1]
    return [batch_size] * full + [rest] * (rest > 0)


def batches(parts: Sequence[Part], *, batch_size: int, augmentation: Augmentation,
            generator: torch.Generator, group: Group = ALONE) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of one epoch over the union of `parts`, shuffled together; of each batch, this process's share.

    Yields images (B, C, H, W) float32 in [0, 1], channels_last, and labels (B,) int64. All draws (from `generator`) and
    all sizes are computed on the host: nothing waits for the device.
    """
    total = count(parts)
    sizes = batch_sizes(total, batch_size)
    order = torch.randperm(total, generator=generator)
    draws = draw(total, augmentation, generator, (parts[0].images.shape[2], parts[0].images.shape[3]))
    if group.size > 1:
        mine, sizes = group.share(sizes)
        order, draws = order[mine], draws[mine]
    chunks = list(_chunks(sizes, parts[0]))
    spans = [slice(stop - sum(chunk), stop) for chunk, stop in
             zip(chunks, accumulate(map(sum, chunks)), strict=True)]
    streamed = any(part.streamed for part in parts)
    nothing: list[Tensor | None] = [None] * len(parts)
    read = ahead(lambda span: _read(parts, order[span]), spans) if streamed else repeat(nothing, len(spans))
    for chunk, span, there in zip(chunks, spans, read, strict=True):
        images, labels = _assemble(parts, order[span], draws[span], there)
        yield from zip(images.split(chunk), labels.split(chunk), strict=True)


def in_order(part: Part, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All of `part`, in order and unaugmented: images (B, C, H, W) float32 in [0, 1], and labels (B,)."""
    places = torch.arange(len(part.labels), device=part.labels.device)
    for chosen, labels in zip(places.split(batch_size), part.labels.split(batch_size), strict=True):
        yield _unit(part.images[part.rows_at(chosen)].to(labels.device)), labels


def _unit(images: Tensor) -> Tensor:
    return to_unit(images) if images.dtype == torch.uint8 else images


def ahead(make: Callable[[T], U], items: Iterable[T], depth: int = 2) -> Iterator[U]:
    """`map` in a thread that computes up to `depth` results ahead."""
    source = iter(items)
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(make, item) for item in islice(source, depth))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(make, item) for item in islice(source, 1))
            yield result


def _read(parts: Sequence[Part], rows: Tensor) -> list[Tensor | None]:
    """For each streamed part, its images among `rows` (B,), in order, pinned for a GPU; None for other parts."""
    columns: list[Tensor | None] = []
    first = 0
    for part in parts:
        mine = rows[(rows >= first) & (rows < first + len(part.labels))] - first
        images = part.images.index_select(0, part.rows_at(mine)) if part.streamed else None
        columns.append(images.pin_memory() if images is not None and part.labels.device.type == "cuda" else images)
        first += len(part.labels)
    return columns


def _chunks(sizes: list[int], part: Part) -> Iterator[list[int]]:
    """Groups of batches to assemble together: as many as the device's limit holds, and at least one."""
    limit = CACHE_BYTES if part.labels.device.type == "cpu" else CHUNK_BYTES
    per_chunk = max(1, limit // (4 * part.images.shape[1:].numel() * max(1, sizes[0])))
    for start in range(0, len(sizes), per_chunk):
        yield sizes[start:start + per_chunk]


def _assemble(parts: Sequence[Part], rows: Tensor, draws: Tensor,
              read: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """Images and labels of `rows` (B,), indices into the concatenated parts; all inputs on the host."""
    _, channels, height, width = parts[0].images.shape
    device = parts[0].labels.device
    images = torch.empty((len(rows), height, width, channels), device=device)
    labels = torch.empty(len(rows), dtype=torch.int64, device=device)
    first = 0
    for part, there in zip(parts, read, strict=True):
        places = ((rows >= first) & (rows < first + len(part.labels))).nonzero().flatten()
        local, where = send(rows[places] - first, device), send(places, device)
        if there is None:
            source, mine = part.images, part.rows_at(local)
        else:
            source, mine = there.to(device, non_blocking=True), torch.arange(len(there), device=device)
        if part.augment:
            picked = augmented(source, mine, send(draws[places], device))
        else:
            picked = source.index_select(0, mine).permute(0, 2, 3, 1)
        images.index_copy_(0, where, _unit(picked))
        labels.index_copy_(0, where, part.labels.index_select(0, local))
        first += len(part.labels)
    return images.permute(0, 3, 1, 2), labels


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor to `device`; to a GPU through pinned memory, so that the host does not wait."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
