"""IAM: by hand, and against the definition written out over all models."""

import numpy as np
import pytest
from scipy.stats import gumbel_r

from amun_ray.base.errors import UserError
from amun_ray.metrics import iam_gap, unlearning_score


def test_iam_by_hand():
    """Without spread every distribution is a step at s_a = 10 a, or 0.57 where it is just there."""
    score = unlearning_score(np.array([10.0]), np.array([5.0]), np.array([0.0]))
    assert score == pytest.approx([1 - (12.25 + 0.5 * np.exp(-np.exp(-np.euler_gamma))) / 49.5])
    assert unlearning_score(np.array([10.0]), np.array([0.0]), np.array([0.0])) == pytest.approx([1])
    assert unlearning_score(np.array([10.0]), np.array([10.0]), np.array([0.0])) == pytest.approx([0])


def test_iam_is_its_definition():
    rng = np.random.default_rng(0)
    never, original, unlearned = rng.normal(size=(5, 30)), rng.normal(4, 1, 30), rng.normal(2, 2, 30)
    known = np.zeros(30)
    for a in np.arange(1, 100) / 100:
        models = never + a * (original - never)
        scale = np.sqrt(6) * models.std() / np.pi
        known += a * gumbel_r.cdf(unlearned, models.mean(axis=0) - np.euler_gamma * scale, scale)
    expected = 1 - known / 49.5
    assert unlearning_score(original, unlearned, never.mean(axis=0), never.std(axis=0)) == pytest.approx(expected)


def test_one_model_that_never_saw_the_samples_tells_forgotten_from_kept():
    rng = np.random.default_rng(1)
    never, original = rng.normal(0, 1, 200), rng.normal(8, 1, 200)
    forgotten = unlearning_score(original, never + rng.normal(0, 0.5, 200), never)
    kept = unlearning_score(original, original, never)
    assert forgotten.mean() > 0.9
    assert kept.mean() < 0.2


def test_what_iam_cannot_read_is_refused():
    with pytest.raises(UserError, match=r"\(2,\).*of the same samples"):
        unlearning_score(np.zeros(2), np.zeros(3), np.zeros(2))
    with pytest.raises(UserError, match="not all confidences are finite"):
        unlearning_score(np.zeros(2), np.array([0, np.inf]), np.zeros(2))


def test_the_gap_is_nought_for_a_model_like_the_unseeing_ones_and_grows_both_ways():
    """By hand: without spread the score is 1 at the mean of those, 0 at the original, 1 - 12.53 / 49.5 half-way."""
    original, never = np.array([10.0]), np.array([0.0])
    assert iam_gap(original, never, never) == 0
    assert iam_gap(original, original, never) == pytest.approx(100)
    half = (12.25 + 0.5 * np.exp(-np.exp(-np.euler_gamma))) / 49.5
    assert iam_gap(original, np.array([5.0]), never) == pytest.approx(100 * half, abs=1e-3)
    rng = np.random.default_rng(0)
    never, spread = rng.normal(size=100), np.ones(100)
    gaps = [iam_gap(never + 8, never + shift, never, spread) for shift in (8, 4, 0, -4)]
    assert gaps[0] > gaps[1] > gaps[2] == 0 < gaps[3]  # a ruined model is not the best
