"""What is made of a model before it is attacked: once, however many batches follow."""

import torch
from torch import Tensor, nn

from amun_ray.attacks.frozen import folded, frozen
from amun_ray.attacks.look import Capacity
from amun_ray.attacks.settings import AttackSettings


class Prepared:
    """A model as `craft` and `calibrate` use it; give it to every call in the place of the model.

    It keeps what costs time: the frozen copy, the folded one, what the compiler makes of that, and how many images the
    GPU has room for. Results are the same as with the model itself.

    Args:
        model: as in `craft`. It is copied: what becomes of it later does not matter.
        settings: whose `compile` counts, and `batch_size` where no capacity is given.
        capacity: that of the device, as an earlier model has found it out.
    """

    def __init__(self, model: nn.Module, settings: AttackSettings, capacity: Capacity | None = None) -> None:
        self.original = frozen(model)
        self.capacity = capacity or Capacity(settings.batch_size)
        self.compiled = settings.compile
        self._fast: nn.Module | None = None

    def fast(self, example: Tensor) -> nn.Module:
        """The copy to search on, made at the first call with one or a few images (N, C, H, W) in [0, 1]."""
        if self._fast is None:
            self._fast = folded(self.original, example)
            if self.compiled:
                mode = "reduce-overhead" if example.is_cuda else "default"
                self._fast = torch.compile(self._fast, dynamic=False, mode=mode)
        return self._fast


def prepared(model: nn.Module | Prepared, settings: AttackSettings) -> Prepared:
    """`model`, prepared if it is not yet."""
    return model if isinstance(model, Prepared) else Prepared(model, settings)
