"""VGG19 with batch norm (Simonyan and Zisserman, ICLR 2015) for small images: one linear layer behind the convolutions,
as in the AMUN paper's experiments on Tiny ImageNet."""

from torch import Tensor, nn

from amun_ray.base.errors import UserError

STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # channels at width 64, and convolutions, of each stage


class VGG(nn.Module):
    """16 convolutions of 3 x 3 with batch norm, halved after each of five stages, and one linear layer.

    It maps (N, C, H, W) to logits (N, classes); at 64 x 64 pixels the linear layer has 2,048 inputs.

    Args:
        channels: C of the images.
        classes: number of logits.
        size: the shorter side of an image in pixels, at least 32 (it is halved five times).
        width: channels of the first stage.

    Raises:
        UserError: images too small, or a width below 1.
    """

    def __init__(self, *, channels: int, classes: int, size: int, width: int = 64) -> None:
        super().__init__()
        if size < 32:
            raise UserError(f"vgg19 halves the image five times: it needs at least 32 pixels a side, found {size}")
        if width < 1:
            raise UserError(f"vgg19: `width >= 1` must hold, but got {width}")
        layers: list[nn.Module] = []
        before, side = channels, size // 32
        for wide, convolutions in STAGES:
            after = wide * width // 64 or 1
            for _ in range(convolutions):
                layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after),
                           nn.ReLU(inplace=True)]
                before = after
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(side), nn.Flatten())
        self.linear = nn.Linear(before * side * side, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.features(images))
