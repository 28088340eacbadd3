"""Every attack against a plane: never closer than the boundary, and within the attack's factor of it."""

import numpy as np
import pytest
import torch
from torch import nn

from amun_ray.attacks import (
    ATTACKS,
    AttackSettings,
    calibrate,
    craft,
    ddn,
    fast_fgsm,
    fgsm,
    nearest,
    pgd_l2,
    pgd_linf,
    secant,
)
from amun_ray.attacks.look import Capacity, Looker, flat
from amun_ray.attacks.nearest import Nearest
from amun_ray.attacks.slots import run
from amun_ray.attacks.verify import shrink
from amun_ray.base.status import Status

# attack -> (settings, order of the norm it measures in, how many times the distance it may go)
TWICE = 2.001  # the radius doubles
WITHIN = {
    "nearest": ({}, 2, 1.011),  # the overshoot
    "secant": ({}, 2, 1.0021),  # the overshoot
    "pgd_l2": ({"eps_init": 1e-3, "objective": "cross_entropy"}, 2, TWICE),
    "pgd_linf": ({"eps_init": 1e-4}, torch.inf, TWICE),
    "fgsm": ({"eps_init": 1e-4}, torch.inf, TWICE),
    "fast_fgsm": ({"eps_init": 1e-4}, torch.inf, 4),  # a restart begins at a random offset of its larger eps
    "ddn": ({"steps": 200}, 2, 1.06),  # the norm hovers about the boundary in steps of 5 %
}


def dual(order):
    return 2 if order == 2 else 1


@pytest.mark.parametrize("name", ATTACKS)
def test_lands_just_past_the_plane(name, plane, plane_images):
    settings, order, factor = WITHIN[name]
    labels = plane(plane_images).argmax(1)
    rows = craft(plane, plane_images, labels, settings=AttackSettings(name=name, **settings))
    assert (rows.status == Status.FLIPPED).all()
    moved = torch.from_numpy(rows.image) - plane_images
    length = torch.linalg.vector_norm(moved.flatten(1), ord=order, dim=1)
    wanted = plane.distance(plane_images, dual(order)).detach()
    assert (length >= 0.9999 * wanted).all()
    assert (length <= factor * wanted).all()
    assert (rows.eps >= 0.999 * length.numpy()).all()


@pytest.mark.parametrize(("attack", "order"), [(pgd_l2, 2), (pgd_linf, torch.inf), (fgsm, torch.inf)])
def test_each_image_has_its_own_radius(attack, order, plane, plane_images):
    labels, wanted = plane(plane_images).argmax(1), plane.distance(plane_images, dual(order)).detach()
    enough = torch.arange(16) % 2 == 0
    found = attack(plane, plane_images, labels, radius=wanted * torch.where(enough, 1.01, 0.99))
    assert torch.equal(found.found, enough)
    assert torch.equal(found.labels != labels, enough)
    torch.testing.assert_close(found.l2, (found.images - plane_images).flatten(1).norm(dim=1))


@pytest.mark.parametrize("attack", [nearest, secant, ddn, fast_fgsm])
def test_attacks_without_a_radius_are_functions_of_a_batch_too(attack, plane, plane_images):
    found = attack(plane, plane_images, plane(plane_images).argmax(1))
    assert found.found.all()
    assert (found.l2 >= 0.9999 * plane.distance(plane_images, 2)).all()


class Sum(nn.Module):
    """Class 1 where the sum of the pixels exceeds `bound`."""

    def __init__(self, bound):
        super().__init__()
        self.bound = bound

    def forward(self, images):
        total = images.flatten(1).sum(1) - self.bound
        return torch.stack([-total, total], 1)


def test_nearest_respects_the_box_inside_its_step():
    # 8 pixels stand at 1 and cannot rise; the other 8, at 0.5, must rise by 1/8 each for the sum 12 to become 13
    image = torch.cat([torch.ones(8), torch.full((8,), 0.5)]).view(1, 1, 4, 4)
    found = nearest(Sum(13.0), image, torch.tensor([0]))
    assert found.found.all()
    assert found.images.amax() <= 1
    assert found.l2.item() == pytest.approx(8**0.5 / 8, rel=0.012)


def test_eps_is_the_first_doubling_that_reaches_the_boundary(plane, plane_images):
    wanted = plane.distance(plane_images, 2).detach().numpy()
    rows = craft(plane, plane_images, plane(plane_images).argmax(1),
                 settings=AttackSettings(name="pgd_l2", eps_init=1e-3))
    np.testing.assert_allclose(rows.eps, 1e-3 * 2 ** np.ceil(np.log2(wanted / 1e-3)), rtol=1e-5)


def test_calibration_takes_the_radius_that_reaches_95_percent(plane):
    # 40 images at known distances: one far, one farther; 95 % is 38 of 40
    direction = (plane.weight / plane.weight.norm()).detach().view(3, 6, 6)
    distances = torch.tensor([0.006] * 37 + [0.03, 0.2, 0.5])
    images = 0.5 + distances.view(-1, 1, 1, 1) * direction
    labels = plane(images).argmax(1)
    settings = AttackSettings(name="pgd_l2")
    assert calibrate(plane, images, labels, settings=settings) == pytest.approx(0.032)
    with_wrong = torch.cat([images, images]), torch.cat([labels, 1 - labels])  # as many that are wrong already
    assert calibrate(plane, *with_wrong, settings=settings) == pytest.approx(0.032)
    crafted = craft(plane, images, labels, settings=settings)  # calibrates by itself
    np.testing.assert_allclose(crafted.eps, [0.032] * 38 + [0.256, 0.512], rtol=1e-5)


def test_calibration_does_not_count_what_is_already_wrong(plane, plane_images):
    labels = plane(plane_images).argmax(1)
    settings = AttackSettings(name="pgd_l2")
    wanted = calibrate(plane, plane_images[:8], labels[:8], settings=settings)
    mixed = torch.cat([labels[:8], 1 - labels[8:]])
    assert calibrate(plane, plane_images, mixed, settings=settings) == wanted


def test_shrink_comes_back_to_the_boundary_and_stays_beyond_it(plane, plane_images):
    labels, wanted = plane(plane_images).argmax(1), plane.distance(plane_images, 2).detach()
    far = pgd_l2(plane, plane_images, labels, radius=1.9 * wanted).images
    near = shrink(Looker(plane, (3, 6, 6), Capacity(8)), flat(plane_images), flat(far), labels, times=8)
    length = (near - flat(plane_images)).norm(dim=1)
    assert (length >= wanted).all()
    assert (length <= wanted * (1 + 1.9 / 2**8 + 1e-4)).all()


def test_the_clean_margin_is_that_of_the_clean_image(plane, plane_images):
    clean, labels = flat(plane_images), plane(plane_images).argmax(1)
    look = Looker(plane, (3, 6, 6), Capacity(8))
    seen = look(clean, labels, torch.ones_like(labels, dtype=torch.bool))
    found = run(Nearest(), look, clean, labels, slots=5).clean_margin
    torch.testing.assert_close(found, seen.margin / seen.spread, rtol=1e-4, atol=1e-6)
