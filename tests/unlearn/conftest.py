import numpy as np
import pytest
import torch
from torch import nn

from amun_ray.training.parts import place
from amun_ray.unlearn import Sets


@pytest.fixture
def model():
    """A small network with batch norm on (1, 6, 6) images of 4 classes; its statistics are not the initial ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4))
        net(torch.rand(64, 1, 6, 6))
    return net


@pytest.fixture
def sets():
    """120 samples of D_R, 30 of D_F, and as many of D_A under other labels."""
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (150, 1, 6, 6), np.uint8), rng.integers(0, 4, 150)
    moved = np.clip(pixels[120:] / np.float32(255) + 0.05, 0, 1).astype(np.float32)
    return Sets(retain=place(pixels[:120], labels[:120], augment=True),
                forget=place(pixels[120:], labels[120:], augment=True),
                adversarial=place(moved, (labels[120:] + 1) % 4, augment=False))
