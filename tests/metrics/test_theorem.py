"""Theorem 4.1: its terms by hand, and the inequality where its assumptions hold."""

import numpy as np
import pytest

from amun_ray.metrics.theorem import Logistic, Terms, convex_steps, loss


def problem(seed: int, distance: float, dimensions: int = 3):
    """40 points of two classes, so far apart on the first axis; the last one is to be forgotten."""
    rng = np.random.default_rng(seed)
    labels = np.arange(40) % 2
    points = rng.normal(0, 0.5, (40, dimensions))
    points[:, 0] += distance * (labels - 0.5)
    every, retain = Logistic(points, labels), Logistic(points[:-1], labels[:-1])
    return retain, points[-1], int(labels[-1]), every


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("distance", [1.0, 6.0])
def test_on_logistic_regression_the_distance_is_within_the_bound_after_every_step(seed, distance):
    retain, point, label, every = problem(seed, distance)
    found = [*convex_steps(retain, point, label, every.fitted(300), retain.fitted(300), steps=40)]
    assert all(step.distance <= step.exact + 1e-12 for step in found)
    if distance == 6.0:  # both losses that the paper takes to be 0 are small
        assert all(step.distance <= step.bound + 1e-12 for step in found)


def test_the_bound_of_the_first_step_by_hand():
    """One point of D_R at 2 with label 1, one at -1 with label 0 to be forgotten; the original w = (1, 0): the boundary
    is at 0, so that x_adv = 0.1, under label 1."""
    retain = Logistic(np.array([[2.0]]), np.array([1]))
    retrained = np.array([0.5, 0.25])
    (step,) = convex_steps(retain, np.array([-1.0]), 0, np.array([1.0, 0.0]), retrained, steps=1)
    x = np.array([[2.0, 1], [-1, 1], [0.1, 1]])
    labels = np.array([1, 0, 1])
    beta = np.linalg.eigvalsh(x.T @ x)[-1] / 4
    sigmoid = 1 / (1 + np.exp(-x @ [1.0, 0.0]))
    after = np.array([1.0, 0.0]) - (sigmoid - labels) @ x / beta

    def nats(weights, z, y):
        p = 1 / (1 + np.exp(-(weights[0] * z + weights[1])))
        return -np.log(p if y else 1 - p)

    c = (nats([1, 0], 0.1, 0) + nats(after, 0.1, 1) - nats(retrained, -1, 0) - nats(retrained, 0.1, 1))
    first = 0.5**2 + 0.25**2
    assert step.distance == pytest.approx(((after - retrained) ** 2).sum())
    assert step.bound == pytest.approx(first + 2 / beta * (1 * 1.1 - c))
    assert step.exact == pytest.approx(step.bound + 2 / beta * (nats(retrained, 2, 1) + nats([1, 0], -1, 0)))


def test_the_loss_and_c_by_hand():
    assert loss(np.array([[0.0, 0.0], [1000.0, 0.0]]), np.array([1, 1])) == pytest.approx([np.log(2), 1000])
    terms = Terms(*(np.array([value]) for value in (0.5, 1.0, 2.0, 4.0, 8.0)))
    assert terms.c == pytest.approx(1 + 2 - 4 - 8)


def test_fitting_descends_to_where_the_gradient_is_small():
    retain, *_ = problem(0, 1.0)
    assert np.abs(retain.gradient(retain.fitted(3000))).max() < 1e-2
    assert retain.losses(retain.fitted(100)).sum() < retain.losses(np.zeros(4)).sum() == pytest.approx(39 * np.log(2))
