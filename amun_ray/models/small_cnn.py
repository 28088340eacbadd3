"""A small convolutional net for a quick run on a processor: three convolutions with batch norm, one linear layer."""

from torch import Tensor, nn

from amun_ray.base.errors import UserError


class SmallCNN(nn.Module):
    """Three 3 x 3 convolutions of `width`, 2 `width`, 4 `width` channels, halved in between, mean over what is left.

    It maps (N, C, H, W) to logits (N, classes); 94,186 parameters for 10 classes of grey images at width 32.

    Args:
        channels: C of the images.
        classes: number of logits.
        size: the shorter side of an image in pixels, at least 4 (it is halved twice).
        width: channels of the first convolution.
        batch_norm: whether the convolutions have batch norm; without it they have a bias.

    Raises:
        UserError: images too small, or a width below 1.
    """

    def __init__(self, *, channels: int, classes: int, size: int, width: int = 32,
                 batch_norm: bool = True) -> None:
        super().__init__()
        if size < 4:
            raise UserError(f"small_cnn halves the image twice: it needs at least 4 pixels a side, found {size}")
        if width < 1:
            raise UserError(f"small_cnn: `width >= 1` must hold, but got {width}")
        self.features = nn.Sequential(
            *_convolution(channels, width, batch_norm), nn.MaxPool2d(2),
            *_convolution(width, 2 * width, batch_norm), nn.MaxPool2d(2),
            *_convolution(2 * width, 4 * width, batch_norm), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.features(images))


def _convolution(before: int, after: int, batch_norm: bool) -> tuple[nn.Module, ...]:
    """A convolution that keeps the size, batch norm or a bias, and ReLU."""
    normalize = [nn.BatchNorm2d(after)] if batch_norm else []
    return nn.Conv2d(before, after, 3, padding=1, bias=not batch_norm), *normalize, nn.ReLU(inplace=True)
