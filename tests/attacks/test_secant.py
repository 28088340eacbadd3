"""The secant search: against a plain loop, and on classes and boundaries whose nearest points are known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from amun_ray.attacks import AttackSettings, craft, nearest, secant
from amun_ray.attacks.secant import Secant
from amun_ray.base.status import Status


def plain_secant(model, clean, label, competitors, tolerance, steps=60):
    """`secant` of one image (1, C, H, W) that stays off the ends of [0, 1]: the norm of the nearest wrong point seen,
    the number of looks, and whether a second class was tried, and won."""
    seen = []

    def look(moved, *rivals):
        """Margin and gradient against each rival; None is the strongest other class."""
        point = (clean + moved).requires_grad_()
        logits = model(point)[0]
        ahead = logits.amax() - logits[label]
        seen.append((moved.norm().item(), (ahead > 2e-5 * (logits.amax() - logits.amin())).item()))
        others = sorted((place for place in range(len(logits)) if place != label), key=lambda k: -logits[k].item())
        chosen = [others[0] if rival is None else rival for rival in rivals] or others
        margins = [logits[label] - logits[rival] for rival in chosen]
        return [(rival, margin.item(), torch.autograd.grad(margin, point, retain_graph=True)[0])
                for rival, margin in zip(chosen, margins, strict=True)]

    def away(one, moved):
        return (one[1] - (one[2] * moved).sum().item()) / one[2].norm().item()

    def nearest_wrong():
        return min((norm for norm, wrong in seen if wrong), default=math.inf)

    moved, tried, won = torch.zeros_like(clean), False, False
    (rival, margin, gradient), *rest = sorted(look(moved)[:competitors], key=lambda one: away(one, moved))
    goes_on = rival if competitors > 1 else None
    moved = -1.002 * margin * gradient / gradient.square().sum()
    at = look(moved, goes_on)[0]
    if rest and away(rest[0], 0 * moved) < 1.2 * margin / gradient.norm():
        tried, (second, clean_margin, slope) = True, rest[0]
        trial = -clean_margin * slope / slope.square().sum()
        crossing = [one / (one - two) if two < one else math.inf
                    for one, two in ((margin, at[1]), (clean_margin, look(trial, second)[0][1]))]
        won = crossing[1] * trial.norm() < crossing[0] * moved.norm()
        if won:
            goes_on, moved = second, 1.002 * crossing[1] * trial
            at = look(moved, second)[0]
    taken, waits, pair = 1, tried and not won, None
    while True:
        _, margin, gradient = at
        unit = gradient / gradient.norm()
        pull = (unit * moved).sum() * unit - moved
        newton = pull
        if pair:
            s, t = (flat - (unit * flat).sum() * unit for flat in (moved - pair[0], pair[1] - pull))
            if (s * t).sum() > 0:  # the matrix of BFGS itself, from a multiple of the identity
                s, t, p = s.flatten().double(), t.flatten().double(), pull.flatten().double()
                rho, eye = 1 / (s @ t), torch.eye(len(s), dtype=torch.float64)
                side = eye - rho / 2 * torch.outer(s, t)  # half of the correction
                inverse = (s @ t / (t @ t)).clamp(0.1, 1) * side @ side.T + rho / 2 * torch.outer(s, s)
                newton = (inverse @ p).float().view_as(pull)
        pair = moved, pull
        tau = 0.9 if nearest_wrong() < math.inf or taken <= 12 else 0.0
        bend = tau**2 * (newton * (pull - newton)).sum() / (2 * moved.square().sum())
        onto = moved + tau * newton
        onto = onto - (margin + (gradient * (onto - moved)).sum()) / gradient.square().sum() * gradient
        moved = (1.002 + bend.clamp(0, 0.03)) * onto
        settled = tolerance and not waits and moved.norm() > (1 - tolerance) * nearest_wrong()
        if settled or len(seen) > steps:
            return nearest_wrong(), len(seen), tried, won
        taken, waits = taken + 1, False
        if taken == 2 and goes_on is not None:
            at = min(look(moved)[:2], key=lambda one: away(one, moved) * (0.97 if one[0] == goes_on else 1))
            if at[0] != goes_on:
                goes_on, pair = at[0], None
        else:
            at = look(moved, goes_on)[0]


@pytest.mark.parametrize("competitors", [1, 2, 3])
@pytest.mark.parametrize(("tolerance", "steps"), [(0.0, 6), (0.02, 60), (0.002, 60)])
def test_equals_a_plain_loop(tolerance, steps, competitors, net, images):
    grey = 0.4 + 0.2 * images
    with torch.no_grad():
        labels = net(grey).argmax(1)
    rows = craft(net, grey, labels, settings=AttackSettings(
        name="secant", competitors=competitors, tolerance=tolerance, steps=steps, precision="float32", batch_size=20))
    wanted = [plain_secant(net, grey[row:row + 1], labels[row].item(), competitors, tolerance, steps)
              for row in range(48)]
    best, looks, tried, won = (np.array(column) for column in zip(*wanted, strict=True))
    done = np.isfinite(best)
    assert done.mean() > 0.9
    np.testing.assert_allclose(rows.l2[done], best[done], rtol=1e-4)
    np.testing.assert_array_equal(rows.steps[done], looks[done])
    if competitors > 1:
        assert tried.any()
        assert not tried.all()
        assert (tried & ~won).any()


class Planes(nn.Module):
    """Ten classes with linear logits."""

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(3)
        self.weight, self.bias = torch.randn(10, 12, generator=draw), 0.2 * torch.randn(10, generator=draw)

    def forward(self, images):
        return (images.flatten(1) - 0.5) @ self.weight.T + self.bias


@pytest.mark.parametrize("competitors", [1, 9])
def test_of_many_planes_the_nearest_is_found(competitors):
    model = Planes()
    images = 0.5 + 0.02 * (torch.rand(64, 3, 2, 2, generator=torch.Generator().manual_seed(0)) - 0.5)
    logits = model(images)
    label = logits.argmax(1)
    away = (logits.amax(1, keepdim=True) - logits) / torch.linalg.vector_norm(
        model.weight[label][:, None] - model.weight, dim=2)
    away[torch.arange(64), label] = torch.inf
    rows = craft(model, images, label, settings=AttackSettings(name="secant", competitors=competitors))
    ratio = rows.l2 / away.amin(1).numpy()
    assert ratio.min() > 1 - 1e-4
    if competitors == 9:
        assert ratio.max() < 1.0021  # the overshoot
        assert rows.label.tolist() == away.argmin(1).tolist()
    else:
        assert (ratio > 1.05).any()  # the strongest class is not always the nearest


class Sides(nn.Module):
    """Class 0 between two boundaries at right angles. The first is at 0.8 of the middle, or at 0.5 if it is `even`, and
    seems to be at 0.5; the second, flat, is at `away`."""

    def __init__(self, away, even):
        super().__init__()
        self.away, self.curve = away, 0.0 if even else 0.3 / 0.64

    def forward(self, images):
        from_middle = images.flatten(1) - 0.5
        first, second = from_middle[:, :6].sum(1) / 6**0.5, from_middle[:, 6:].sum(1) / 6**0.5
        return torch.stack([torch.zeros_like(first), first - 0.5 - self.curve * first.square(), second - self.away], 1)


@pytest.mark.parametrize(("away", "even", "distance", "label", "looks", "backward"), [
    (0.55, False, 0.55, 2, 4, 4),  # tried, and nearer
    (0.55, True, 0.5, 1, 4, 5),  # tried, and not nearer
    (0.65, False, 0.65, 2, 6, 8),  # too far to be tried, but nearer where it is compared again
    (0.79, False, 0.8, 1, 5, 7),  # nearer there, but hardly
])
def test_a_second_class_that_is_nearly_as_near_is_tried(away, even, distance, label, looks, backward):
    rows = craft(Sides(away, even), torch.full((2, 3, 2, 2), 0.5), torch.zeros(2, dtype=torch.int64),
                 settings=AttackSettings(name="secant", batch_size=1, tolerance=0.001))
    assert rows.l2 == pytest.approx([distance] * 2, rel=0.0025)
    assert rows.label.tolist() == [label] * 2
    assert rows.steps.tolist() == [looks] * 2
    assert rows.cost.forward == 2 * looks
    assert rows.cost.backward == 2 * backward  # two at the clean image and where compared again, none at the trial


class Boxed(nn.Module):
    """As `Sides`, but the second boundary bends away too, and no image may leave the box."""

    def forward(self, images):
        assert images.amin() >= 0
        assert images.amax() <= 1
        logits = Sides(0.713, even=False)(images)
        second = logits[:, 2] + 0.713
        return torch.stack([logits[:, 0], logits[:, 1], second - 0.713 - 0.1 * second.square()], 1)


def test_the_second_class_is_searched_inside_the_box():
    images = torch.full((2, 12), 0.5)
    images[:, 6] = 0.9  # the first point on the boundary of class 2 is at 1 there, and is not far enough
    rows = craft(Boxed(), images.view(2, 3, 2, 2), torch.zeros(2, dtype=torch.int64),
                 settings=AttackSettings(name="secant"))
    assert rows.label.tolist() == [2, 2]


@pytest.mark.parametrize("kappa", [0.3, 3.0])
def test_the_wrong_class_leads_by_kappa(kappa, plane, plane_images):
    logits = plane(plane_images).detach()
    rows = craft(plane, plane_images, logits.argmax(1), settings=AttackSettings(name="secant", kappa=kappa))
    wanted = (2 * logits.amax(1) + kappa) / (2 * plane.weight.detach().norm())  # the margin is twice a logit
    np.testing.assert_allclose(rows.l2, wanted, rtol=0.0031)
    ahead = plane(torch.from_numpy(rows.image)).detach().abs().mul(2).amax(1)
    assert (ahead >= kappa).all()


class Ball(nn.Module):
    """Class 1 inside a ball about 1/2 of this radius, by the distances along axes of different lengths."""

    def __init__(self, axes):
        super().__init__()
        self.axes = axes

    def forward(self, images):
        outside = ((images.flatten(1) - 0.5).square() * self.axes).sum(1) - 1
        return torch.stack([outside, -outside], 1)


def test_steps_are_short_where_the_boundary_turns_with_them():
    """From outside of a small ball the plain projection steps past the nearest point, farther each time."""
    axes = torch.full((12,), 100.0)
    images = 0.5 + 0.8 * (torch.rand(32, 3, 2, 2, generator=torch.Generator().manual_seed(0)) - 0.5)
    wanted = (images - 0.5).flatten(1).norm(dim=1) - 0.1
    axes[0] = 60.0  # so that the first gradient does not point at the nearest point
    found = secant(Ball(axes), images, torch.zeros(32, dtype=torch.int64), tolerance=0.0, steps=14)
    assert found.found.all()
    assert (found.l2 <= 1.01 * wanted).all()
    plain = nearest(Ball(axes), images, torch.zeros(32, dtype=torch.int64), polish=12)
    assert found.l2.mean() < plain.l2.mean()


def test_after_twelve_points_that_are_right_the_next_is_straight_ahead():
    rows = Secant().begin(torch.full((3, 2), 0.5), torch.zeros(3, dtype=torch.int64))
    rows.taken, rows.flipped = torch.tensor([12, 13, 13]), torch.tensor([False, False, True])
    step = rows.step = torch.tensor([[0.1, 0.2]]).repeat(3, 1)
    move, bend = Secant()._along(rows, torch.tensor([[-1.0, 0.0]]).repeat(3, 1), step, torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(move, torch.tensor([[0.0, -0.18], [0.0, 0.0], [0.0, -0.18]]))
    assert bend.tolist() == [0, 0, 0]


@pytest.mark.parametrize("seed", range(8))
def test_a_class_that_the_box_hides_costs_no_flip(seed):
    """On small random networks the box stops many; who always goes for the strongest class flips as many."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    images = torch.rand(40, 3, 2, 2)
    labels = net(images).argmax(1)
    chosen, strongest = (secant(net, images, labels, competitors=count).found for count in (4, 1))
    assert chosen[strongest].all()


