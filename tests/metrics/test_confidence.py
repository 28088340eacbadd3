"""Confidences against their formulas, evaluated row by row."""

import math

import numpy as np
import pytest

from amun_ray.base.errors import UserError
from amun_ray.metrics import logit_scaled, softmax, taylor_softmax

CONFIDENCES = [taylor_softmax, softmax, logit_scaled]


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(scale=6, size=(40, 7)).astype(np.float32), rng.integers(0, 7, 40)


def test_taylor_softmax_solved_by_hand():
    # z / 2 = (1, 0, -1); T4(0) = 1 and T4(-1) = 1 - 1 + 1/2 - 1/6 + 1/24 = 0.375
    own = 1 + 0.4 + 0.08 + 0.064 / 6 + 0.0256 / 24
    expected = own / (own + 1 + 0.375)
    assert taylor_softmax(np.array([[2.0, 0.0, -2.0]]), np.array([0]))[0] == pytest.approx(expected, rel=1e-14)


def test_taylor_softmax_equals_its_formula(batch):
    logits, labels = batch
    order, margin, temperature = 6, 0.3, 1.5

    def polynomial(u):
        return sum(u**k / math.factorial(k) for k in range(order + 1))

    expected = []
    for row, label in zip(logits.astype(float) / temperature, labels, strict=True):
        own = polynomial(row[label] - margin)
        expected.append(own / (own + sum(polynomial(u) for j, u in enumerate(row) if j != label)))
    found = taylor_softmax(logits, labels, order=order, margin=margin, temperature=temperature)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_softmax_and_logit_scaled_equal_their_formulas(batch):
    logits, labels = batch
    own = np.exp(logits.astype(float))[np.arange(40), labels]
    others = np.exp(logits.astype(float)).sum(axis=1) - own
    np.testing.assert_allclose(softmax(logits, labels), own / (own + others), rtol=1e-9)
    np.testing.assert_allclose(logit_scaled(logits, labels), np.log(own / others), rtol=1e-6)


def test_softmax_of_a_temperature_is_that_of_the_divided_logits(batch):
    logits, labels = batch
    np.testing.assert_allclose(softmax(logits, labels, temperature=3.0), softmax(logits / 3, labels), rtol=1e-6)
    np.testing.assert_allclose(softmax(np.array([[900.0, 901.0]]), np.array([0])), 1 / (1 + math.e))


def test_logit_scaled_keeps_digits_where_p_rounds_to_one():
    logits = np.array([[800.0, 0.0, 0.0], [0.0, 800.0, 0.0]])
    np.testing.assert_allclose(logit_scaled(logits, np.array([0, 0])), [800 - math.log(2), -800], rtol=1e-14)


@pytest.mark.parametrize("confidence", CONFIDENCES)
def test_a_row_ignores_its_neighbours(confidence, batch):
    logits, labels = batch
    alone = [confidence(logits[i : i + 1], labels[i : i + 1])[0] for i in range(len(labels))]
    np.testing.assert_array_equal(confidence(logits, labels), alone)


@pytest.mark.parametrize("confidence", CONFIDENCES)
def test_blocks_are_invisible_and_the_input_is_left_alone(confidence, batch, monkeypatch):
    logits, labels = batch
    whole, before = confidence(logits, labels), logits.copy()
    monkeypatch.setattr("amun_ray.metrics.confidence.BLOCK_VALUES", 21)
    np.testing.assert_array_equal(confidence(logits, labels), whole)
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("confidence", CONFIDENCES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_counted(confidence, bad, batch):
    logits, labels = batch[0].copy(), batch[1]
    rows = np.arange(3)
    logits[rows, labels[rows]] = bad
    with pytest.raises(UserError, match="3 of 40 rows are not finite"):
        confidence(logits, labels)


def test_logits_that_are_not_finite_are_counted_over_all_blocks(batch, monkeypatch):
    monkeypatch.setattr("amun_ray.metrics.confidence.BLOCK_VALUES", 21)
    logits = batch[0].copy()
    logits[[1, 20, 39]] = np.nan
    with pytest.raises(UserError, match="3 of 40 rows"):
        softmax(logits, batch[1])


@pytest.mark.parametrize("confidence", CONFIDENCES)
def test_shapes_must_fit(confidence, batch):
    logits, labels = batch
    with pytest.raises(UserError, match="39 rows for 40 labels"):
        confidence(logits[1:], labels)
    with pytest.raises(UserError, match="labels run from"):
        confidence(logits[:, :2], labels)
    with pytest.raises(UserError, match="no samples"):
        confidence(logits[:0], labels[:0])


@pytest.mark.parametrize("settings", [{"order": -1}, {"order": 0}, {"temperature": 0.0}])
def test_settings_out_of_range(settings, batch):
    with pytest.raises(UserError):
        taylor_softmax(*batch, **settings)


def test_what_has_no_odds_and_no_temperature_is_refused(batch):
    with pytest.raises(UserError, match="needs at least 2 classes"):
        logit_scaled(batch[0][:, :1], np.zeros(40, dtype=int))
    with pytest.raises(UserError, match="temperature must be positive, got 0"):
        softmax(*batch, temperature=0)


def test_an_odd_order_is_the_sum_of_the_published_code_and_never_negative():
    """At temperature 1 without a margin, T(2) = 1 + 2 + 2 + 8/6 and T(0) = 1; T(-4) = -5 2/3 counts as 0."""
    settings = {"order": 3, "margin": 0.0, "temperature": 1.0}
    rows, labels = np.array([[2.0, 0.0], [-4.0, 0.0], [0.0, -4.0]]), np.array([0, 0, 0])
    three = 5 + 8 / 6
    assert taylor_softmax(rows, labels, **settings) == pytest.approx([three / (three + 1), 0, 1], abs=1e-9)
    assert (taylor_softmax(rows, labels, **settings) > 0).all()
