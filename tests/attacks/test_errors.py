"""Bad input: one clear error that names the argument, before any work starts."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from amun_ray.attacks import AttackSettings, calibrate, craft, ddn, fast_fgsm, fgsm, nearest, pgd_l2, pgd_linf
from amun_ray.base.errors import UserError

IMAGES, LABELS = torch.full((4, 3, 6, 6), 0.5), torch.zeros(4, dtype=torch.int64)


class Says(nn.Module):
    """Returns `answer(images)`, whatever that is."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.asked = answer, 0

    def forward(self, images):
        return self.answer(images)


@pytest.mark.parametrize(("given", "true", "message"), [
    (IMAGES[0], LABELS, r"images: must have the shape \(N, C, H, W\), found \(3, 6, 6\)"),
    (IMAGES[:0], LABELS[:0], "images: the forget set is empty"),
    (IMAGES.double(), LABELS, "images: must be float32 .* found torch.float64"),
    ((IMAGES * 255).byte(), LABELS, "images: must be float32 .* found torch.uint8"),
    (IMAGES * 3, LABELS, r"images: pixels must lie in \[0, 1\], found \[1.5, 1.5\]"),
    (IMAGES - 0.6, LABELS, r"images: pixels must lie in \[0, 1\], found \[-0.1, -0.1\]"),
    (IMAGES * torch.nan, LABELS, "images: pixels must lie in"),
    (IMAGES, LABELS.int(), "labels: must be int64, found torch.int32"),
    (IMAGES, LABELS[:3], r"labels: must have the shape \(4,\), one per image, found \(3,\)"),
    (IMAGES, LABELS + 4, r"labels: must lie in 0 .. 3, the model's classes, found 4"),
    (IMAGES, LABELS - 1, r"labels: must lie in 0 .. 3, the model's classes, found -1"),
    (IMAGES, LABELS.to("meta"), "labels: must be on the images' device cpu, found meta"),
])
def test_images_and_labels(given, true, message, net):
    for attack in (nearest, lambda *batch: craft(*batch, settings=AttackSettings())):
        with pytest.raises(UserError, match=message):
            attack(net, given, true)


@pytest.mark.parametrize(("model", "message"), [
    (Says(lambda images: images), "model: must return logits .* found .4, 3, 6, 6. for N=2|found .2, 3, 6, 6. for N=2"),
    (Says(lambda images: images.flatten(1)[:, :1]), r"model: must return logits .* found \(2, 1\)"),
    (Says(lambda images: [images]), "model: must return logits .* found list"),
    (Says(lambda images: images.flatten(1) * torch.nan), "model: it returned NaN or infinite logits"),
    (Says(lambda images: images.flatten(1).double()), "model: its logits must be float32, found torch.float64"),
    (Says(lambda images: images.flatten(1).round().detach()), "model: .* has a gradient"),
    (nn.Sequential(nn.Flatten(), nn.Linear(108, 4)).double(), "model: its tensors must be float32, found .*float64"),
    (nn.Sequential(nn.Flatten(), nn.Linear(108, 4, device="meta")), "model: it is on meta, the images are on cpu"),
])
def test_models(model, message):
    with pytest.raises(UserError, match=message):
        craft(model, IMAGES, LABELS, settings=AttackSettings())


def test_logits_that_are_nan_for_some_image_only(net):
    model = deepcopy(net)
    some = Says(lambda images: model(images) / (images.flatten(1).amax(1, keepdim=True) < 0.9))
    images = IMAGES.clone()
    images[3, 0, 0, 0] = 1
    with pytest.raises(UserError, match="NaN or infinite"):
        craft(some, images, LABELS, settings=AttackSettings())


