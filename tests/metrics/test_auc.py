"""AUC and ROC against scikit-learn, against pairs counted one by one, and at their edges."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from amun_ray.base.errors import UserError
from amun_ray.metrics import auc, roc, tpr_at_fpr
from amun_ray.metrics.auc import auc_interval, balanced


@pytest.fixture(params=["continuous", "many ties"])
def sides(request):
    rng = np.random.default_rng(3)
    positive, negative = rng.normal(0.5, 1, 301), rng.normal(0, 1, 997)
    if request.param == "many ties":
        positive, negative = positive.round(), negative.round()
    return positive, negative


def with_truth(positive, negative):
    return np.repeat([1, 0], [len(positive), len(negative)]), np.concatenate([positive, negative])


def test_auc_equals_scikit_learn_and_the_pairs(sides):
    positive, negative = sides
    pairs = (positive[:, None] > negative).mean() + 0.5 * (positive[:, None] == negative).mean()
    assert auc(positive, negative) == pytest.approx(100 * pairs, abs=1e-11)
    assert auc(positive, negative) == pytest.approx(100 * roc_auc_score(*with_truth(positive, negative)), abs=1e-10)


def test_auc_of_the_other_side_is_the_complement(sides):
    positive, negative = sides
    assert auc(positive, negative) + auc(negative, positive) == pytest.approx(100, abs=1e-11)


def test_auc_by_hand():
    assert auc(np.array([2.0, 1.0]), np.array([1.0, 0.0])) == 87.5  # pairs 1, 1, 1/2, 1
    assert auc(np.array([1.0]), np.array([0.0])) == 100
    assert auc(np.array([-np.inf]), np.array([np.inf])) == 0


def test_roc_equals_scikit_learn(sides):
    fpr, tpr = roc(*sides)
    expected_fpr, expected_tpr, _ = roc_curve(*with_truth(*sides), drop_intermediate=False)
    np.testing.assert_allclose(fpr, 100 * expected_fpr)
    np.testing.assert_allclose(tpr, 100 * expected_tpr)


def test_tpr_at_fpr_by_hand():
    positive, negative = np.array([9.0, 7.0, 5.0, 1.0]), np.array([8.0, 6.0, 5.0, 4.0, 3.0])
    assert tpr_at_fpr(positive, negative, 0) == 25  # only 9 is above every negative
    assert tpr_at_fpr(positive, negative, 19.9) == 25
    assert tpr_at_fpr(positive, negative, 20) == 50  # 8 may pass, so 7 does
    assert tpr_at_fpr(positive, negative, 59.9) == 50  # the tie at 5 cannot be split
    assert tpr_at_fpr(positive, negative, 60) == 75
    assert tpr_at_fpr(positive, negative, 100) == 100


def test_balanced_draws_average_to_the_auc_over_all_pairs(sides):
    positive, negative = sides
    generator = torch.Generator().manual_seed(0)
    draws = []
    for _ in range(200):
        drawn = balanced(positive, negative, generator)
        assert [len(side) for side in drawn] == [301, 301]
        draws.append(auc(*drawn))
    assert np.mean(draws) == pytest.approx(auc(positive, negative), abs=4 * np.std(draws) / np.sqrt(200))


def test_draws_repeat_for_a_seed(sides):
    first, second = (balanced(*sides, torch.Generator().manual_seed(7)) for _ in range(2))
    np.testing.assert_array_equal(first[1], second[1])


def test_scores_that_say_nothing():
    same = np.full(5, 0.25)
    with pytest.raises(UserError, match="all 10 scores equal 0.25"):
        auc(same, same)
    assert auc(same, same, constant=50.0) == 50


@pytest.mark.parametrize("function", [auc, roc])
def test_refuses_empty_sides_and_nan(function):
    with pytest.raises(UserError, match="negative scores: the set is empty"):
        function(np.ones(2), np.array([]))
    with pytest.raises(UserError, match="positive scores: 1 of 2 are NaN"):
        function(np.array([0.0, np.nan]), np.ones(2))


def test_fpr_is_a_percentage():
    with pytest.raises(UserError, match=r"\[0, 100\]"):
        tpr_at_fpr(np.ones(1), np.zeros(1), 101)


def test_the_interval_is_that_of_hanley_and_mcneil():
    """Their example: an area of 0.893 over 51 and 58 cases has a standard error of 0.032; here to one digit more."""
    low, high = auc_interval(89.3, 51, 58)
    assert (89.3 - low, high - 89.3) == pytest.approx((196 * 0.03251,) * 2, rel=1e-3)
    assert auc_interval(99.0, 5, 5)[1] == 100
    assert auc_interval(1.0, 5, 5)[0] == 0
    assert auc_interval(89.3, 58, 51) != (low, high)
