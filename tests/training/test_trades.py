"""TRADES against numbers by hand, and against the loop of its authors."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from amun_ray.base.errors import UserError
from amun_ray.base.seeds import derive
from amun_ray.training.augment import Augmentation
from amun_ray.training.batches import batches
from amun_ray.training.cost import Cost
from amun_ray.training.loop import fit
from amun_ray.training.parts import place
from amun_ray.training.recipe import RECIPES, Recipe
from amun_ray.training.trades import attack, trades

WEIGHTS = torch.tensor([3.0, -4.0])  # of the first logit; the second one is 0


def plane(images: torch.Tensor) -> torch.Tensor:
    first = images.flatten(1) @ WEIGHTS
    return torch.stack([first, torch.zeros_like(first)], 1)


def image(*pixels: float) -> torch.Tensor:
    return torch.tensor(pixels).reshape(1, 1, 1, -1)


def recipe(**options) -> Recipe:
    return Recipe(**({"lr": 0.1, "epochs": 1, "batch_size": 16, "loss": "trades"} | options))


@pytest.mark.parametrize(("start", "sign"), [((3.0, -4.0), 1), ((-3.0, 4.0), -1)])
@pytest.mark.parametrize(("norm", "direction"), [("linf", (1, -1)), ("l2", (0.6, -0.8))])
def test_the_attack_goes_straight_away_from_the_clean_prediction(norm, direction, start, sign):
    """Of two classes behind a plane the divergence grows on both sides: which one, the first noise decides."""
    found = attack(plane, image(0.5, 0.5), image(*start), norm=norm, epsilon=0.03, steps=10, step=0.01)
    torch.testing.assert_close(found, 0.5 + sign * 0.03 * image(*direction))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_attack_stays_in_the_pixel_range(norm):
    found = attack(plane, image(1.0, 0.5), image(3.0, -4.0), norm=norm, epsilon=0.03, steps=10, step=0.01)
    torch.testing.assert_close(found, image(1.0, 0.47))  # the first pixel is as bright as it can be


def test_without_a_slope_an_l2_attack_goes_on_along_its_noise():
    found = attack(lambda images: 0 * images.flatten(1), image(0.5, 0.5), image(3.0, 4.0), norm="l2", epsilon=0.1,
                   steps=10, step=0.02)
    torch.testing.assert_close(found, image(0.56, 0.58))


def test_the_loss_by_hand(monkeypatch):
    """x = (0.5, 0.5) has the logit -0.5, and x' = x +- 0.03 (1, -1) those that are 0.21 away: KL(x || x') by hand."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(1, 1, 1, 2, generator=torch.Generator().manual_seed(derive(3, "trades")))
    moved = -0.5 + 0.21 * np.sign((noise.flatten() @ WEIGHTS).item())
    p, q = (1 / (1 + np.exp(-logit)) for logit in (-0.5, moved))
    divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    cost = Cost()
    objective = trades(nn.Identity(), recipe(epsilon=0.03, beta=5.0), generator=generator, cost=cost)
    loss = objective(plane, image(0.5, 0.5), torch.tensor([0]))
    assert loss.item() == pytest.approx(-np.log(p) + 5 * divergence, rel=1e-5)
    assert divergence > 0.004
    assert (cost.forward, cost.backward) == (12, 11)  # and the loop counts one more of each


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.ReLU(), nn.Flatten(),
                             nn.Linear(16, 3))


def theirs(model: nn.Module, x: torch.Tensor, y: torch.Tensor, noise: torch.Tensor, norm: str) -> torch.Tensor:
    """The loss as its authors write it (github.com/yaodongyu/TRADES, MIT), beta 6, epsilon 0.1, 10 steps."""
    criterion = nn.KLDivLoss(reduction="sum")
    model.eval()
    delta = 0.001 * noise
    for _ in range(10):
        delta = delta.detach().requires_grad_()
        criterion(F.log_softmax(model(x + delta), 1), F.softmax(model(x), 1)).backward()
        if norm == "linf":
            adv = (x + delta + 0.02 * delta.grad.sign()).detach()
            delta = torch.min(torch.max(adv, x - 0.1), x + 0.1).clamp(0, 1) - x
        else:
            length = delta.grad.view(len(x), -1).norm(p=2, dim=1).view(-1, 1, 1, 1)
            delta = ((delta + 0.02 * delta.grad / length).detach() + x).clamp(0, 1) - x
            delta = delta.renorm(p=2, dim=0, maxnorm=0.1)
    model.train()
    clean = model(x)
    model.zero_grad()
    return F.cross_entropy(clean, y) + 6 / len(x) * criterion(F.log_softmax(model(x + delta), 1), F.softmax(clean, 1))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_training_equals_the_loop_of_its_authors(norm):
    rng = np.random.default_rng(0)
    part = place(rng.integers(0, 256, (32, 1, 4, 4), np.uint8), rng.integers(0, 3, 32), augment=False)
    ours, plain = net(), net()
    list(fit(ours, [part], recipe=recipe(norm=norm, epsilon=0.1), augmentation=Augmentation(),
             generator=torch.Generator().manual_seed(5)))
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    noise = torch.Generator().manual_seed(derive(5, "trades"))
    for images, labels in batches([part], batch_size=16, augmentation=Augmentation(),
                                  generator=torch.Generator().manual_seed(5)):
        loss = theirs(plain, images.contiguous(), labels, torch.randn(images.shape, generator=noise), norm)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for (name, ours_value), plain_value in zip(ours.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours_value, plain_value, msg=lambda text, name=name: f"{name}: {text}")
    assert ours[1].num_batches_tracked == 4  # two batches, clean and changed: the attack left no trace
    assert not torch.equal(ours[0].weight, copy.deepcopy(net())[0].weight)


@pytest.mark.parametrize(("name", "value", "rule"), [
    ("epsilon", -0.1, "greater than 0"), ("epsilon", 0, "greater than 0"), ("beta", -1, ">= 0"),
    ("norm", "l1", "'linf' or 'l2'"), ("inner_steps", 0, ">= 1"), ("loss", "trade", "'cross_entropy' or 'trades'")])
def test_a_value_out_of_range_is_named(name, value, rule):
    with pytest.raises(UserError, match=rf"{name} must be .*but got {value!r}"):
        recipe(**{name: value})


def test_settings_of_trades_need_trades():
    with pytest.raises(UserError, match="epsilon is a setting of TRADES: give loss: trades beside it, or leave it out"):
        Recipe(lr=0.1, epochs=1, epsilon=0.05)
    assert RECIPES["trades"].loss == "trades"
