"""The copies that are attacked: folding changes nothing but the time, and is given up where it would."""

import pytest
import torch
from torch import nn

from amun_ray.attacks.frozen import folded, frozen


def batch_norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_folding_removes_every_batch_norm_after_a_convolution(net, images):
    fast = folded(frozen(net), images[:1])
    assert batch_norms(net) == 2
    assert batch_norms(fast) == 0
    torch.testing.assert_close(fast(images), net(images), rtol=1e-4, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    assert not fast.training


class Blocks(nn.Module):
    """Convolution and batch norm, read the way `kind` says."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.conv, self.norm = kind, nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.norm.running_mean.fill_(0.3)

    def forward(self, images):
        hidden = self.conv(images)
        found = self.norm(hidden)
        if self.kind == "read twice":
            found = found + hidden
        if self.kind == "called twice":
            found = self.norm(self.conv(found))
        if self.kind == "branches" and images.sum() > 0:
            found = 2 * found
        if self.kind == "norm first":
            found = self.conv(self.norm(images))
        return found.flatten(1)


@pytest.mark.parametrize("kind", ["read twice", "called twice", "branches", "norm first"])
def test_what_cannot_be_folded_stays_as_it_is(kind, images):
    model = Blocks(kind).eval()
    fast = folded(frozen(model), images[:1])
    assert batch_norms(fast) == 1
    torch.testing.assert_close(fast(images), model(images), rtol=1e-4, atol=1e-4)


def test_a_model_that_lives_by_a_hook_is_not_folded(images):
    model = Blocks("plain").eval()
    model.register_forward_hook(lambda module, inputs, output: 3 * output)
    torch.testing.assert_close(folded(frozen(model), images[:1])(images), model(images), rtol=1e-4, atol=1e-4)


def test_batch_norm_without_statistics_of_its_own_is_not_folded(images):
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten()).eval()
    torch.testing.assert_close(folded(frozen(model), images[:2])(images), model(images), rtol=1e-4, atol=1e-4)


def test_frozen_is_a_copy(net):
    copy = frozen(net)
    copy.head.weight.data.zero_()
    assert net.head.weight.abs().sum() > 0
