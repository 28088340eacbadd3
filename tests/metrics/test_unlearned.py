"""U-LiRA and its KDE version: against scipy model by model, and on models that unlearned well, badly, or not at all."""

import numpy as np
import pytest
from scipy.stats import norm

from amun_ray.base.errors import UserError
from amun_ray.metrics import auc, tpr_at_fpr, unlearned_or_never


@pytest.fixture
def halves():
    """(10, 400) bool, five models of each target on each side."""
    return np.random.default_rng(0).permuted(np.repeat([[True], [False]], 5, axis=0).repeat(400, 1), axis=0)


def test_each_model_is_audited_by_all_others(halves):
    """None of these halves is the complement of another."""
    values = np.random.default_rng(1).normal(size=halves.shape) + 2 * halves
    found = unlearned_or_never(values, halves, variance="per_sample")
    for place in (0, 7):
        ratio, density = np.empty(400), np.empty(400)
        for target in range(400):
            sides = [[values[k, target] for k in range(10) if k != place and halves[k, target] == side]
                     for side in (True, False)]
            value = values[place, target]
            ratio[target] = np.subtract(*(norm(np.mean(one), np.std(one, ddof=1)).logpdf(value) for one in sides))
            density[target] = np.subtract(*(np.log(norm(one, 1).pdf(value).mean()) for one in sides))
        for name, score in (("ulira", ratio), ("ruli", density)):
            positive, negative = score[halves[place]], score[~halves[place]]
            assert found[place][f"{name}_auc"] == pytest.approx(auc(positive, negative))
            assert found[place][f"{name}_tpr_at_1pct_fpr"] == tpr_at_fpr(positive, negative, 1)
            assert found[place][f"{name}_tpr_at_0.1pct_fpr"] == tpr_at_fpr(positive, negative, 0.1)


@pytest.fixture
def pairs():
    """(6, 4000) bool, three pairs of complements."""
    chosen = np.random.default_rng(0).random((3, 4000)) < 0.5
    return np.stack([chosen, ~chosen], axis=1).reshape(6, -1)


@pytest.mark.parametrize(("left", "low", "high"), [(0.0, 49, 51), (1.0, 62, 76), (8.0, 99.9, 100)])
def test_perfect_unlearning_scores_fifty_and_none_scores_near_a_hundred(pairs, left, low, high):
    """Normals of variance 1 that are `left` apart; the AUC of the best test is Phi(left / sqrt 2): 50, 76, 100."""
    hardness = np.random.default_rng(3).normal(size=4000)  # a target's own confidence says nothing
    values = np.random.default_rng(2).normal(size=pairs.shape) + hardness + left * pairs
    for name in ("ulira_auc", "ruli_auc"):
        assert low <= np.mean([one[name] for one in unlearned_or_never(values, pairs)]) <= high


def test_the_kernels_see_what_a_normal_cannot(halves):
    """Unlearned targets lie on both sides of the others: means are equal, and a pooled normal is hardly wider."""
    rng = np.random.default_rng(4)
    values = rng.normal(0, 0.3, halves.shape) + halves * rng.choice([-4, 4], halves.shape)
    assert np.mean([one["ruli_auc"] for one in unlearned_or_never(values, halves)]) > 90


def test_scores_that_are_all_equal_tell_nothing(halves):
    assert {one["ruli_auc"] for one in unlearned_or_never(np.zeros(halves.shape), halves)} == {50}


@pytest.mark.parametrize("models", [2, 8])
def test_a_target_with_too_few_models_is_refused(halves, models):
    halves[:, 3] = np.arange(10) < models
    with pytest.raises(UserError, match="unlearned by 3 models and never seen by 3, and one has 2"):
        unlearned_or_never(np.zeros(halves.shape), halves)
