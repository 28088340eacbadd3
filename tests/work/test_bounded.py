"""What is stored and reported of models with a bound on their layers, and which checkpoints are refused."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from amun_ray import data
from amun_ray.base.errors import UserError
from amun_ray.config import file as config_file
from amun_ray.training.spectral import bound_of, clipped
from amun_ray.unlearn import Contender
from amun_ray.work import bounded
from amun_ray.work.plan import Plan

IMAGES = torch.zeros(5, 1, 2, 2)


def dense(*values):
    """A network of one dense layer with these singular values."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, len(values), bias=False))
    model[1].weight.data = torch.diag(torch.tensor(values)) @ torch.eye(len(values), 4)
    return model


def test_only_models_with_a_bound_are_measured():
    assert bounded.measured(dense(3.0, 2.0), IMAGES) == {}
    assert bounded.measured(clipped(dense(3.0, 2.0), 1.0), IMAGES) == {
        "singular_values": {"1": pytest.approx(3.0, rel=1e-5)}}


def test_a_loaded_model_above_the_bound_is_refused():
    bounded.check(dense(1.5, 0.1), IMAGES, "original 0")
    bounded.check(clipped(dense(1.04, 0.1), 1.0), IMAGES, "original 0")
    with pytest.raises(UserError, match=r"original 0: its layer 1 has the singular value 1.06, above .*clip \(1\)"):
        bounded.check(clipped(dense(1.06, 0.1), 1.0), IMAGES, "original 0")


def test_the_report_has_the_largest_of_each_group():
    def result(first, second):
        return {"singular_values": {"a": first, "b": second}}

    made = {"o": result(0.9, 1.0), "p": result(0.95, 0.8), "r": result(0.1, 0.2), "s": result(0.3, 0.4)}
    models = SimpleNamespace(originals=[SimpleNamespace(unit="o"), SimpleNamespace(unit="p")], references=[],
                             retrained={"final 0": [SimpleNamespace(unit="r")], "final 1": [SimpleNamespace(unit="s")]})
    unlearned = [SimpleNamespace(run=SimpleNamespace(contender=Contender("amun", "retain")), result=found)
                 for found in (result(0.5, 0.6), {"failed": "epoch 1"})]
    assert bounded.by_layer(SimpleNamespace(made=made.__getitem__), models, unlearned) == {
        "a": {"originals": 0.95, "retrained": 0.3, "amun (retain)": 0.5},
        "b": {"originals": 1.0, "retrained": 0.4, "amun (retain)": 0.6}}
    plain = SimpleNamespace(made=lambda unit: {"weights": "w"})
    assert bounded.by_layer(plain, models, []) == {}


def test_the_bound_of_a_sweep_is_in_its_networks_and_in_the_addresses_of_its_models():
    sweep = config_file.load("lipschitz_small")
    images = data.load(sweep.data.name, **sweep.data.settings)
    plan = Plan(sweep, images)
    plan.check()
    assert bound_of(plan.new_model()) == 2.0
    assert plan.network.identity["model"]["spectral_clip"] == 2.0
    other = Plan(config_file.load("lipschitz_small", ["model.spectral_clip=null"]), images)
    assert bound_of(other.new_model()) is None
    assert "spectral_clip" not in other.network.identity["model"]
    with pytest.raises(UserError, match="batch norm scales"):
        Plan(config_file.load("default", ["model.spectral_clip=1"]), images).check()


@pytest.mark.parametrize("value", [0, -1])
def test_a_bound_that_is_not_above_0_is_named(value):
    with pytest.raises(UserError, match=r"model.spectral_clip: .*greater than 0"):
        config_file.load("lipschitz_small", [f"model.spectral_clip={value}"])
