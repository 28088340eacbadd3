"""Spectral clipping against the singular values of operators written out as matrices."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from amun_ray.base.errors import UserError
from amun_ray.base.seeds import generator
from amun_ray.models import build
from amun_ray.training import spectral
from amun_ray.training.augment import Augmentation
from amun_ray.training.loop import fit
from amun_ray.training.parts import place
from amun_ray.training.recipe import Recipe
from amun_ray.training.spectral import Clipping, bound_of, clipped, singular_values
from amun_ray.unlearn import EITHER, Method, Sets, unlearn

LAYERS = {
    "plain": (lambda: nn.Conv2d(2, 3, 3), (2, 5, 6)), "padding": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 5, 6)),
    "stride": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 6, 5)),
    "dilation": (lambda: nn.Conv2d(2, 2, 2, dilation=2, padding=(0, 1)), (2, 5, 5)),
    "groups": (lambda: nn.Conv2d(4, 4, 3, groups=2, padding="same", bias=False), (4, 4, 4)),
    "circular": (lambda: nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), (1, 5, 4)),
    "pointwise": (lambda: nn.Conv2d(3, 5, 1, stride=2), (3, 5, 5)), "dense": (lambda: nn.Linear(7, 4), (7,)),
}


@pytest.fixture(autouse=True)
def _own_draws():
    """No other test sees what is drawn here."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def made(name):
    make, shape = LAYERS[name]
    return make(), shape


def matrix(module, shape):
    """The operator of a layer without its bias, column by column."""
    basis = torch.eye(int(np.prod(shape))).reshape(-1, *shape)
    with torch.no_grad():
        return (module(basis) - module(torch.zeros(1, *shape))).flatten(1).T


def svd(module, shape):
    return torch.linalg.svdvals(matrix(module, shape))


