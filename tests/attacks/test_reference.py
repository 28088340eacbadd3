"""The attacks against independent implementations: plain loops written here, and libraries where they are installed."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import nn
from torch.nn import functional as F

from amun_ray.attacks import AttackSettings, craft, ddn, nearest, pgd_l2, secant
from amun_ray.attacks.adversarial import attacked
from amun_ray.attacks.ddn import Ddn
from amun_ray.attacks.look import Capacity, Looker, flat
from amun_ray.attacks.nearest import Nearest
from amun_ray.attacks.slots import run
from amun_ray.base.status import Status

RADIUS = 0.08


def gradient_of_loss(model, images, labels):
    images = images.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(images), labels, reduction="sum"), images)[0]


def step_l2(model, clean, point, label, radius):
    """One image (1, C, H, W): a step of a tenth of the radius, back into ball and box."""
    gradient = gradient_of_loss(model, point, label)
    point = point + 0.1 * radius * gradient / gradient.norm()
    moved = point - clean
    return (clean + moved * min(1.0, radius / moved.norm().item())).clamp(0, 1)


def test_pgd_l2_equals_a_plain_loop(net, images, labels):
    found = pgd_l2(net, images[:8], labels[:8], radius=RADIUS, steps=20, objective="cross_entropy")
    for row in range(8):
        clean, label = images[row:row + 1], labels[row:row + 1]
        point = clean
        for _ in range(20):
            point = step_l2(net, clean, point, label, RADIUS)
        torch.testing.assert_close(found.images[row:row + 1], point, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("start", "stop"), [("clean", "full"), ("warm", "first_flip")])
def test_algorithm_1_equals_a_plain_loop(start, stop, net, images, labels):
    settings = AttackSettings(name="pgd_l2", start=start, stop=stop, eps_init=0.01, steps=10,
                              objective="cross_entropy", precision="float32")
    rows = craft(net, images[:8], labels[:8], settings=settings)
    assert (rows.status == Status.FLIPPED).all()
    for row in range(8):
        clean, label = images[row:row + 1], labels[row:row + 1]
        point, radius, right = clean, 0.01, True
        while right:
            point = clean if start == "clean" else point
            for _ in range(10):
                point = step_l2(net, clean, point, label, radius)
                right = bool((net(point).argmax(1) == label).all())
                if stop == "first_flip" and not right:
                    break
            radius *= 2
        assert rows.eps[row] == pytest.approx(radius / 2)
        np.testing.assert_allclose(rows.image[row], point[0], rtol=0, atol=2e-5)


def test_ddn_equals_a_plain_loop(net, images, labels):
    steps, gamma = 30, 0.05
    found = attacked(Ddn(steps=steps, eps_init=1.0, gamma=gamma, objective="cross_entropy"), net, images[:8],
                     labels[:8])
    for row in range(8):
        clean, label = images[row:row + 1], labels[row:row + 1]
        point, norm, best = clean, 1.0, math.inf
        for step in range(steps + 1):
            wrong = bool((net(point).argmax(1) != label).all())
            best = min(best, (point - clean).norm().item()) if wrong else best
            gradient = gradient_of_loss(net, point, label)
            length = 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
            moved = point - clean + length * gradient / gradient.norm()
            norm *= 1 - gamma if wrong else 1 + gamma
            point = (clean + norm * moved / moved.norm()).clamp(0, 1)
        assert found.l2[row].item() == pytest.approx(best, rel=1e-3)


def test_pgd_l2_agrees_with_torchattacks(net, images, labels):
    torchattacks = pytest.importorskip("torchattacks", reason="torchattacks comes with the extra `benchmarks`")
    theirs = torchattacks.PGDL2(net, eps=RADIUS, alpha=0.1 * RADIUS, steps=50, random_start=False)(images, labels)
    ours = pgd_l2(net, images, labels, radius=RADIUS, objective="cross_entropy").images
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_ddn_agrees_with_foolbox(net, images, labels):
    foolbox = pytest.importorskip("foolbox", reason="foolbox comes with the extra `benchmarks`")
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    _, theirs, found = foolbox.attacks.DDNAttack(init_epsilon=1.0, steps=100)(model, images, labels, epsilons=None)
    ours = attacked(Ddn(steps=100, eps_init=1.0, gamma=0.05, objective="cross_entropy"), net, images, labels)
    assert found.all()
    distance = (theirs - images).flatten(1).norm(dim=1)
    assert ours.l2.mean().item() == pytest.approx(distance.mean().item(), rel=0.02)


class Watched(Nearest):
    """`nearest`, of one image, with every point it looks at and whether the model is wrong there."""

    def advance(self, rows, look):
        self.seen.append((rows.point.clone(), bool(look.predicted != rows.label)))
        return super().advance(rows, look)


def test_nearest_returns_the_nearest_wrong_point_it_has_seen(net, images, labels):
    looker, turned_back = Looker(net, (3, 6, 6), Capacity(1)), 0
    for row in range(24):
        clean, watched = flat(images[row:row + 1]), Watched(steps=60, polish=6, kappa=0.0)
        object.__setattr__(watched, "seen", [])
        found = run(watched, looker, clean, labels[row:row + 1], slots=1)
        wrong = [((point - clean).norm().item(), point) for point, is_wrong in watched.seen if is_wrong]
        distance, nearest_seen = min(wrong, key=lambda pair: pair[0])
        assert found.eps.item() == pytest.approx(distance)
        torch.testing.assert_close(found.best, nearest_seen, rtol=0, atol=0)
        turned_back += wrong[-1][0] > distance
    assert turned_back >= 3  # the last wrong point was farther, and was not kept


def plain_nearest(model, clean, label, polish=4):
    """`nearest` of one image (1, C, H, W) that stays off the ends of [0, 1], where the step has a closed form: the norm
    of the nearest wrong point seen, and the number of looks."""
    def look(point):
        point = point.detach().requires_grad_()
        logits = model(point)[0]
        margin = logits[label] - torch.cat([logits[:label], logits[label + 1:]]).max()
        return margin.item(), torch.autograd.grad(margin, point)[0], margin.item() < 0

    margin, gradient, _ = look(clean)
    moved, best, polished, looks = torch.zeros_like(clean), math.inf, -1, 1
    while polished < polish:
        tau = 0 if polished < 0 else 0.7 - 0.6 * polished / (polish - 1)
        along = (gradient * moved).sum()
        length = ((1 - tau) * along - (along - margin)) / gradient.square().sum()
        moved = 1.01 * ((1 - tau) * moved - length * gradient)
        margin, gradient, wrong = look(clean + moved)
        looks += 1
        best = min(best, moved.norm().item()) if wrong else best
        polished += wrong or polished >= 0
    return best, looks


def test_nearest_equals_a_plain_loop(net, images):
    grey = 0.4 + 0.2 * images[:24]
    with torch.no_grad():
        labels = net(grey).argmax(1)
    rows = craft(net, grey, labels, settings=AttackSettings(precision="float32"))
    wanted = [plain_nearest(net, grey[row:row + 1], labels[row].item()) for row in range(24)]
    np.testing.assert_allclose(rows.l2, [best for best, _ in wanted], rtol=1e-3)
    assert rows.steps.tolist() == [looks for _, looks in wanted]


def test_nearest_is_nearer_than_ddn_for_a_tenth_of_the_passes(net, images, labels):
    rows = craft(net, images, labels, settings=AttackSettings())
    assert (rows.status == Status.FLIPPED).all()
    assert rows.cost.backward / len(images) < 9
    assert rows.l2.mean() < 1.03 * ddn(net, images, labels, steps=100).l2.mean().item()


class Ellipsoid(nn.Module):
    """Class 1 outside of the ellipsoid `sum of axes * (x - 1/2)^2 = 1`."""

    def __init__(self, axes):
        super().__init__()
        self.axes = nn.Parameter(axes)

    def forward(self, images):
        inside = ((images.flatten(1) - 0.5).square() * self.axes).sum(1)
        return torch.stack([torch.ones_like(inside), inside], 1)


def distance_to_ellipsoid(axes, point):
    """From an inner point to the surface, by Lagrange: the nearest point is point / (1 - l axes)."""
    def beyond(multiplier):
        return (axes * (point / (1 - multiplier * axes)) ** 2).sum() - 1
    multiplier = brentq(beyond, 0, (1 - 1e-9) / axes.max())
    return np.linalg.norm(point / (1 - multiplier * axes) - point)


def test_the_searches_come_near_the_nearest_point_of_a_curved_boundary():
    axes = torch.linspace(4.8, 16, 12)
    images = 0.5 + 0.1 * (torch.rand(64, 3, 2, 2, generator=torch.Generator().manual_seed(0)) - 0.5)
    wanted = np.array([distance_to_ellipsoid(axes.double().numpy(), point)
                       for point in (images.flatten(1) - 0.5).double().numpy()])
    for attack, mean, most in ((nearest, 1.03, 1.15), (secant, 1.02, 1.08), (ddn, 1.002, 1.01)):  # 7 looks, 7, 100
        found = attack(Ellipsoid(axes), images, torch.zeros(64, dtype=torch.int64))
        ratio = (found.images - images).flatten(1).norm(dim=1).detach().numpy() / wanted
        assert found.found.all()
        assert ratio.min() > 1 - 1e-4
        assert ratio.mean() < mean, attack
        assert ratio.max() < most, attack
