"""Models whose answers are known: planes, and a small net with batch norm that has learned something."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

SHAPE = (3, 6, 6)


class Plane(nn.Module):
    """Two classes on either side of a plane: distances are known in closed form."""

    def __init__(self, seed: int = 0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(108, generator=torch.Generator().manual_seed(seed)))

    def forward(self, images):
        side = (images.flatten(1) - 0.5) @ self.weight
        return torch.stack([side, -side], 1)

    def distance(self, images, order):
        """(N,) from each image to the plane, in the norm whose dual is `order`."""
        return ((images.flatten(1) - 0.5) @ self.weight).abs() / torch.linalg.vector_norm(self.weight, ord=order)


class Net(nn.Module):
    """Two convolutions with batch norm, one more that nothing can be folded into, and a residual."""

    def __init__(self, classes: int = 4):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 9, classes)

    def forward(self, images):
        hidden = F.relu(self.norm(self.first(images)))
        hidden = F.relu(self.norm2(self.second(hidden)) + hidden)
        return self.head(F.avg_pool2d(hidden, 2).flatten(1))


@pytest.fixture(scope="session")
def plane():
    return Plane()


@pytest.fixture(scope="session")
def plane_images():
    return 0.5 + 0.1 * (torch.rand(16, *SHAPE, generator=torch.Generator().manual_seed(1)) - 0.5)


@pytest.fixture(scope="session")
def images():
    return torch.rand(48, *SHAPE, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="session")
def net(images):
    """A Net that has memorised labels of `images` (plain descent: the import of torch.optim alone takes seconds)."""
    torch.set_num_threads(1)  # session fixtures come before the one that sees to it for each test
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = Net()
    for _ in range(150):
        loss = F.cross_entropy(model(images), torch.arange(48) % 4)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for weight, gradient in zip(model.parameters(), gradients, strict=True):
                weight -= 0.2 * gradient
    return model.eval()


@pytest.fixture(scope="session")
def labels(net, images):
    """What the net says: all samples are right."""
    with torch.no_grad():
        return net(images).argmax(1)
