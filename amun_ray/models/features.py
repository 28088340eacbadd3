"""What a classifier computes before its last layer."""

from typing import Any

from torch import Tensor, nn

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Features(nn.Module):
    """(N, C, H, W) -> (N, D): what the last layer with weights is given, frozen; the logits if there is none such.

    That is the last one to run, a linear layer or a convolution. Do not share `model` with another of these.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._last: Tensor | None = None
        for layer in model.modules():
            if isinstance(layer, WEIGHTED):
                layer.register_forward_pre_hook(self._keep)

    def forward(self, images: Tensor) -> Tensor:
        self._last = None
        logits = self.model(images)
        return (logits if self._last is None else self._last).flatten(1)

    def _keep(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._last = inputs[0]
