"""What a pass consists of: labelled images on the training device or, if there are too many, on the host."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from amun_ray.base.errors import UserError
from amun_ray.base.tensors import check_unit_range


class Part(NamedTuple):
    """Samples of one kind: clean ones as uint8 pixels, adversarial ones as the floats that the search found."""

    images: Tensor  # (M, C, H, W) uint8 in 0..255, or float32 in [0, 1]
    labels: Tensor  # (N,) int64, the training targets
    augment: bool  # whether crop and flip apply
    rows: Tensor | None = None  # (N,) int64, the rows of `images` used, without a copy; None: all, M = N
    streamed: bool = False  # `images`, `rows` are on the host: batches are read ahead and sent to the labels' device

    @property
    def own_images(self) -> Tensor:
        """The samples' images (N, C, H, W), on the device; a copy if `rows` selects them."""
        return (self.images if self.rows is None else self.images[self.rows]).to(self.labels.device)

    def rows_at(self, places: Tensor) -> Tensor:
        """The rows in `images` of the samples at `places` (B,), from 0 to N - 1; on the device of `images`."""
        places = places.to(self.images.device)
        return places if self.rows is None else self.rows[places]

    def numbered(self, start: int) -> "Part":
        """The same samples with their places, from `start` on, as labels: rows of a table that an objective has."""
        return self._replace(labels=torch.arange(start, start + len(self.labels), device=self.labels.device))

    def take(self, places: Tensor, *, augment: bool) -> "Part":
        """The samples at `places` (B,), in that order, as a part that shares this part's images."""
        return Part(self.images, self.labels[places.to(self.labels.device)], augment, self.rows_at(places),
                    self.streamed)


def place(images: np.ndarray | Tensor, labels: np.ndarray | Tensor, *, augment: bool,
          device: torch.device | str = "cpu") -> Part:
    """A checked Part on `device`; `images` and `labels` as in `Part`, as arrays or tensors.

    Raises:
        UserError: shapes or types are not those of `Part`, or float pixels lie outside [0, 1].
    """
    part = Part(torch.as_tensor(images), torch.as_tensor(labels), augment)
    if part.images.ndim != 4 or part.labels.shape != part.images.shape[:1]:
        raise UserError("images (N, C, H, W) with labels (N,) are expected, "
                        f"found {tuple(part.images.shape)} with {tuple(part.labels.shape)}")
    if part.images.dtype not in (torch.uint8, torch.float32):
        raise UserError(f"images must be uint8 or float32, found {part.images.dtype}")
    if part.labels.dtype != torch.int64:
        raise UserError(f"labels must be int64, found {part.labels.dtype}")
    if part.images.dtype == torch.float32 and len(part.images) > 0:
        check_unit_range(part.images, "images")
    return Part(part.images.to(device), part.labels.to(device), augment)


def count(parts: Sequence[Part]) -> int:
    """The number of samples in all `parts` together."""
    return sum(len(part.labels) for part in parts)
