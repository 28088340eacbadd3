"""The certified method on a small logistic regression, where Hessian, inverse and retrained model are exact."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from amun_ray.base.errors import Diverged
from amun_ray.training.augment import Augmentation
from amun_ray.training.cost import Cost
from amun_ray.training.parts import Part, place
from amun_ray.training.recipe import Recipe
from amun_ray.unlearn import METHODS, RunReport, Sets, unlearn
from amun_ray.unlearn.certified import certify, epsilon_of, inverse_curvature
from amun_ray.unlearn.gradients import curvature, gradient
from amun_ray.unlearn.method import Task

DECAY, DAMPING = 0.05, 0.01
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 220)
FEATURES = np.clip(RNG.normal(0.5, 0.2, (220, 4)) + 0.3 * np.eye(4)[LABELS], 0, 1).astype(np.float32)
DATA = place(FEATURES.reshape(-1, 1, 2, 2), LABELS, augment=False)
RETAIN, FORGET = (Part(DATA.images[rows], DATA.labels[rows], augment=False) for rows in (slice(20, 220), slice(20)))
SETS = Sets(retain=RETAIN, forget=FORGET)


def objective(flat, part):
    logits = part.images.flatten(1).double() @ flat.view(3, 4).T
    return F.cross_entropy(logits, part.labels) + DECAY / 2 * flat.square().sum()


def minimiser(part):
    """The regularised logistic regression on `part`, by exact Newton steps."""
    flat = torch.zeros(12, dtype=torch.float64)
    for _ in range(20):
        slope = torch.autograd.functional.jacobian(lambda w: objective(w, part), flat)
        flat = flat - torch.linalg.solve(torch.autograd.functional.hessian(lambda w: objective(w, part), flat), slope)
    return flat


ORIGINAL, RETRAINED = minimiser(DATA), minimiser(RETAIN)
HESSIAN = torch.autograd.functional.hessian(lambda w: objective(w, RETAIN), ORIGINAL)
DAMPED = HESSIAN + DAMPING * torch.eye(12)


def linear():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    model[1].weight.data = ORIGINAL.view(3, 4).float()
    return model


def defaults(**settings):
    exact = {"damping": DAMPING, "sigma": 0, "steps": 200}
    return METHODS["certified"].complete("certified", "retain", exact | settings)


def task_of(model, *, batch_size=64, **settings):
    return Task(model=model, sets=SETS, recipe=Recipe(lr=1, epochs=1, weight_decay=DECAY, batch_size=batch_size),
                settings=defaults(**settings), augmentation=Augmentation(),
                generator=torch.Generator().manual_seed(0), report=RunReport())


def run(*, seed=0, report=None, **settings):
    model = linear()
    recipe = Recipe(lr=1, epochs=3, weight_decay=DECAY, batch_size=200)
    epochs = unlearn("certified", model, SETS, recipe=recipe, augmentation=Augmentation(), report=report,
                     settings=defaults(**settings), generator=torch.Generator().manual_seed(seed))
    assert list(epochs) == [1]
    return model[1].weight.detach().flatten().double()


def test_derivatives_are_those_of_the_objective():
    model, vector = linear(), torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    over = {"batch_size": 64, "cost": Cost(), "weight_decay": DECAY}
    slope = gradient(model, RETAIN, **over)["1.weight"].flatten().double()
    bent = curvature(model, RETAIN, {"1.weight": vector}, **over)["1.weight"].flatten().double()
    torch.testing.assert_close(slope, torch.autograd.functional.jacobian(lambda w: objective(w, RETAIN), ORIGINAL),
                               rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(bent, HESSIAN @ vector.flatten().double(), rtol=1e-4, atol=1e-6)
    assert (over["cost"].forward, over["cost"].backward) == (400, 600)


@pytest.mark.parametrize("scale", [0, 1])
def test_the_stochastic_product_is_near_the_exact_inverse(scale):
    vector = gradient(linear(), FORGET, batch_size=20, cost=Cost(), weight_decay=DECAY)
    result = inverse_curvature(task_of(linear(), scale=scale), vector)["1.weight"].flatten().double()
    wanted = torch.linalg.solve(DAMPED, vector["1.weight"].flatten().double())
    assert (result - wanted).norm() < 0.15 * wanted.norm()
    assert torch.cosine_similarity(result, wanted, dim=0) > 0.99


def test_the_update_is_the_damped_newton_step():
    slope = torch.autograd.functional.jacobian(lambda w: objective(w, FORGET), ORIGINAL)
    wanted = 20 / 200 * torch.linalg.solve(DAMPED, slope)
    step = run() - ORIGINAL
    assert (step - wanted).norm() < 0.1 * wanted.norm()


def test_the_step_is_weighed_by_forgotten_over_retained():
    """m / (n - m) = 3 / 6, exactly: D_R repeats one sample, so that every batch has the Hessian of the whole set."""
    one, other = (Part(DATA.images[[row] * count], DATA.labels[[row] * count], augment=False)
                  for row, count in ((0, 6), (1, 3)))
    model, scale = linear(), 3.0
    with torch.no_grad():
        model[1].weight.mul_(0.5)
    start = model[1].weight.detach().flatten().double()
    list(unlearn("certified", model, Sets(retain=one, forget=other), recipe=Recipe(lr=1, epochs=1, weight_decay=DECAY),
                 augmentation=Augmentation(), generator=torch.Generator().manual_seed(0),
                 settings={"damping": 1, "sigma": 0, "steps": 200, "scale": scale}))
    slope = torch.autograd.functional.jacobian(lambda w: objective(w, other), start)
    hessian = torch.autograd.functional.hessian(lambda w: objective(w, one), start)
    wanted = 3 / 6 * torch.linalg.solve(hessian + torch.eye(12), slope)
    torch.testing.assert_close(model[1].weight.detach().flatten().double() - start, wanted, rtol=1e-3, atol=1e-6)


def test_the_update_is_close_to_true_retraining():
    before, after = ((weights - RETRAINED).norm() for weights in (ORIGINAL, run()))
    assert after < 0.25 * before


def test_the_noise_has_the_standard_deviation_asked_for():
    quiet = run()
    noise = torch.stack([run(seed=seed, sigma=0.5, steps=200) - quiet for seed in range(8)])
    assert noise.std().item() == pytest.approx(0.5, rel=0.2)


def test_without_its_assumptions_it_says_that_nothing_is_certified():
    report = RunReport()
    run(report=report, sigma=1e-3)
    assert report.certificate.epsilon is None
    assert "distance, hessian_lipschitz not given" in report.certificate.reason


@pytest.mark.parametrize("damping", [DAMPING, 0.2])
def test_the_certificate_bounds_the_true_distance_to_the_retrained_model(damping):
    """Below and above the smallest eigenvalue of H, at least 0.05."""
    distance = (ORIGINAL - RETRAINED).norm().item()
    report = RunReport()
    run(report=report, sigma=0.05, delta=1e-5, distance=distance, hessian_lipschitz=2.0, damping=damping)
    bound = float(report.certificate.reason.split("<=")[2].split()[0])
    smallest = torch.linalg.eigvalsh(HESSIAN)[0].item() + damping
    exact_part = distance * (2.0 * distance / 2 + damping) / smallest
    assert (run(damping=damping) - RETRAINED).norm() < bound
    assert exact_part <= bound < 2 * exact_part
    assert report.certificate.epsilon == pytest.approx(epsilon_of(bound / 0.05, 1e-5), rel=1e-3)


def test_more_noise_certifies_a_smaller_epsilon():
    found = []
    for sigma in (0.01, 0.1, 1):
        report = RunReport()
        run(report=report, sigma=sigma, distance=0.2, hessian_lipschitz=1)
        found.append(report.certificate.epsilon)
    assert found[0] > found[1] > found[2] > 0


def test_a_curvature_that_is_not_positive_certifies_nothing():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 3))
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    report = RunReport()
    settings = defaults(distance=1, hessian_lipschitz=1, sigma=0.1, damping=0, steps=3)
    list(unlearn("certified", model, SETS, recipe=Recipe(lr=1, epochs=1, weight_decay=0), augmentation=Augmentation(),
                 settings=settings, generator=torch.Generator().manual_seed(0), report=report))
    assert report.certificate.epsilon is None
    assert "damping (0) must be raised" in report.certificate.reason


class Saddle(nn.Module):
    """The regression plus v w in its first logit; at v = w = 0, H has there the eigenvalues +-slope, plus the decay."""

    def __init__(self, slope):
        super().__init__()
        self.linear, self.v, self.w = linear(), nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        with torch.no_grad():
            excess = F.softmax(self.linear(RETAIN.images), 1)[:, 0] - (RETAIN.labels == 0).float()
        self.scale = slope / excess.mean()

    def forward(self, images):
        return self.linear(images) + self.scale * self.v * self.w * torch.tensor([1.0, 0.0, 0.0])


@pytest.mark.parametrize(("damping", "certified"), [(0.0009, False), (0.001, False), (0.0011, True)])
def test_a_hessian_that_is_just_not_positive_definite_certifies_nothing(damping, certified):
    """A smallest eigenvalue of -0.001: by power iteration an epsilon was once issued at damping 0.001."""
    model = Saddle(DECAY + 0.001)
    zero = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    found = certify(task_of(model, damping=damping, sigma=0.1, distance=0.1, hessian_lipschitz=1), zero, zero)
    assert (found.epsilon is not None) is certified
    assert ("nothing is certified: the smallest eigenvalue of H + damping" in found.reason) is not certified


def test_batch_norm_statistics_of_the_forget_set_certify_nothing():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3))
    report = RunReport()
    settings = defaults(distance=0.1, hessian_lipschitz=1, sigma=0.1, scale=100, steps=1)
    list(unlearn("certified", model, SETS, recipe=Recipe(lr=1, epochs=1), augmentation=Augmentation(),
                 settings=settings, generator=torch.Generator().manual_seed(0), report=report))
    assert report.certificate.epsilon is None
    assert "batch norm statistics" in report.certificate.reason


def test_a_scale_below_the_curvature_diverges():
    with pytest.raises(Diverged, match="raise scale"):
        run(scale=1e-3)


@pytest.mark.parametrize(("shift", "delta"), [(0.5, 1e-5), (1, 1e-3), (4, 1e-5), (50, 1e-6)])
def test_epsilon_solves_the_gaussian_mechanism(shift, delta):
    def below(x):
        return math.erfc(-x / math.sqrt(2)) / 2

    epsilon = epsilon_of(shift, delta)
    if epsilon < 100:
        leak = below(shift / 2 - epsilon / shift) - math.exp(epsilon) * below(-shift / 2 - epsilon / shift)
        assert leak == pytest.approx(delta, rel=1e-3)
    assert epsilon <= shift**2 / 2 + shift * math.sqrt(2 * math.log(1 / delta))  # what concentrated privacy gives


def test_a_shift_that_hides_in_delta_has_epsilon_zero():
    assert epsilon_of(1e-4, 1e-3) == 0
