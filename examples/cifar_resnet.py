"""A network of one's own: the ResNet-20 of many public CIFAR-10 checkpoints, by the names that their tensors have.

    PYTHONPATH=examples python amun_ray/sweep.py --allow-code cifar_resnet --config mine.yaml --dry-run

with `model: {name: cifar_resnet:resnet20}`, `data: {normalize: imagenet}` and the file under `originals.checkpoints`.
The package's own `resnet20` has convolutions in its shortcuts, so such a checkpoint does not fit it.
"""

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two convolutions and a shortcut without parameters: every second pixel, channels padded with zeros (option A)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.padding = 1 + (before != after), (after - before) // 2
        self.conv1 = nn.Conv2d(before, after, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)

    def forward(self, features: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(features)))))
        shortcut = features[:, :, ::self.stride, ::self.stride]
        return F.relu(out + F.pad(shortcut, (0, 0, 0, 0, self.padding, self.padding)))


class ResNet(nn.Module):
    """(N, channels, H, W) -> logits (N, classes)."""

    def __init__(self, channels: int, classes: int, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16) for _ in range(blocks)))
        self.layer2 = nn.Sequential(Block(16, 32), *(Block(32, 32) for _ in range(blocks - 1)))
        self.layer3 = nn.Sequential(Block(32, 64), *(Block(64, 64) for _ in range(blocks - 1)))
        self.linear = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(images))))))
        return self.linear(features.mean((2, 3)))


def resnet20(*, channels: int, classes: int, size: int) -> nn.Module:
    return ResNet(channels, classes, blocks=3)
