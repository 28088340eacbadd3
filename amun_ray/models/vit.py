"""A small vision transformer (Dosovitskiy et al., ICLR 2021) that trains on images of CIFAR's size from scratch."""

import torch
from torch import Tensor, nn

from amun_ray.base.errors import UserError


class ViT(nn.Module):
    """Patches through a convolution, a class token, learned positions, pre-norm transformer blocks, one linear layer.

    It maps (N, C, H, W) to logits (N, classes), for square images of one size. No batch norm.

    Args:
        channels: C of the images.
        classes: number of logits.
        size: the side of the images in pixels, a multiple of `patch`.
        patch: side of a patch in pixels.
        width: length of a token, a multiple of `heads`.
        depth: transformer blocks.
        heads: of the attention.
        dropout: share of a block's features that is dropped in training, in [0, 1).

    Raises:
        UserError: a size that is no multiple of the patch, or settings that do not fit each other.
    """

    def __init__(self, *, channels: int, classes: int, size: int, patch: int = 4, width: int = 192, depth: int = 6,
                 heads: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        if patch < 1 or size % patch:
            raise UserError(f"vit: the side of the images ({size}) must be a multiple of patch ({patch})")
        if min(width, depth, heads) < 1 or depth > 200 or width % heads:
            raise UserError(f"vit: width must be a multiple of heads, and depth from 1 to 200, but got {width=}, "
                            f"{heads=}, {depth=}")
        if not 0 <= dropout < 1:
            raise UserError(f"vit: `0 <= dropout < 1` must hold, but got {dropout}")
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 2 * width, dropout, activation="gelu", batch_first=True,
                                       norm_first=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.patches(images).flatten(2).transpose(1, 2)
        features = torch.cat([self.token.expand(len(features), -1, -1), features], dim=1) + self.positions
        for block in self.blocks:
            features = block(features)
        return self.linear(self.norm(features[:, 0]))
