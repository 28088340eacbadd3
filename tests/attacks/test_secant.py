"""The secant search: against a plain loop, and on classes and boundaries whose nearest points are known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from amun_ray.attacks import AttackSettings, craft, nearest, secant
from amun_ray.attacks.look import flat
from amun_ray.base.status import Status


def plain_secant(model, clean, label, competitors, polish):
    """`secant` of one image (1, C, H, W) that stays off the ends of [0, 1]: the norm of the nearest wrong point seen,
    the number of looks, and whether a second class was tried, and won."""
    seen = []

    def look(moved, rival=None, counted=True):
        point = (clean + moved).requires_grad_()
        logits = model(point)[0]
        others = sorted((place for place in range(len(logits)) if place != label), key=lambda k: -logits[k].item())
        margin = logits[label] - logits[others[0] if rival is None else rival]
        if counted:
            seen.append((moved.norm().item(), logits.argmax().item() != label))
        return margin.item(), torch.autograd.grad(margin, point)[0], others

    start = torch.zeros_like(clean)
    strongest = look(start)[2]
    compared = [(rival, *look(start, rival, counted=False)[:2]) for rival in strongest[:competitors]]
    if competitors == 1:
        compared = [(None, *look(start, counted=False)[:2])]
    first, *rest = sorted(compared, key=lambda one: one[1] / one[2].norm().item())
    rival, margin, gradient = first
    moved = -1.003 * margin * gradient / gradient.square().sum()
    at, *bend = look(moved, rival)[:2], None
    tried = won = False
    if rest and rest[0][1] / rest[0][2].norm() < 1.2 * margin / gradient.norm():
        tried, (second, clean_margin, slope) = True, rest[0]
        trial = -clean_margin * slope / slope.square().sum()
        crossing = [one / (one - two) if two < one else math.inf
                    for one, two in ((margin, at[0]), (clean_margin, look(trial, second)[0]))]
        won = crossing[1] * trial.norm() < crossing[0] * moved.norm()
        if won:
            rival, moved = second, 1.003 * crossing[1] * trial
            at = look(moved, rival)[:2]
    for step in range(1, polish + 1):
        margin, gradient = at
        along, square = (gradient * moved).sum(), gradient.square().sum()
        pull, length = along / square * gradient - moved, 1.0
        if step > 1:
            unit = gradient / square.sqrt()
            s, q = (now - before for now, before in zip((moved, pull), bend, strict=True))
            s, q = s - (unit * s).sum() * unit, q - (unit * q).sum() * unit
            length = -(s * q).sum().item() / q.square().sum().item()
            length = min(max(length, 0.2), 1.0) if length > 0 else 1.0
        bend = moved, pull
        tau = 0.9 * length if step < polish else 0.0
        onto = (1 - tau) * moved - ((1 - tau) * along - (along - margin)) / square * gradient
        moved = (1.003 if step < polish else 1.001) * onto
        at = look(moved, rival)[:2]
    return min((norm for norm, wrong in seen if wrong), default=math.inf), len(seen), tried, won


@pytest.mark.parametrize("competitors", [1, 2, 3])
@pytest.mark.parametrize("polish", [2, 5])
def test_equals_a_plain_loop(polish, competitors, net, images):
    grey = 0.4 + 0.2 * images
    with torch.no_grad():
        labels = net(grey).argmax(1)
    rows = craft(net, grey, labels, settings=AttackSettings(name="secant", competitors=competitors, polish=polish,
                                                            precision="float32", batch_size=20))
    wanted = [plain_secant(net, grey[row:row + 1], labels[row].item(), competitors, polish) for row in range(48)]
    best, looks, tried, won = (np.array(column) for column in zip(*wanted, strict=True))
    done = np.isfinite(best)  # the plain loop stops where no point was wrong
    assert done.mean() > 0.9
    np.testing.assert_allclose(rows.l2[done], best[done], rtol=1e-3)
    np.testing.assert_array_equal(rows.steps[done], looks[done])
    if competitors > 1:
        assert tried.any()
        assert not tried.all()
        assert (tried & ~won).any()
    assert rows.cost.backward / 48 < polish + 1 + competitors


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
        assert np.median(ratio) < 1.0011  # the last overshoot
        assert ratio.max() < 1.0031  # the one before, where the last is lost in float noise
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


@pytest.mark.parametrize(("away", "even", "distance", "label", "looks"), [
    (0.55, False, 0.55, 2, 9),  # tried, and nearer
    (0.55, True, 0.5, 1, 8),  # tried, and not nearer
    (0.65, False, 0.8, 1, 7),  # too far to be tried
])
def test_a_second_class_that_is_nearly_as_near_is_tried(away, even, distance, label, looks):
    rows = craft(Sides(away, even), torch.full((2, 3, 2, 2), 0.5), torch.zeros(2, dtype=torch.int64),
                 settings=AttackSettings(name="secant", batch_size=1))
    assert rows.l2 == pytest.approx([distance] * 2, rel=0.0015)
    assert rows.label.tolist() == [label] * 2
    assert rows.steps.tolist() == [looks] * 2
    assert rows.cost.forward == 2 * looks
    assert rows.cost.backward == 2 * (looks - 1 - (looks > 7) + 1)  # two at the clean image, none at trial and end


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
    found = secant(Ball(axes), images, torch.zeros(32, dtype=torch.int64), polish=12)
    assert found.found.all()
    assert (found.l2 <= 1.01 * wanted).all()
    plain = nearest(Ball(axes), images, torch.zeros(32, dtype=torch.int64), polish=12)
    assert found.l2.mean() < plain.l2.mean()


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
    assert fixed.cost.forward == plain.cost.forward + 2 * len(images)  # each competitor's pass is its own: 3 classes


def test_without_polish_the_first_flip_is_kept(net, images, labels):
    first, polished = (secant(net, images, labels, polish=polish) for polish in (0, 5))
    assert first.found.all()
    assert (first.l2 >= polished.l2 - 1e-6).all()
    assert flat(first.images - images).norm(dim=1).mean() > 1.02 * polished.l2.mean()


def test_it_is_nearer_than_nearest_for_a_look_more(net, images, labels):
    ours, theirs = (craft(net, images, labels, settings=AttackSettings(name=name)) for name in ("secant", "nearest"))
    assert ours.l2.mean() < 0.99 * theirs.l2.mean()
    assert ours.cost.forward < theirs.cost.forward + 1.5 * len(images)
