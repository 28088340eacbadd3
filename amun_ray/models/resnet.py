"""Residual networks for small images (He et al., CVPR 2016): the CIFAR family, and ResNet-18 with a CIFAR stem."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from amun_ray.base.errors import UserError


def _convolution(before: int, after: int, kernel: int, stride: int = 1, *, batch_norm: bool) -> nn.Conv2d:
    """A convolution that keeps the size at stride 1; no bias where batch norm follows."""
    return nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=not batch_norm)


def _norm(channels: int, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if batch_norm else nn.Identity()


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut: (N, before, H, W) -> (N, after, H / stride, W / stride), rounded up.

    Where the shape changes the shortcut is a 1 x 1 convolution with batch norm (option B of the ResNet paper).
    """

    def __init__(self, before: int, after: int, stride: int, batch_norm: bool = True) -> None:
        super().__init__()
        self.conv1 = _convolution(before, after, 3, stride, batch_norm=batch_norm)
        self.bn1 = _norm(after, batch_norm)
        self.conv2 = _convolution(after, after, 3, batch_norm=batch_norm)
        self.bn2 = _norm(after, batch_norm)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(_convolution(before, after, 1, stride, batch_norm=batch_norm),
                                          _norm(after, batch_norm))

    def forward(self, features: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(features)), inplace=True)
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(features), inplace=True)


class ResNet(nn.Module):
    """Stem of one 3 x 3 convolution, stages of BasicBlocks (each stage but the first halves the size), mean, linear.

    Args:
        channels: C of the images (N, C, H, W).
        classes: number of logits.
        widths: channels of each stage; the stem has those of the first.
        blocks: number of blocks in each stage.
        batch_norm: whether convolutions have batch norm; without it they have a bias.
    """

    def __init__(self, *, channels: int, classes: int, widths: Sequence[int], blocks: int,
                 batch_norm: bool = True) -> None:
        super().__init__()
        self.conv = _convolution(channels, widths[0], 3, batch_norm=batch_norm)
        self.bn = _norm(widths[0], batch_norm)
        stages: list[nn.Module] = []
        before = widths[0]
        for number, after in enumerate(widths):
            strides = [1 if number == 0 else 2] + [1] * (blocks - 1)
            stages.append(nn.Sequential(*(BasicBlock(before if block == 0 else after, after, stride,
                                                      batch_norm)
                                          for block, stride in enumerate(strides))))
            before = after
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(before, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.bn(self.conv(images)), inplace=True)
        return self.linear(self.pool(self.stages(features)).flatten(1))


def resnet20(*, channels: int, classes: int, size: int, width: int = 16, blocks: int = 3,
             batch_norm: bool = True) -> ResNet:
    """The paper's CIFAR family, depth 6 `blocks` + 2: three stages of `width`, 2 `width`, 4 `width` channels.

    Args:
        channels: C of the images (N, C, H, W).
        classes: number of logits.
        size: the shorter side of an image in pixels, at least 4 (it is halved twice).
        width: channels of the first stage; 16 gives the paper's net, 272,474 parameters for 10 classes of RGB images
            (269,722 there: its shortcuts have no weights).
        blocks: blocks in a stage; 3 gives depth 20.
        batch_norm: whether convolutions have batch norm; without it they have a bias.

    Raises:
        UserError: images too small, a width below 1, or a number of blocks outside 1..200.
    """
    _check("resnet20", size, 4, width, blocks)
    return ResNet(channels=channels, classes=classes, widths=(width, 2 * width, 4 * width), blocks=blocks,
                  batch_norm=batch_norm)


def resnet18(*, channels: int, classes: int, size: int, width: int = 64, batch_norm: bool = True) -> ResNet:
    """ResNet-18 with the 3 x 3 stem that is usual for CIFAR: four stages of two blocks, `width` .. 8 `width` channels.

    Args:
        channels: C of the images (N, C, H, W).
        classes: number of logits.
        size: the shorter side of an image in pixels, at least 8 (it is halved three times).
        width: channels of the first stage; 64 gives 11,173,962 parameters for 10 classes of RGB images.
        batch_norm: whether convolutions have batch norm; without it they have a bias.

    Raises:
        UserError: images too small, or a width below 1.
    """
    _check("resnet18", size, 8, width, 2)
    return ResNet(channels=channels, classes=classes, widths=(width, 2 * width, 4 * width, 8 * width), blocks=2,
                  batch_norm=batch_norm)


def _check(name: str, size: int, smallest: int, width: int, blocks: int) -> None:
    """Raise UserError for images below `smallest` pixels a side, or a net without channels or blocks."""
    if size < smallest:
        raise UserError(f"{name} needs at least {smallest} pixels a side, found {size}; small_cnn takes 4")
    if width < 1 or not 1 <= blocks <= 200:
        raise UserError(f"{name}: `width >= 1` and `1 <= blocks <= 200` must hold, but got {width=}, {blocks=}")
