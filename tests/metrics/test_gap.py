"""Accuracy and Avg. Gap: the numbers of the paper's own tables are the reference."""

import numpy as np
import pytest

from amun_ray.base.errors import UserError
from amun_ray.metrics import (
    GAP_TERMS,
    GAP_TERMS_MIS,
    accuracy,
    accuracy_interval,
    average_gap,
    is_unchanged,
    keeps_accuracies,
    proxy,
    tug_of_war,
)


def row(*values):
    return dict(zip(GAP_TERMS, values, strict=True))


RETRAIN = row(94.49, 100.00, 94.33, 50.00)


@pytest.mark.parametrize(
    ("scores", "gap"),
    [
        (row(95.16, 96.64, 92.21, 52.08), 2.06),  # fine-tuning, table 1 of the paper
        (row(95.45, 99.57, 93.45, 50.18), 0.62),  # AMUN
        (row(4.77, 5.07, 5.09, 49.78), 68.53),  # gradient ascent without D_R, table 2
    ],
)
def test_average_gap_of_the_papers_rows(scores, gap):
    assert average_gap(scores, RETRAIN) == pytest.approx(gap, abs=0.06)  # the paper averages gaps of single runs


def test_zero_for_the_target_itself_and_extras_are_ignored():
    assert average_gap({**RETRAIN, "retain_test_auc": 60.0}, RETRAIN) == 0


def test_gap_with_mis():
    scores = {**RETRAIN, "mis": 10.0}
    assert average_gap(scores, {**RETRAIN, "mis": 12.0}, GAP_TERMS_MIS) == 0.5
    with pytest.raises(UserError, match="retrained scores lack a finite mis"):
        average_gap(scores, RETRAIN, GAP_TERMS_MIS)


def test_nan_is_refused():
    with pytest.raises(UserError, match="scores lack a finite unlearn_accuracy"):
        average_gap(row(float("nan"), 1, 1, 1), RETRAIN)


def test_a_method_that_did_nothing_is_seen():
    original = row(100, 100, 94.5, 62)
    assert is_unchanged(row(99.95, 100, 93.0, 61), original)
    assert not is_unchanged(row(95.0, 100, 94.5, 62), original)


def test_a_difference_of_exactly_the_tolerance_is_none():
    original = row(50, 100, 90, 60)
    assert keeps_accuracies(row(50.5, 99.5, 0, 0), original, tolerance=0.5)
    assert not keeps_accuracies(row(50.75, 100, 90, 60), original, tolerance=0.5)
    assert is_unchanged(row(50, 100, 0, 62), original)  # 2 points of FT AUC unless told otherwise
    assert not is_unchanged(row(50, 100, 90, 62.5), original)


def test_a_method_that_lowers_the_attack_alone_did_something():
    original = row(100, 100, 98.9, 69)
    assert keeps_accuracies(row(100, 99.95, 98.5, 55), original)
    assert not is_unchanged(row(100, 99.95, 98.5, 55), original)
    assert not keeps_accuracies(row(100, 99.8, 98.5, 55), original)


def test_accuracy_in_percent():
    logits = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [2.0, 1.0]])
    assert accuracy(logits, np.array([0, 0, 0, 1])) == 50  # the tie goes to the first class
    with pytest.raises(UserError, match="^logits: 2 of 4 rows"):
        accuracy(np.where(logits >= 1, np.nan, logits)[[0, 1, 2, 2]], np.zeros(4, dtype=int))
    with pytest.raises(UserError, match="^logits: 4 rows for 3 labels"):
        accuracy(logits, np.zeros(3, dtype=int))
    with pytest.raises(UserError, match="2 classes, but labels run from 0 to 2"):
        accuracy(logits, np.array([0, 0, 0, 2]))


@pytest.mark.parametrize(("scores", "value"), [
    (row(94.49, 100.0, 94.33, 50.0), 0.0),  # the retrained model, against an original that is no better
    (row(100.0, 100.0, 94.33, 61.0), 5.5),  # an original that has forgotten nothing
    (row(95.0, 99.0, 92.33, 47.0), (3.0 + 2.0) / 2),
    (row(95.0, 99.0, 95.33, 47.0), 1.5),  # a gain of test accuracy is no loss
])
def test_proxy_by_hand(scores, value):
    assert proxy(scores, 94.33) == pytest.approx(value)


def test_proxy_refuses_what_is_missing():
    with pytest.raises(UserError, match="proxy: the scores lack a finite test_accuracy"):
        proxy({"forget_test_auc": 50.0}, 90.0)
    with pytest.raises(UserError, match="proxy: the scores lack a finite forget_test_auc"):
        proxy(row(1, 1, 1, float("nan")), 90.0)


def test_tug_of_war_is_a_product_over_the_three_accuracies():
    scores = {**RETRAIN, **{term: RETRAIN[term] - 10 for term in ("unlearn_accuracy", "retain_accuracy")},
              "forget_test_auc": 0.0}
    assert tug_of_war(scores, RETRAIN) == pytest.approx(81)
    assert tug_of_war(RETRAIN, RETRAIN) == 100


def test_the_interval_of_an_accuracy_is_wilsons():
    """By hand, z^2 = 3.8416: 14 of 14 is at least 14 / (14 + z^2); 5 of 10 is 50 +- 26.34, symmetric."""
    low, high = accuracy_interval(100.0, 14)
    assert (low, high) == (pytest.approx(100 * 14 / 17.8416), pytest.approx(100))
    assert accuracy_interval(50.0, 10) == pytest.approx((50 - 26.341, 50 + 26.341), abs=1e-3)
    assert accuracy_interval(0.0, 14) == pytest.approx((100 - high, 100 - low))
