"""What a result must not depend on: the scale of the logits, the batch, its size, the order, the run."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from amun_ray.attacks import ATTACKS, AttackSettings, craft
from amun_ray.base.status import Status

SETTINGS = {name: AttackSettings(name=name, precision="float32", eps_init=0.05 if row.smallest else None,
                                 steps=10 if "pgd" in name else None) for name, row in ATTACKS.items()}
CLOSE = {"rtol": 0, "atol": 2e-5}


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("scale", [1 / 4, 16])
def test_logits_may_have_any_scale(name, scale, net, images, labels):
    scaled = deepcopy(net)
    scaled.head.weight.data *= scale
    scaled.head.bias.data *= scale
    one = craft(net, images[:12], labels[:12], settings=SETTINGS[name])
    other = craft(scaled, images[:12], labels[:12], settings=SETTINGS[name])
    np.testing.assert_array_equal(one.image, other.image)  # a power of two: not even rounding differs


def test_cross_entropy_does_not_underflow_on_a_sure_model(net, images, labels):
    sure = deepcopy(net)
    sure.head.weight.data *= 1000
    sure.head.bias.data *= 1000
    settings = AttackSettings(name="pgd_l2", objective="cross_entropy", eps_init=0.05)
    rows = craft(sure, images[:12], labels[:12], settings=settings)
    assert (rows.status == Status.FLIPPED).all()
    assert np.median(rows.l2) < 1.1 * np.median(craft(net, images[:12], labels[:12], settings=settings).l2)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_rest_of_the_batch_does_not_matter(name, net, images, labels):
    together = craft(net, images, labels, settings=SETTINGS[name])
    some = [40, 3, 17]
    alone = craft(net, images[some], labels[some], settings=SETTINGS[name])
    np.testing.assert_allclose(together.image[some], alone.image, **CLOSE)
    np.testing.assert_array_equal(together.steps[some], alone.steps)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_batch_size_does_not_matter(batch_size, net, images, labels):
    small = AttackSettings(batch_size=batch_size)
    np.testing.assert_allclose(craft(net, images, labels, settings=small).image,
                               craft(net, images, labels, settings=AttackSettings()).image, **CLOSE)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_same_call_gives_the_same_bytes(name, net, images, labels):
    one, two = (craft(net, images[:9], labels[:9], settings=SETTINGS[name]) for _ in range(2))
    for column, value in one.columns.items():
        assert value.tobytes() == two.columns[column].tobytes(), column
    assert one.cost == two.cost


def test_the_model_is_left_as_it_was(net, images, labels):
    model = deepcopy(net).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = craft(model, images, labels, settings=AttackSettings())
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    np.testing.assert_array_equal(rows.image, craft(net, images, labels, settings=AttackSettings()).image)
