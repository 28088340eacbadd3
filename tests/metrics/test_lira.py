"""LiRA against scipy's normals fitted sample by sample, and on simulated models."""

import numpy as np
import pytest
from scipy.stats import norm

from amun_ray.base.errors import UserError
from amun_ray.metrics import Split, auc, lira, logit_scaled
from amun_ray.metrics.lira import of_moments


@pytest.fixture
def bank():
    """Logits (10, 50, 4) of references, labels (50,), membership (10, 50) with 5 models in and 5 out of each sample."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 50)
    members = np.stack([rng.permutation(10) < 5 for _ in range(50)], axis=1)
    logits = rng.normal(size=(10, 50, 4))
    logits[:, np.arange(50), labels] += 3 * members
    return logits, labels, members


def test_normals_are_those_of_each_side(bank):
    logits, labels, members = bank
    values = np.stack([logit_scaled(row, labels) for row in logits])
    normals = lira.fit(logits, labels, members=members, variance="per_sample")
    for i in range(50):
        inside, outside = values[members[:, i], i], values[~members[:, i], i]
        found = [part[i] for part in normals]
        assert found == pytest.approx([inside.mean(), inside.std(ddof=1), outside.mean(), outside.std(ddof=1)])


def test_few_models_share_one_variance(bank):
    logits, labels, members = bank
    own = lira.fit(logits, labels, members=members, variance="per_sample")
    shared = lira.fit(logits, labels, members=members)
    np.testing.assert_allclose(shared.std_in, np.sqrt(np.mean(own.std_in**2)))
    np.testing.assert_array_equal(shared.mean_out, own.mean_out)
    np.testing.assert_array_equal(lira.fit(logits, labels, members=members, variance="pooled"), shared)


def test_the_fixed_variance_is_that_of_the_published_code(bank):
    """`np.std(dat_in)` there: of all confidences of a side about their common mean, with n in the denominator."""
    logits, labels, members = bank
    values = np.stack([logit_scaled(row, labels) for row in logits])
    found = lira.fit(logits, labels, members=members, variance="fixed")
    np.testing.assert_allclose(found.std_in, np.std(values[members]))
    np.testing.assert_allclose(found.std_out, np.std(values[~members]))


@pytest.mark.parametrize(("models", "own"), [(128, True), (126, False)])
def test_from_64_models_a_side_every_sample_has_its_own_variance(models, own):
    members = np.arange(models)[:, None] % 2 == np.zeros((1, 3))
    logits = np.random.default_rng(0).normal(size=(models, 3, 2)) * np.array([1, 2, 3])[:, None]
    normals = lira.fit(logits, np.zeros(3, dtype=int), members=members)
    assert (len(set(normals.std_in)) == 3) == own


def test_even_odds_do_not_call_a_member():
    normals = lira.Lira(*(np.full(4, x) for x in (1.0, 1.0, -1.0, 1.0)))
    rows = Split(np.array([3]), np.array([0, 1]), np.array([2]))
    assert lira.forget_called_member(np.array([0.0, 0.0, 0.0, 0.0]), normals, rows) == 0
    assert lira.forget_called_member(np.array([0.5, 0.0, 0.0, 0.0]), normals, rows) == 50


def test_score_is_the_log_likelihood_ratio(bank):
    logits, labels, members = bank
    normals = lira.fit(iter(list(logits)), labels, members=members, variance="per_sample")
    value = np.random.default_rng(1).normal(size=50)
    inside, outside = norm(normals.mean_in, normals.std_in), norm(normals.mean_out, normals.std_out)
    expected = inside.logpdf(value) - outside.logpdf(value)
    np.testing.assert_allclose(lira.log_likelihood_ratio(value, normals), expected)
    probability = inside.pdf(value) / (inside.pdf(value) + outside.pdf(value))
    np.testing.assert_allclose(lira.membership_probability(value, normals), probability, rtol=1e-9)


def test_probabilities_stay_finite_far_out():
    normals = lira.Lira(*(np.full(2, x) for x in (5.0, 0.01, -5.0, 0.01)))
    np.testing.assert_array_equal(lira.membership_probability(np.array([50.0, -50.0]), normals), [1, 0])


def test_members_are_told_from_others_and_retrained_from_remembered():
    rng = np.random.default_rng(0)
    labels = np.zeros(600, dtype=int)
    members = np.stack([rng.permutation(8) < 4 for _ in range(600)], axis=1)

    def logits(member):
        return np.stack([rng.normal(size=600) + 8 * member, rng.normal(size=600)], axis=1)

    normals = lira.fit([logits(member) for member in members], labels, members=members)
    rows = Split(np.arange(200), np.arange(200, 400), np.arange(400, 600))
    remembered, retrained = (logit_scaled(logits(np.arange(600) < seen), labels) for seen in (400, 200))
    scores = lira.log_likelihood_ratio(remembered, normals)
    assert auc(scores[rows.forget], scores[rows.test]) > 99
    assert lira.forget_called_member(remembered, normals, rows) > 95
    scores = lira.log_likelihood_ratio(retrained, normals)
    assert auc(scores[rows.forget], scores[rows.test]) == pytest.approx(50, abs=6)
    assert lira.forget_called_member(retrained, normals, rows) < 5


def test_references_that_agree_do_not_divide_by_zero():
    members = np.array([[True], [True], [False], [False]])
    normals = lira.fit(np.zeros((4, 1, 2)), np.zeros(1, dtype=int), members=members)
    assert np.isfinite(lira.log_likelihood_ratio(np.zeros(1), normals)).all()


def test_refuses(bank):
    logits, labels, members = bank
    with pytest.raises(UserError, match="predictions of 9 models"):
        lira.fit(logits[:9], labels, members=members)
    with pytest.raises(UserError, match="at least 2 are needed"):
        lira.fit(logits[:1], labels, members=members[:1])
    with pytest.raises(UserError, match="fitted samples"):
        lira.log_likelihood_ratio(np.zeros(3), lira.fit(logits, labels, members=members))


def test_too_few_models_on_one_side_of_one_sample_are_too_few():
    count, squares = np.array([[64, 64], [64, 63]]), np.array([[63.0, 126.0], [63.0, 62.0]])
    mean = np.zeros((2, 2))
    for each, same in ((count, "pooled"), (count + 1, "per_sample")):
        np.testing.assert_allclose(of_moments(each, mean, squares, "auto"), of_moments(each, mean, squares, same))
