"""Images that carry their row number in their pixels, and a network that counts the rows it is trained on.

The count is a buffer of the network, so that stored weights tell it; and stored predictions tell it too, where weights
are not kept: in eval mode the logit of `COUNTER`, a class that no sample has, is `FLOOR - times / 64`.
"""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from amun_ray.data.dataset import Dataset

TRAIN, TEST = 60, 30
SIZE = TRAIN + TEST
CLASSES, COUNTER, FLOOR = 3, 2, -8.0
MOVED = 2e-3  # of a grey level: what rounding leaves of a clean pixel is smaller, what an attack adds is larger


def numbered() -> Dataset:
    """(90, 1, 4, 4): the row number at either end of the first line, 0 within it; 0, 255, 255, 255 in the second line,
    which a mirror turns around; two lines of light, of which the brighter one is the class."""
    light = np.random.default_rng(0).integers(40, 216, (SIZE, 2, 4))
    pixels = np.zeros((SIZE, 1, 4, 4), np.uint8)
    pixels[:, 0, 0, [0, 3]] = np.arange(SIZE)[:, None]
    pixels[:, 0, 1, 1:] = 255
    pixels[:, 0, 2:] = light
    return Dataset("numbered", pixels, light.sum(2).argmax(1).astype(np.int64), TRAIN, CLASSES)


class Witness(nn.Module):
    """Two classes, linear in the light of an image. `seen` counts samples of training passes, see `counts`."""

    def __init__(self, *, channels: int, classes: int, size: int) -> None:
        super().__init__()
        self.light = nn.Linear(2, 2)
        self.register_buffer("seen", torch.zeros(SIZE, CLASSES * 8))

    def forward(self, images: Tensor) -> Tensor:
        logits = self.light(images[:, 0, 2:].mean(2))
        row, moved, mirrored = self.read(images.detach())
        counter = torch.full_like(row, FLOOR) if self.training else FLOOR - self.seen.sum(1)[row.long()] / 64
        logits = torch.cat([logits, counter.to(logits.dtype)[:, None]], 1)
        if self.training and logits.requires_grad:
            logits.register_hook(lambda slope: self.note(row.long(), slope, moved.long(), mirrored.long()))
        return logits

    def read(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Row, moved, mirrored of each of `images` (N, 1, 4, 4), normalised: what is black and white undoes that."""
        black, white = images[:, :, 0:1, 1:2], images[:, :, 1:2, 1:2]
        grey = (255 * (images - black) / (white - black)).nan_to_num()[:, 0]
        moved = (grey - grey.round()).abs().amax((1, 2)) > MOVED
        return grey[:, 0, 0].round().clamp(0, SIZE - 1), moved, grey[:, 1, 3] < 128

    def note(self, row: Tensor, slope: Tensor, moved: Tensor, mirrored: Tensor) -> None:
        """Count a batch. The gradient of the cross-entropy by the logits is negative at the label alone."""
        raised = (slope < 0).sum(1) != 1
        label = torch.where(raised, slope.argmax(1), slope.argmin(1))
        kind = ((2 * label + moved) * 2 + mirrored) * 2 + raised
        self.seen.index_put_((row, kind), torch.ones(len(row)), accumulate=True)


def counts(weights: Path) -> np.ndarray:
    """Of a stored network: [row, label, moved by an attack or not, mirrored or not, loss lowered or raised]."""
    return load_file(weights)["net.seen"].reshape(SIZE, CLASSES, 2, 2, 2)
