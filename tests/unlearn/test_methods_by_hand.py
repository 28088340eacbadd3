"""One epoch of every fine-tuning method on softmax regression, against the update worked out in numpy."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from amun_ray.base.seeds import generator
from amun_ray.training.augment import Augmentation
from amun_ray.training.parts import place
from amun_ray.training.recipe import Recipe
from amun_ray.unlearn import METHODS, Sets, unlearn

LR, MOMENTUM, DECAY = 0.5, 0.9, 0.1
RNG = np.random.default_rng(0)


def features(count):
    return RNG.random((count, 4), dtype=np.float32)


# Two classes: the wrong label of a sample is known without drawing it.
RETAIN, FORGET = (features(7), RNG.integers(0, 2, 7)), (features(5), RNG.integers(0, 2, 5))
ADVERSARIAL = (np.clip(FORGET[0] + 0.1, 0, 1).astype(np.float32), 1 - FORGET[1])
START = RNG.normal(size=(2, 4))


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def slope(weights, *sets):
    """Gradient of the mean cross-entropy over the union of `sets`: the textbook (p - onehot) x^T."""
    x, y = (np.concatenate(column) for column in zip(*sets, strict=True))
    return (softmax(x @ weights.T) - np.eye(2)[y]).T @ x / len(x)


class Descent:
    """SGD with momentum and weight decay, by its definition."""

    def __init__(self, moves=1.0, start=START):
        self.weights, self.velocity, self.moves = start.copy(), 0.0, moves

    def step(self, gradient):
        self.velocity = MOMENTUM * self.velocity + self.moves * (gradient + DECAY * self.weights)
        self.weights = self.weights - LR * self.velocity
        return self


def finetune(retain):
    return Descent().step(slope(START, *retain))


def amun(retain):
    return Descent().step(slope(START, *retain, FORGET, ADVERSARIAL))


def amun_without_forget(retain):
    return Descent().step(slope(START, *retain, ADVERSARIAL))


def amun_soft(retain):
    moved = np.clip(FORGET[0] + 1.3 * (ADVERSARIAL[0] - FORGET[0]), 0, 1)
    x = np.concatenate([*(part[0] for part in retain), FORGET[0]])
    wanted = np.concatenate([*(np.eye(2)[part[1]] for part in retain), softmax(moved @ START.T)])
    return Descent().step((softmax(x @ START.T) - wanted).T @ x / len(x))


def random_label(retain):
    return Descent().step(slope(START, *retain, (FORGET[0], 1 - FORGET[1])))


def gradient_ascent(retain):
    run = Descent()
    for part in retain:
        run.step(slope(run.weights, part))
    return run.step(-slope(run.weights, FORGET))


def boundary_shrink(retain):
    x, y = FORGET
    towards = ((softmax(x @ START.T) - np.eye(2)[y]) @ START) > 0
    neighbours = np.clip(x + 0.2 * np.where(towards, 1, -1), 0, 1)
    labels = (neighbours @ START.T).argmax(1)
    run = Descent()
    for part in retain:
        run.step(slope(run.weights, part))
    return run.step(slope(run.weights, (x, labels)))


def l1_sparse(retain):
    return Descent().step(slope(START, *retain) + 0.01 * np.sign(START))


def largest(share):
    size = np.abs(slope(START, FORGET)).ravel()
    mask = np.zeros_like(size)
    mask[np.argsort(-size)[:round(share * len(size))]] = 1
    return mask.reshape(START.shape)


def salun(retain):
    return Descent(largest(0.25)).step(slope(START, *retain, (FORGET[0], 1 - FORGET[1])))


def amun_salun(retain):
    return Descent(largest(0.25)).step(slope(START, *retain, FORGET, ADVERSARIAL))


def weight_distortion(retain):
    noise = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0)).numpy().reshape(2, 4)
    run = Descent(start=START + 0.3 * noise)
    return run.step(slope(run.weights, *retain))


def convolution_transpose(retain):
    """The kernel [[a, b], [c, d]] becomes [[a, c], [b, d]]."""
    run = Descent(start=START[:, [0, 2, 1, 3]])
    return run.step(slope(run.weights, *retain))


def neggrad_plus(retain):
    return Descent().step(0.9 * slope(START, *retain) - 0.1 * slope(START, FORGET))


def scrub(retain):
    def divergence_slope(weights, x, temperature=4):
        softened, wanted = (softmax(x @ w.T / temperature) for w in (weights, START))
        return temperature * (softened - wanted).T @ x / len(x)

    run = Descent()
    run.step(-divergence_slope(run.weights, FORGET[0]))
    (part,) = retain
    return run.step(0.5 * divergence_slope(run.weights, part[0]) + 0.8 * slope(run.weights, part))


def sfr_on(retain):
    (part,) = retain
    x, y = FORGET
    mask = slope(START, FORGET) ** 2 >= 12 * slope(START, part) ** 2
    assert 0 < mask.sum() < mask.size
    found = softmax(x @ START.T)
    counts = -np.log(found[np.arange(5), y])
    counts = counts**-0.5 / (counts**-0.5).sum()
    ascent = -25 * mask * (((found - np.eye(2)[y]) * counts[:, None]).T @ x)
    norm = np.sqrt((ascent**2).sum())
    assert norm > 7
    run = Descent().step(ascent * 7 / norm)
    return run.step(slope(run.weights, part))


def lotus(retain):
    """Sample by sample; the noise of D_R comes first."""
    (part,) = retain
    temperature = math.exp(3 * (np.mean((FORGET[0] @ START.T).argmax(1) == FORGET[1]) - 0.1))
    assert temperature > 1.5
    draw = generator(0, "lotus")
    kept = torch.randperm(len(part[1]), generator=draw)[:math.ceil(0.3 * len(part[1]))].numpy()
    x = np.concatenate([part[0][kept], FORGET[0]])
    said = x @ START.T - np.log(torch.empty(len(x), 2).exponential_(generator=draw).numpy())
    wanted = np.concatenate([np.eye(2)[said[:len(kept)].argmax(1)], softmax(said[len(kept):] / temperature)])
    return Descent().step((softmax(x @ START.T) - wanted).T @ x / len(x))


HAND = {each.__name__: each for each in (finetune, amun, amun_without_forget, amun_soft, random_label,
                                         gradient_ascent, boundary_shrink, l1_sparse, salun, amun_salun, neggrad_plus,
                                         scrub, weight_distortion, convolution_transpose, sfr_on, lotus)}
SETTINGS = {"boundary_shrink": {"bound": 0.2}, "l1_sparse": {"alpha": 0.01}, "salun": {"mask_ratio": 0.25},
            "amun_salun": {"mask_ratio": 0.25}, "amun_soft": {"step": 1.3}, "neggrad_plus": {"retain_weight": 0.9},
            "weight_distortion": {"noise": 0.3}, "sfr_on": {"threshold": 12},
            "lotus": {"alpha": 3, "unseen_accuracy": 0.1},
            "scrub": {"alpha": 0.5, "gamma": 0.8, "temperature": 4, "max_epochs": 1}}
CASES = [(name, access) for name in HAND for access in sorted(METHODS[name].access)]


def test_every_fine_tuning_method_is_checked_by_hand():
    assert HAND.keys() == {name for name, method in METHODS.items() if method.run is None}


def linear():
    """Softmax regression on images of 2 x 2, as a convolution whose kernel covers the image."""
    model = nn.Sequential(nn.Conv2d(1, 2, 2, bias=False), nn.Flatten())
    model[0].weight.data = torch.from_numpy(START).float().view(2, 1, 2, 2)
    return model


def as_part(features, labels):
    return place(features.reshape(-1, 1, 2, 2), labels, augment=False)


def run(name, access, epochs=1):
    model = linear()
    sets = Sets(retain=as_part(*RETAIN) if access == "retain" else None, forget=as_part(*FORGET),
                adversarial=as_part(*ADVERSARIAL))
    recipe = Recipe(lr=LR, epochs=epochs, momentum=MOMENTUM, weight_decay=DECAY)
    for _ in unlearn(name, model, sets, recipe=recipe, augmentation=Augmentation(),
                     generator=torch.Generator().manual_seed(0), settings=SETTINGS.get(name)):
        pass
    return model[0].weight.detach().reshape(2, 4).numpy()


@pytest.mark.parametrize(("name", "access"), CASES)
def test_one_epoch_is_the_update_worked_out_by_hand(name, access):
    wanted = HAND[name]([RETAIN] if access == "retain" else []).weights
    assert not np.allclose(wanted, START, atol=1e-3)
    np.testing.assert_allclose(run(name, access), wanted, rtol=1e-4, atol=1e-5)


def test_gradient_ascent_raises_the_loss_on_the_forget_set():
    def loss(weights):
        return -np.log(softmax(FORGET[0] @ weights.T)[np.arange(5), FORGET[1]]).mean()

    assert loss(run("gradient_ascent", "forget_only")) > loss(START)
    assert loss(run("finetune", "retain")) != loss(START)


@pytest.mark.parametrize("name", ["salun", "amun_salun"])
@pytest.mark.parametrize("access", ["retain", "forget_only"])
def test_the_mask_keeps_exactly_the_unselected_weights(name, access):
    moved = run(name, access, epochs=4) != START.astype(np.float32)
    np.testing.assert_array_equal(moved, largest(0.25) == 1)