def test_what_two_classes_leave_is_one_competitor(plane, plane_images):
    labels = plane(plane_images).argmax(1)
    one, many = (secant(plane, plane_images, labels, competitors=count) for count in (1, 9))
    torch.testing.assert_close(one.images, many.images)


def test_compiled_it_finds_the_same(net, images, labels, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    plain, fixed = (craft(net, images, labels, settings=AttackSettings(name="secant", batch_size=20, compile=compiled))
                    for compiled in (False, True))
    np.testing.assert_allclose(plain.image, fixed.image, rtol=0, atol=2e-5)
    assert (plain.status == Status.FLIPPED).all()
    assert fixed.cost.forward == fixed.cost.backward  # a pass goes back once
    further = (fixed.cost.forward - plain.cost.forward) / len(images)
    assert 2 < further < 3.1  # for each of 3 classes at the clean image, of 2 on the way


def test_a_smaller_tolerance_goes_on_longer_and_ends_nearer(net, images, labels):
    first, *others = (craft(net, images, labels, settings=AttackSettings(name="secant", tolerance=tolerance))
                      for tolerance in (1.0, 0.01, 0.0001))
    assert (first.status == Status.FLIPPED).all()
    for longer in others:
        assert (longer.l2 <= first.l2 * (1 + 1e-6)).all()
        assert (longer.steps >= first.steps).all()
        assert longer.l2.mean() < first.l2.mean()
        assert longer.cost.forward > first.cost.forward
        first = longer


def test_at_most_this_many_looks(net, images, labels):
    rows = craft(net, images, labels, settings=AttackSettings(name="secant", tolerance=0.0, steps=5))
    assert rows.steps.max() == rows.steps.min() == 6
    assert rows.cost.forward == 6 * 48
    assert rows.cost.backward <= 8 * 48  # 3 at the clean image, 1, 2 where compared again, 1, 1, and none at the end


def test_it_is_nearer_than_nearest_for_a_look_more(net, images, labels):
    ours, theirs = (craft(net, images, labels, settings=AttackSettings(name=name)) for name in ("secant", "nearest"))
    assert ours.l2.mean() < 0.99 * theirs.l2.mean()
    assert ours.cost.forward < theirs.cost.forward + 1.5 * len(images)
