"""Distances and paths between models that are known by hand, with batch norm and without."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from amun_ray.base.errors import UserError
from amun_ray.metrics import barrier
from amun_ray.models.features import Features
from amun_ray.work.weights import POINTS, along_path, distance

IMAGES = torch.tensor([0.0, 0.2, 0.6, 1.0]).reshape(4, 1, 1, 1)
LABELS = torch.tensor([0, 0, 1, 1])


def line(slope: float, *, norm: bool = False) -> nn.Module:
    """Logits (0, slope (x - 0.45)) or, with batch norm, slope times standardised x."""
    model = nn.Sequential(*([nn.BatchNorm2d(1, affine=False)] if norm else []), nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        model[-1].weight.copy_(torch.tensor([[0.0], [slope]]))
        model[-1].bias.copy_(torch.tensor([0.0, 0.0 if norm else -0.45 * slope]))
    return model


def test_distance_counts_parameters_and_no_buffers():
    first, second = line(1.0, norm=True), line(4.0, norm=True)
    second[0].running_mean.fill_(7.0)
    assert distance(first, second) == 3
    assert distance(line(1.0), line(4.0)) == pytest.approx(math.hypot(3, 0.45 * 3))


def test_opposite_models_have_a_model_that_knows_nothing_between_them():
    loss, right = np.array([*along_path(line(40.0), line(-40.0), IMAGES, LABELS)]).T
    assert len(loss) == POINTS
    assert loss[POINTS // 2] == pytest.approx(math.log(2))
    assert (right[0], right[-1]) == (100, 0)
    slopes = np.linspace(40, -40, POINTS)[:, None]
    ahead = slopes * (IMAGES.flatten().numpy() - 0.45) * np.array([-1, -1, 1, 1])
    assert loss == pytest.approx(np.logaddexp(0, -ahead).mean(axis=1), rel=1e-4)


def test_batch_norm_takes_the_statistics_of_the_images_at_every_point():
    first, second = line(1.0, norm=True), line(3.0, norm=True)
    first[0].running_mean.fill_(100.0)
    wanted = copy.deepcopy(second)
    loss, _ = np.array([*along_path(first, second, IMAGES, LABELS)]).T
    x = IMAGES.flatten().numpy().astype(float)
    standard = (x - x.mean()) / np.sqrt(x.var(ddof=1) + 1e-5)  # torch's running variance is the unbiased one
    ahead = np.linspace(1, 3, POINTS)[:, None] * standard * np.array([-1, -1, 1, 1])
    assert loss == pytest.approx(np.logaddexp(0, -ahead).mean(axis=1), rel=1e-4)
    assert first[0].momentum == wanted[0].momentum == 0.1
    assert torch.equal(second[0].running_mean, wanted[0].running_mean)  # the other model is as it was


def test_a_barrier_is_above_the_line_between_the_ends():
    assert barrier(np.array([0.0, 3.0, 2.0])) == 2
    assert barrier(np.array([0.0, 0.2, 1.0])) == 0
    assert barrier(-np.array([100.0, 40.0, 90.0])) == 55
    for wrong in (np.zeros(1), np.zeros((2, 2)), np.array([0.0, np.nan])):
        with pytest.raises(UserError, match="barrier"):
            barrier(wrong)


def test_features_are_what_the_last_layer_with_weights_is_given():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU())
    for last in (nn.Linear(3, 2), nn.Sequential(nn.Unflatten(1, (3, 1, 1)), nn.Conv2d(3, 2, 1), nn.Flatten())):
        images = torch.rand(5, 1, 2, 2)
        assert torch.equal(Features(nn.Sequential(body, last))(images), body(images))
    assert torch.equal(Features(nn.Flatten())(images), images.flatten(1))  # no such layer: the logits
