"""Processes that train one model together (DistributedDataParallel): each takes its share of every batch.

Order and augmentation of the samples are those of one process, and so are the gradients, but for rounding. Dropout and
stochastic depth draw from other streams: each process draws for its own samples.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from amun_ray.base.errors import UserError
from amun_ray.training.modes import has_batch_norm


class Group(NamedTuple):
    """Process `rank` of `size`, which share a torch process group; the only process of a training needs none."""

    rank: int = 0
    size: int = 1

    def share(self, sizes: Sequence[int]) -> tuple[Tensor, list[int]]:
        """The samples of an epoch in batches of `sizes` that this process takes, and their number in each batch.

        The shares of a batch differ by at most one sample; of a batch smaller than the group, some are empty.
        """
        spans = [range(stop - size + size * self.rank // self.size, stop - size + size * (self.rank + 1) // self.size)
                 for size, stop in zip(sizes, accumulate(sizes), strict=True)]
        return torch.tensor([place for span in spans for place in span], dtype=torch.int64), list(map(len, spans))

    def joined(self, model: nn.Module) -> nn.Module:
        """`model` with the gradients and batch statistics of whole batches; changed in place.

        Raises:
            UserError: batch norm on CPUs: torch's SyncBatchNorm needs GPUs.
        """
        if self.size == 1:
            return model
        if has_batch_norm(model):
            if next(model.parameters()).device.type != "cuda":
                raise UserError("resources.gpus: a network with batch norm can be trained on several GPUs, but not on "
                                "several CPUs")
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)

    def scaled(self, loss: Tensor, mine: int, size: int) -> Tensor:
        """`loss`, a mean over `mine` of the `size` samples of a batch, so that its mean over all processes is the mean
        over the batch."""
        return loss if self.size == 1 else loss * (mine * self.size / size)

    def summed(self, value: Tensor) -> Tensor:
        """The sum of `value` over all processes, which each of them gets."""
        if self.size > 1:
            torch.distributed.all_reduce(value)
        return value


ALONE = Group()
