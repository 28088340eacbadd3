"""A network that learns small colour images fast on a processor, after those of airbench (Jordan, 2024): few channels
where the images are still large. Its own parts: a learned stem, ReLU, and one scale of the logits."""

from torch import Tensor, nn

from amun_ray.base.errors import UserError

STEM = 24  # channels
WIDER = (1, 4, 4)  # channels of the three blocks, in widths
LOGIT_SCALE = 0.25  # keeps the first logits small


class Airbench(nn.Module):
    """A convolution of 2 x 2, three blocks that halve the image after the first of their two convolutions of 3 x 3, the
    maximum over what is left, and a linear layer without bias.

    It maps (N, C, H, W) to logits (N, classes); 498,104 parameters for 10 classes of colour images at width 32.

    Args:
        channels: C of the images.
        classes: number of logits.
        size: the shorter side of an image in pixels, at least 9 (one less, it is halved three times).
        width: channels of the first block; the others have four times as many.

    Raises:
        UserError: images too small, or a width below 1.
    """

    def __init__(self, *, channels: int, classes: int, size: int, width: int = 32) -> None:
        super().__init__()
        if size < 9:
            raise UserError(f"airbench halves the image three times: it needs at least 9 pixels a side, found {size}")
        if width < 1:
            raise UserError(f"airbench: `width >= 1` must hold, but got {width}")
        layers: list[nn.Module] = [nn.Conv2d(channels, STEM, 2), nn.ReLU(inplace=True)]
        before = STEM
        for wide in WIDER:
            layers += [nn.Conv2d(before, wide * width, 3, padding=1, bias=False), nn.MaxPool2d(2), *_rest(wide * width),
                       nn.Conv2d(wide * width, wide * width, 3, padding=1, bias=False), *_rest(wide * width)]
            before = wide * width
        self.features = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.linear = nn.Linear(before, classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return LOGIT_SCALE * self.linear(self.features(images))


def _rest(channels: int) -> tuple[nn.Module, ...]:
    """What follows a convolution: batch norm and ReLU."""
    return nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
