"""Theorem 4.1 of the AMUN paper: what it bounds the distance to the retrained weights by, term by term.

One sample (x, y) is forgotten by one gradient step of size 1 / beta from the original f_o, on the summed loss of D
and (x_adv, y_adv). f' is the model after it, f_u the retrained one. If the loss is convex and beta-smooth in the
weights and L-Lipschitz in the image, then

    |theta' - theta_u|^2 <= |theta_o - theta_u|^2 + (2 / beta) (L delta - C + rest)
    C = l(f_o(x_adv), y) + l(f'(x_adv), y_adv) - l(f_u(x), y) - l(f_u(x_adv), y_adv)

with delta = |x_adv - x|. The paper leaves out `rest`, the loss of f_u on D_R and of f_o at x: it takes both to be zero.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Terms(NamedTuple):
    """The terms of the bound, of each forgotten sample: (n,) in nats, the distance in pixel units."""

    distance: np.ndarray  # delta
    original_at_adversarial: np.ndarray  # l(f_o(x_adv), y)
    unlearned_at_adversarial: np.ndarray  # l(f'(x_adv), y_adv)
    retrained: np.ndarray  # l(f_u(x), y): its generalisation
    transfer: np.ndarray  # l(f_u(x_adv), y_adv): small where the retrained model says the same

    @property
    def c(self) -> np.ndarray:
        """C, (n,)."""
        return self.original_at_adversarial + self.unlearned_at_adversarial - self.retrained - self.transfer


def loss(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The cross-entropy (n,) of logits (n, classes) in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]


class Step(NamedTuple):
    """After a number of steps: the squared distance to the retrained weights, and what the theorem bounds it by."""

    distance: float
    bound: float  # as the paper has it
    exact: float  # with `rest`


class Logistic(NamedTuple):
    """Logistic regression on points (n, d) with labels (n,) 0 and 1, by weights (d + 1,) with the intercept last."""

    points: np.ndarray
    labels: np.ndarray

    @property
    def design(self) -> np.ndarray:
        """(n, d + 1)."""
        return np.hstack([self.points, np.ones((len(self.points), 1))])

    def losses(self, weights: np.ndarray) -> np.ndarray:
        """The loss (n,) of each point, in nats."""
        return np.logaddexp(0, (1 - 2 * self.labels) * (self.design @ weights))

    def gradient(self, weights: np.ndarray) -> np.ndarray:
        """Of the summed loss, (d + 1,)."""
        return (1 / (1 + np.exp(-(self.design @ weights))) - self.labels) @ self.design

    @property
    def smoothness(self) -> float:
        """beta of the summed loss: a quarter of the largest eigenvalue of X'X."""
        return float(np.linalg.eigvalsh(self.design.T @ self.design)[-1]) / 4

    def fitted(self, steps: int) -> np.ndarray:
        """The weights after so many gradient steps of size 1 / beta from 0."""
        weights, size = np.zeros(self.points.shape[1] + 1), 1 / self.smoothness
        for _ in range(steps):
            weights = weights - size * self.gradient(weights)
        return weights


def convex_steps(retain: Logistic, point: np.ndarray, label: int, original: np.ndarray, retrained: np.ndarray, *,
                 steps: int) -> Iterator[Step]:
    """Forget `point` (d,) by steps of the theorem; the bound after k steps is that of each from where it began, summed.

    The adversarial point is beyond the nearest one on the boundary of `original`, by a tenth of the way there. L is the
    norm of the weights of the image before a step: no loss of theirs is steeper.
    """
    normal = original[:-1]
    away = point - 1.1 * (point @ normal + original[-1]) / (normal @ normal) * normal
    other = int(away @ normal + original[-1] > 0)
    here, there, wrong = (Logistic(x[None], np.array([y])) for x, y in ((point, label), (away, other), (away, label)))
    joined = Logistic(np.vstack([retain.points, point, away]), np.append(retain.labels, [label, other]))
    size, weights = 1 / joined.smoothness, original
    bound = exact = float(((original - retrained) ** 2).sum())
    for _ in range(steps):
        after = weights - size * joined.gradient(weights)
        c = (wrong.losses(weights) + there.losses(after) - here.losses(retrained) - there.losses(retrained)).item()
        slope = float(np.linalg.norm(weights[:-1]) * np.linalg.norm(away - point))
        rest = float(retain.losses(retrained).sum() + here.losses(weights).item())
        bound, exact = bound + 2 * size * (slope - c), exact + 2 * size * (slope - c + rest)
        weights = after
        yield Step(float(((weights - retrained) ** 2).sum()), bound, exact)