@pytest.mark.parametrize(("call", "message"), [
    (lambda net: pgd_l2(net, IMAGES, LABELS, radius=0.0), "radius: must be positive, found 0"),
    (lambda net: pgd_l2(net, IMAGES, LABELS, radius=torch.tensor([1, 1, -2, 1.0])), "radius: .* found -2"),
    (lambda net: pgd_l2(net, IMAGES, LABELS, radius=torch.ones(3)), r"radius: .* found shape \(3,\)"),
    (lambda net: pgd_l2(net, IMAGES, LABELS, radius=1.0, steps=0), "steps must be >= 1, but got 0"),
    (lambda net: pgd_linf(net, IMAGES, LABELS, radius=float("nan")), "radius: must be positive, found nan"),
    (lambda net: pgd_linf(net, IMAGES, LABELS, radius=1.0, steps=0), "steps must be >= 1"),
    (lambda net: fgsm(net, IMAGES, LABELS, radius=-1.0), "radius: must be positive"),
    (lambda net: fgsm(net, IMAGES, LABELS, radius=torch.ones(3)), r"radius: .* found shape \(3,\)"),
    (lambda net: pgd_linf(net, IMAGES, LABELS, radius=torch.ones(1)), r"radius: .* found shape \(1,\)"),
    (lambda net: fast_fgsm(net, IMAGES, LABELS, eps_init=0.0), "eps_init must be > 0, but got 0"),
    (lambda net: fast_fgsm(net, IMAGES, LABELS, doublings=-1), "doublings must be >= 0, but got -1"),
    (lambda net: fast_fgsm(net, IMAGES, LABELS, steps=0), "steps must be >= 1"),
    (lambda net: ddn(net, IMAGES, LABELS, steps=0), "steps must be >= 1"),
    (lambda net: nearest(net, IMAGES, LABELS, steps=0), "steps must be >= 1"),
    (lambda net: nearest(net, IMAGES, LABELS, kappa=-1.0), "kappa must be >= 0, but got -1"),
    (lambda net: craft(net, IMAGES, LABELS, settings=AttackSettings(), indices=np.arange(3)), "indices: must be .4,."),
    (lambda net: craft(net, IMAGES, LABELS, settings=AttackSettings(), indices=np.ones(4)), "indices: .* float64"),
    (lambda net: calibrate(net, IMAGES, LABELS, settings=AttackSettings()), "'nearest' has no radius to calibrate"),
])
def test_arguments(call, message, net):
    with pytest.raises(UserError, match=message):
        call(net)


def test_calibration_of_a_model_that_cannot_be_flipped():
    constant = Says(lambda images: images.flatten(1)[:, :2] * 0 + torch.tensor([1.0, 0.0]))
    with pytest.raises(UserError, match="eps_init: cannot be calibrated, none of 4 samples"):
        calibrate(constant, IMAGES, LABELS, settings=AttackSettings(name="fgsm"))


@pytest.mark.parametrize(("given", "message"), [
    ({"name": "pgd_12"}, "unknown attack 'pgd_12'; did you mean 'pgd_l2'?"),
    ({"step_ratio": 0.1}, "attack 'nearest' has no setting 'step_ratio'"),
    ({"name": "fgsm", "steps": 3}, "attack 'fgsm' has no setting 'steps'"),
    ({"name": "pgd_l2", "kappa": 0.1}, "attack 'pgd_l2' has no setting 'kappa'"),
    ({"steps": 0}, "attack 'nearest': steps must be >= 1, but got 0"),
    ({"kappa": float("nan")}, "kappa must be a finite number, but got nan"),
    ({"kappa": float("inf")}, "kappa must be a finite number"),
    ({"polish": "four"}, "polish must be a finite number, but got 'four'"),
    ({"steps": 2.5}, "steps must be a whole number, but got 2.5"),
    ({"batch_size": 0}, "batch_size must be >= 1"),
    ({"name": "pgd_l2", "eps_init": 0.0}, "eps_init must be > 0"),
    ({"name": "pgd_l2", "start": "hot"}, "start must be one of clean, warm, but got 'hot'"),
    ({"name": "ddn", "gamma": 1.0}, "gamma must be < 1, but got 1"),
    ({"name": "secant", "polish": 2}, "attack 'secant' has no setting 'polish'"),
    ({"name": "secant", "tolerance": -0.1}, "tolerance must be >= 0, but got -0.1"),
    ({"competitors": 2}, "attack 'nearest' has no setting 'competitors'"),
    ({"name": "secant", "competitors": 0}, "competitors must be >= 1, but got 0"),
    ({"precision": "half"}, "precision must be one of float32, bfloat16, auto"),
])
def test_settings(given, message):
    with pytest.raises(UserError, match=message):
        AttackSettings(**given)


def test_settings_fill_in_the_defaults_of_the_attack():
    assert AttackSettings(polish=2).values == {"steps": 60, "polish": 2, "kappa": 0.0}
    assert AttackSettings(name="secant", tolerance=0.1).values == {"steps": 60, "tolerance": 0.1, "kappa": 0.0,
                                                                   "competitors": 4}
    assert AttackSettings(name="pgd_l2", start="warm").values["start"] == "warm"
    assert AttackSettings(name="pgd_l2").values["eps_init"] is None