def every(model, size=8, channels=1):
    """The largest singular value of each layer of `model`, by SVD."""
    shapes = {}
    hooks = [module.register_forward_pre_hook(lambda module, inputs: shapes.update({module: inputs[0].shape[1:]}))
             for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    model(torch.zeros(1, channels, size, size))
    for hook in hooks:
        hook.remove()
    names = {module: name for name, module in model.named_modules()}
    return {names[module]: svd(module, shape)[0].item() for module, shape in shapes.items()}


def net(*, clip=1.0, name="small_cnn", **options):
    model = build(name, channels=1, classes=4, size=8, mean=(0.5,), std=(0.25,), seed=0,
                 options={"width": 4, "batch_norm": False} | options)
    return clipped(model, clip) if clip else model


def part(count=64, *, seed=0, augment=False):
    rng = np.random.default_rng(seed)
    return place(rng.integers(0, 256, (count, 1, 8, 8), np.uint8), rng.integers(0, 4, count), augment=augment)


@pytest.mark.parametrize("name", LAYERS)
def test_singular_values_are_those_of_the_operator(name):
    module, shape = made(name)
    found = singular_values(nn.Sequential(module), torch.empty(3, *shape))
    assert found == {"0": pytest.approx(svd(module, shape)[0].item(), rel=1e-4)}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_above_the_bound_is_brought_to_it_and_one_below_stays(name):
    module, shape = made(name)
    largest = svd(module, shape)[0].item()
    layer = spectral._Layer("0", module, shape)
    layer.iterate(200)
    before = module.weight.clone()
    clipping = Clipping([layer], 1.5 * largest)
    clipping.settle()
    assert torch.equal(module.weight, before)
    clipping.bound = 0.7 * largest
    clipping.settle()
    assert svd(module, shape)[0].item() == pytest.approx(0.7 * largest, rel=1e-2)


def test_clipping_a_dense_layer_leaves_its_other_singular_values_and_all_vectors():
    dense, values = nn.Linear(6, 4), torch.tensor([3.0, 1.7, 0.6, 0.2])
    left, right = torch.linalg.qr(torch.randn(4, 4))[0], torch.linalg.qr(torch.randn(6, 6))[0][:, :4]
    dense.weight.data = left @ values.diag() @ right.T
    Clipping([spectral._Layer("0", dense, (6,))], 1.0).settle()
    torch.testing.assert_close(dense.weight, left @ values.clamp(max=1).diag() @ right.T, atol=2e-3, rtol=0)


def test_one_clip_of_a_convolution_is_the_smallest_change_for_its_singular_vectors():
    """By a dense projection: the operator is linear in the kernel, so the rank-one change is projected onto kernels."""
    module, shape = made("stride")
    layer = spectral._Layer("0", module, shape)
    layer.iterate(500)
    u, values, v = torch.linalg.svd(matrix(module, shape))
    kernels = torch.stack([(u[:, 0] @ matrix(_kernel(module, place), shape) @ v[0]) for place in
                           range(module.weight.numel())])  # d(u^T A v) / d(each weight)
    wanted = module.weight.detach().flatten() - (values[0] - 0.5) * kernels / kernels.square().sum()
    layer.clip(0.5)
    torch.testing.assert_close(module.weight.detach().flatten(), wanted, atol=1e-3, rtol=0)


def _kernel(module, place):
    """The layer with one weight of 1 and no others."""
    other = copy.deepcopy(module)
    other.weight.data = torch.eye(module.weight.numel())[place].reshape(module.weight.shape)
    return other


@pytest.mark.parametrize("options", [{}, {"name": "resnet20", "blocks": 1, "width": 8}])
def test_every_layer_stays_at_the_bound_through_training_and_unlearning(options):
    model = net(**options)
    recipe = Recipe(lr=0.3, epochs=2, batch_size=8, weight_decay=0)
    for _ in fit(model, [part()], recipe=recipe, augmentation=Augmentation(), generator=generator(0, "order")):
        assert max(every(model).values()) <= 1.01
    assert max(every(model).values()) > 0.98, "nothing was clipped"
    sets = Sets(retain=None, forget=part(16), adversarial=part(16, seed=1))
    for method in ("gradient_ascent", Method(access=EITHER, run=_doubling)):
        for _ in unlearn(method, model, sets, recipe=recipe, augmentation=Augmentation(), generator=generator(0)):
            assert max(every(model).values()) <= 1.01
    free = net(clip=None, **options)
    list(fit(free, [part()], recipe=recipe, augmentation=Augmentation(), generator=generator(0, "order")))
    assert max(every(free).values()) > 1.2, "without the bound this training goes beyond it"


def _doubling(task):
    """A method that is no fine-tuning: it doubles every weight."""
    with torch.no_grad():
        for weight in task.model.parameters():
            weight *= 2
    yield 1


def test_between_epochs_it_clips_every_so_many_steps(monkeypatch):
    monkeypatch.setattr(spectral, "EVERY", 2)
    called = []
    monkeypatch.setattr(spectral._Layer, "clip", lambda self, bound: called.append(bound) or torch.tensor(0.0))
    list(fit(net(), [part()], recipe=Recipe(lr=0.1, epochs=1, batch_size=8), augmentation=Augmentation(),
             generator=generator(0)))
    assert called == [1.0] * 4 * (8 // 2 + 1)  # 4 layers, 8 steps, and the end of the epoch


def test_the_bound_travels_with_a_copy_and_is_no_weight():
    model = net(clip=0.8)
    assert bound_of(copy.deepcopy(model)) == pytest.approx(0.8)
    assert model.state_dict().keys() == net(clip=None).state_dict().keys()
    assert bound_of(net(clip=None)) is None


def test_networks_that_it_does_not_bound_are_refused():
    with pytest.raises(UserError, match="batch norm scales what the layers before it bound.*batch_norm: false"):
        net(batch_norm=True)
    with pytest.raises(UserError, match=r"norm \(LayerNorm\) has other weights"):
        clipped(nn.Sequential(nn.Linear(2, 2), nn.Sequential()).append(nn.ModuleDict({"norm": nn.LayerNorm(2)})), 1.0)


@pytest.mark.parametrize("name", ["small_cnn", "resnet20", "resnet18"])
def test_networks_without_batch_norm_have_biases_and_no_statistics(name):
    state = net(clip=None, name=name).state_dict()
    assert not [key for key in state if "running" in key or "bn" in key]
    assert len([key for key in state if key.endswith("bias")]) == len([key for key in state if key.endswith("weight")])
