"""The attacks called as functions: the defaults of the table, their edges, and the fast FGSM against a plain loop."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from amun_ray.attacks import ATTACKS, AttackSettings, craft, ddn, fast_fgsm, fgsm, nearest, pgd_l2, pgd_linf, secant
from amun_ray.attacks.adversarial import attacked
from amun_ray.attacks.fast_fgsm import FastFgsm
from amun_ray.attacks.look import SLACK, Capacity, Looker, flat
from amun_ray.attacks.slots import Outcome, run
from amun_ray.attacks.verify import verify
from amun_ray.base.errors import UserError
from amun_ray.base.seeds import generator
from amun_ray.base.status import Status

BALL = {"pgd_l2": pgd_l2, "pgd_linf": pgd_linf, "fgsm": fgsm}
FUNCTIONS = BALL | {"nearest": nearest, "secant": secant, "ddn": ddn, "fast_fgsm": fast_fgsm}
OF_A_FUNCTION = ("steps", "step_ratio", "stop", "objective", "polish", "tolerance", "kappa", "competitors", "gamma",
                 "doublings", "eps_init")


class Unreachable(nn.Module):
    """Always class 0, by a margin that falls as the image gets brighter."""

    def forward(self, images):
        margin = 0.1 + F.softplus(5 - images.flatten(1).sum(1))
        return torch.stack([margin, torch.zeros_like(margin)], 1)


def test_every_attack_is_a_function_too():
    assert FUNCTIONS.keys() == ATTACKS.keys()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("reachable", [True, False])
def test_a_function_has_the_defaults_of_the_table(name, reachable, net, images, labels):
    model = net if reachable else Unreachable()
    given = (images[:6], labels[:6] if reachable else torch.zeros(6, dtype=torch.int64))
    radius = {"radius": 0.5} if name in BALL else {}
    table = {key: value for key, value in ATTACKS[name].settings.items()
             if key in OF_A_FUNCTION and not (name in BALL and key in ("eps_init", "doublings"))
             and not (name == "ddn" and key == "objective") and not (name in ("fgsm", "fast_fgsm", "pgd_linf")
                                                                     and key == "objective")}
    found, wanted = FUNCTIONS[name](model, *given, **radius), FUNCTIONS[name](model, *given, **radius, **table)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)
    assert found.found.all() == found.found.any() == reachable


def test_nearest_without_polish_keeps_its_first_flip(net, images, labels):
    first, polished = (nearest(net, images, labels, polish=polish) for polish in (0, 4))
    assert first.found.all()
    assert (first.l2 >= polished.l2).all()
    assert first.l2.mean() > 1.02 * polished.l2.mean()
    with pytest.raises(UserError, match="^polish must be >= 0, but got -1"):
        nearest(net, images, labels, polish=-1)
    with pytest.raises(UserError, match="^steps must be >= 1, but got 0"):
        nearest(net, images, labels, steps=0)
    with pytest.raises(UserError, match="^kappa must be >= 0, but got -0.1"):
        nearest(net, images, labels, kappa=-0.1)


def test_fgsm_is_one_step_against_the_sign(net, images, labels):
    given = images[:12].clone().requires_grad_()
    logits = net(given)
    others = logits.scatter(1, labels[:12, None], -torch.inf).amax(1)
    slope, = torch.autograd.grad((logits.gather(1, labels[:12, None])[:, 0] - others).sum(), given)
    found = fgsm(net, images[:12], labels[:12], radius=0.03)
    torch.testing.assert_close(found.images, (images[:12] - 0.03 * slope.sign()).clamp(0, 1))


def sign_of_slope(model, image, label):
    image = image.detach().requires_grad_()
    logits = model(image)[0]
    margin = logits[label] - torch.cat([logits[:label], logits[label + 1:]]).max()
    return torch.autograd.grad(margin, image)[0].sign()


def fast_fgsm_by_hand(model, clean, label, *, steps, eps_init, doublings):
    """One image (1, C, H, W): the last point, whether it is wrong, and how many images the model was shown."""
    shown, point = 0, clean
    for start in range(doublings + 1):
        if start > 0:
            offset = 2 * torch.rand(clean.numel(), generator=generator(0, "fast_fgsm", start)) - 1
            height, width = clean.shape[2:]
            offset = offset.view(height, width, -1).permute(2, 0, 1)
            point = (clean + eps_init * 2**start * offset).clamp(0, 1)
        sign = sign_of_slope(model, point, label)
        for taken in range(steps + 1):
            shown += 1
            logits = model(point)[0]
            other = torch.cat([logits[:label], logits[label + 1:]]).max()
            if logits[label] - other <= -SLACK * (logits.max() - logits.min()):
                return point, True, shown
            if taken < steps:
                point = (point - eps_init * 2**start * sign).clamp(0, 1)
    return point, False, shown


@pytest.mark.parametrize(("eps_init", "reachable"), [(0.002, True), (0.02, True), (0.002, False)])
def test_fast_fgsm_equals_a_plain_loop(eps_init, reachable, net, images, labels):
    model = net if reachable else Unreachable()
    labels = labels if reachable else torch.zeros_like(labels)
    attack = FastFgsm(steps=3, eps_init=eps_init, doublings=4)
    found = run(attack, Looker(model, (3, 6, 6), Capacity(8)), flat(images[:8]), labels[:8], slots=8)
    starts = set()
    for row in range(8):
        clean = images[row:row + 1]
        point, wrong, shown = fast_fgsm_by_hand(model, clean, labels[row].item(), steps=3, eps_init=eps_init,
                                                doublings=4)
        torch.testing.assert_close(found.best[row:row + 1], flat(point), rtol=0, atol=1e-5)
        assert (found.flipped[row].item(), found.looks[row].item()) == (wrong, shown)
        assert found.eps[row].item() == pytest.approx((point - clean).abs().max().item(), abs=1e-6)
        starts.add((shown - 1) // 4)
    assert len(starts) > 1 if reachable else starts == {4}


class Hairline(nn.Module):
    """Class 1 leads by a margin far below float noise, as the attacks count it: wrong, but by no slack."""

    def forward(self, images):
        light = images.flatten(1).sum(1) / 108
        return torch.stack([light, light + 1e-6, light - 10], 1)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_sample_that_is_wrong_by_a_hair_is_already_wrong(name, images):
    function, radius = FUNCTIONS[name], {"radius": 0.05} if name in BALL else {}
    found = function(Hairline(), images[:3], torch.zeros(3, dtype=torch.int64), **radius)
    assert found.found.all()
    assert torch.equal(found.images, images[:3])
    rows = craft(Hairline(), images[:3], torch.zeros(3, dtype=torch.int64), settings=AttackSettings(
        name=name, **({"eps_init": 0.05} if ATTACKS[name].smallest else {})))
    assert (rows.status == Status.ALREADY_WRONG).all()
    assert not rows.eps.any()
    assert (rows.steps == 1).all(), "one look was enough"


class Slope(Hairline):
    """As `Hairline` on images of 0.5, and wrong by more on brighter ones."""

    def forward(self, images):
        logits = super().forward(images)
        return torch.stack([logits[:, 0], logits[:, 1] + 0.2 * (logits[:, 0] - 0.5), logits[:, 2]], 1)


def test_ddn_counts_a_sample_that_is_wrong_by_a_hair_before_it_moves_it():
    images, labels = torch.full((2, 3, 6, 6), 0.5), torch.zeros(2, dtype=torch.int64)
    assert torch.equal(ddn(Slope(), images, labels).images, images)


@pytest.mark.parametrize("up", [True, False])
def test_a_push_stays_inside_the_box(up):
    """The sum of the pixels has to pass a bound that is a little beyond; half of the pixels are at the edge already."""
    sign = 1 if up else -1

    class Sum(nn.Module):
        def forward(self, rows):
            beyond = sign * (rows.flatten(1).sum(1) - 2) - 1.1
            return torch.stack([-beyond, beyond], 1)

    clean = torch.full((1, 4), 0.5)
    best = clean + sign * torch.tensor([[0.5, 0.5, 0.049, 0.049]])
    label = torch.tensor([0])
    found = Outcome(
        best, torch.ones(1, dtype=torch.bool), torch.ones(1), torch.ones(1, dtype=torch.int32), torch.ones(1))
    verdict = verify(Looker(Sum(), (1, 2, 2), Capacity(1)), clean, label, found, kappa=0.0,
                     again=lambda clean, label: clean)
    assert verdict.flipped.all()
    moved = sign * (verdict.image - clean)
    assert moved[0, :2].tolist() == [0.5, 0.5]
    np.testing.assert_allclose(moved[0, 2:], 0.049 * 1.05, rtol=1e-5)


def test_attacked_says_what_the_model_says_of_the_answer(net, images, labels):
    found = attacked(FastFgsm(steps=3, eps_init=0.01, doublings=8), net, images[:8], labels[:8])
    with torch.no_grad():
        assert torch.equal(found.labels, net(found.images).argmax(1))
    torch.testing.assert_close(found.l2, (found.images - images[:8]).flatten(1).norm(dim=1))
