"""RMIA against its definition evaluated pair by pair, against a case solved by hand, and on simulated models."""

import numpy as np
import pytest
import torch

from amun_ray.base.errors import UserError
from amun_ray.metrics import (
    RmiaSettings,
    Split,
    auc,
    audit,
    offline_mean,
    out_mean,
    reference_mean,
    score,
    taylor_softmax,
)
from amun_ray.metrics.auc import balanced
from amun_ray.metrics.rmia import forget_retain_auc, forget_test_auc, ratios, retain_test_auc, scores

MODELS, SAMPLES, CLASSES = 8, 60, 5


def halves(models, samples, seed=0):
    """Membership (models, samples): pairs of complementary random halves."""
    rng = np.random.default_rng(seed)
    first = np.zeros((models // 2, samples), dtype=bool)
    for row in first:
        row[rng.permutation(samples)[: samples // 2]] = True
    return np.concatenate([first, ~first])


def logits_of(members, labels, seed, boost=2.0):
    """Logits (N, CLASSES) of a simulated model: each sample has its own difficulty, members gain `boost`."""
    difficulty = np.random.default_rng(99).normal(1, 1, len(labels))
    logits = np.random.default_rng(seed).normal(0, 1, (len(labels), CLASSES))
    logits[np.arange(len(labels)), labels] += difficulty + boost * members
    return logits.astype(np.float32)


@pytest.fixture
def bank():
    labels = np.arange(SAMPLES) % CLASSES
    members = halves(MODELS, SAMPLES)
    return np.stack([logits_of(row, labels, seed) for seed, row in enumerate(members)]), labels, members


def double_loop(confidence, mean, population, gamma):
    """The definition: for every x the share of z with ratio(x) / ratio(z) > gamma."""
    ratio = [p / q for p, q in zip(confidence, mean, strict=True)]
    return [sum(ratio[x] / ratio[z] > gamma for z in population) / len(population) for x in range(len(ratio))]


@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.3, 2.0, 7.0])
@pytest.mark.parametrize("population", ["all", "some"])
def test_scores_equal_the_double_loop_exactly(gamma, population):
    rng = np.random.default_rng(5)
    confidence, mean = rng.uniform(0.01, 1, 257), rng.uniform(0.01, 1, 257)
    confidence[:60], mean[:60] = confidence[0], mean[0]  # ties
    confidence[60:90] = 2 * confidence[90:120] * mean[60:90] / mean[90:120]  # ratios that are 2 up to rounding
    rows = np.arange(257) if population == "all" else rng.permutation(257)[:100]
    found = scores(confidence, mean, rows, gamma=gamma)
    np.testing.assert_array_equal(found, double_loop(confidence.tolist(), mean.tolist(), rows, gamma))


def test_solved_by_hand():
    # Ratios are 4, 2, 1, 0.5. Above gamma = 2: 4 beats 1 and 0.5; 2 beats 0.5 (2 / 1 is not above 2); the others none.
    confidence, mean = np.array([0.8, 0.6, 0.4, 0.1]), np.array([0.2, 0.3, 0.4, 0.2])
    np.testing.assert_array_equal(scores(confidence, mean), [0.5, 0.25, 0, 0])
    np.testing.assert_array_equal(scores(confidence, mean, np.array([3])), [1, 1, 0, 0])
    rows = Split(np.array([0]), np.array([1]), np.array([2, 3]))
    assert forget_test_auc(scores(confidence, mean), rows) == 100
    assert forget_retain_auc(scores(confidence, mean), rows) == 100
    assert retain_test_auc(np.array([0.5, 0.0, 0.5, 0.0]), rows) == 75
    spread = np.geomspace(0.001, 1, 20), np.full(20, 0.5)
    np.testing.assert_array_equal(scores(*spread), scores(*spread, gamma=2.0))  # the paper's, unless told otherwise


def test_reference_mean_is_the_mean_confidence(bank):
    logits, labels, members = bank
    each = np.stack([taylor_softmax(row, labels) for row in logits])
    np.testing.assert_allclose(reference_mean(logits, labels, members=members), each.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(reference_mean(iter(list(logits)), labels), each.mean(axis=0), rtol=1e-14)
    expected = np.where(members, 0, each).sum(axis=0) / (MODELS / 2)
    np.testing.assert_allclose(out_mean(logits, labels, members=members), expected, rtol=1e-14)


def test_out_mean_divides_by_the_models_that_are_out():
    """Sample 0 is out of three of five models, sample 1 of two."""
    members = np.array([[1, 1], [1, 1], [0, 1], [0, 0], [0, 0]], dtype=bool)
    logits, labels = np.random.default_rng(0).normal(size=(5, 2, 3)), np.array([0, 2])
    each = np.stack([taylor_softmax(row, labels) for row in logits])
    np.testing.assert_allclose(out_mean(logits, labels, members=members), [each[2:, 0].mean(), each[3:, 1].mean()])


def test_four_references_are_enough_and_none_are_too_few(bank):
    logits, labels, members = bank
    each = np.stack([taylor_softmax(row, labels) for row in logits[:4]])
    np.testing.assert_allclose(reference_mean(logits[:4], labels), each.mean(axis=0))
    with pytest.raises(UserError, match="reference bank: 0 models, at least 4"):
        reference_mean([], labels)
    with pytest.raises(UserError, match="membership must be bool"):
        reference_mean(logits, labels, members=members.astype(int))


def test_single_precision_is_divided_in_double():
    confidence, mean = np.random.default_rng(0).uniform(0.1, 1, (2, 50)).astype(np.float32)
    for pair in ((confidence, mean), (confidence.astype(float), mean), (confidence, mean.astype(float))):
        np.testing.assert_array_equal(ratios(*pair), confidence.astype(float) / mean.astype(float))


def test_settings_reach_the_references(bank):
    logits, labels, _ = bank
    settings = RmiaSettings(order=2, margin=0.1, temperature=1.0)
    each = np.stack([taylor_softmax(row, labels, order=2, margin=0.1, temperature=1.0) for row in logits])
    np.testing.assert_allclose(reference_mean(logits, labels, settings=settings), each.mean(axis=0), rtol=1e-14)


def test_offline_mean_by_hand():
    assert offline_mean(np.array([0.5]), 0.0)[0] == 0.75  # (0.5 + 1) / 2: members are certain
    assert offline_mean(np.array([0.5]), 1.0)[0] == 0.5  # membership changes nothing
    assert offline_mean(np.array([0.5]), 0.3)[0] == pytest.approx((1.3 * 0.5 + 0.7) / 2)


def simulated_score(trained_on, boost, offline=False):
    """Scores of a model trained on the rows `trained_on`, with 16 references, over 900 samples."""
    labels = np.arange(900) % CLASSES
    members = halves(16, 900)
    logits = [logits_of(row, labels, seed) for seed, row in enumerate(members)]
    mean = reference_mean(logits, labels, members=members)
    if offline:
        mean = offline_mean(out_mean(logits, labels, members=members), 0.3)
    rows = Split(np.arange(0, 300), np.arange(300, 600), np.arange(600, 900))
    return score(logits_of(np.isin(np.arange(900), trained_on), labels, 1234, boost), labels, rows, mean, strict=True)


@pytest.mark.parametrize("offline", [False, True])
def test_a_model_that_memorised_is_caught_and_one_that_never_saw_is_not(offline):
    memorised = simulated_score(np.arange(600), boost=20.0, offline=offline)
    assert memorised["forget_test_auc"] > 95
    assert memorised["retain_test_auc"] > 95
    assert memorised["forget_retain_auc"] == pytest.approx(50, abs=5)
    assert memorised["unlearn_accuracy"] == memorised["retain_accuracy"] == 100
    retrained = simulated_score(np.arange(300), boost=20.0, offline=offline)
    assert retrained["forget_test_auc"] == pytest.approx(50, abs=5)
    assert retrained["forget_retain_auc"] > 95
    assert retrained["retain_test_auc"] > 95


def test_balanced_draws_are_near_the_auc_over_all_pairs():
    values = np.random.default_rng(0).uniform(size=3000)
    values[:500] += 0.2
    rows = Split(np.arange(500, 2000), np.arange(500), np.arange(2000, 3000))
    drawn = forget_test_auc(values, rows, generator=torch.Generator().manual_seed(0))
    assert drawn != forget_test_auc(values, rows)
    assert drawn == pytest.approx(forget_test_auc(values, rows), abs=4)


@pytest.mark.parametrize(("function", "positive", "negative"), [
    (forget_test_auc, "forget", "test"), (forget_retain_auc, "retain", "forget"), (retain_test_auc, "retain", "test")])
def test_a_generator_asks_for_one_balanced_draw(function, positive, negative):
    values, rows = np.random.default_rng(0).uniform(size=90), Split(np.arange(40), np.arange(40, 60), np.arange(60, 90))
    sides = (values[getattr(rows, name)] for name in (positive, negative))
    drawn = balanced(*sides, torch.Generator().manual_seed(3))
    assert function(values, rows, generator=torch.Generator().manual_seed(3)) == auc(*drawn)
    assert function(values, rows) != auc(*drawn)


def test_score_reports_percent_of_the_right_rows():
    logits = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0, 0, 0, 0]]
    labels = np.array([0, 1, 2, 0, 0, 1, 1, 0])
    rows = Split(np.array([0, 1, 2, 3]), np.array([4, 5]), np.array([6]))  # row 7 is in no set
    found = score(logits, labels, rows, np.full(8, 0.5))
    assert (found["retain_accuracy"], found["unlearn_accuracy"], found["test_accuracy"]) == (75, 50, 0)


def test_score_and_audit_attack_with_the_settings_and_the_population_they_are_given(bank):
    """gamma, and the samples of the split alone as the population, against the definition pair by pair."""
    logits, labels, members = bank
    settings = RmiaSettings(gamma=1.05, order=2, margin=0.2, temperature=1.5)
    mean, rows = reference_mean(logits, labels, settings=settings), Split(*np.arange(12).reshape(3, 4))
    target = logits_of(members[0], labels, seed=77)
    confidence = settings.confidence(target, labels)

    def by_definition(gamma, population):
        values = np.array(double_loop(confidence, mean, population, gamma))
        pairs = values[rows.forget][:, None] - values[rows.test]
        return 100 * (np.mean(pairs > 0) + np.mean(pairs == 0) / 2)

    wanted = by_definition(1.05, np.arange(12))
    assert wanted not in (by_definition(2.0, np.arange(12)), by_definition(1.05, np.arange(SAMPLES)))
    assert score(target, labels, rows, mean, settings=settings)["forget_test_auc"] == pytest.approx(wanted)
    attacked = audit(target, labels, rows, mean, settings=settings, generator=torch.Generator().manual_seed(0))
    assert attacked["rmia_forget_test_auc"] == pytest.approx(wanted)


def test_a_collapsed_model_scores_50_unless_strict():
    logits, labels = np.zeros((6, 3)), np.zeros(6, dtype=int)
    rows = Split(np.array([0, 1]), np.array([2, 3]), np.array([4, 5]))
    assert score(logits, labels, rows, np.full(6, 0.4))["forget_test_auc"] == 50
    with pytest.raises(UserError, match="all 4 scores equal"):
        score(logits, labels, rows, np.full(6, 0.4), strict=True)


def test_bank_mismatches_are_errors_that_name_the_model(bank):
    logits, labels, members = bank
    with pytest.raises(UserError, match="reference model 3: class count"):
        reference_mean([*logits[:3], logits[3][:, :4]], labels)
    with pytest.raises(UserError, match="reference model 1: .*59 rows for 60 labels"):
        reference_mean([logits[0], logits[1][1:]], labels)
    broken = logits.copy()
    broken[5, :7] = np.nan
    with pytest.raises(UserError, match="reference model 5: .*7 of 60 rows are not finite"):
        reference_mean(broken, labels)
    with pytest.raises(UserError, match="predictions of 7 models, membership of 8"):
        reference_mean(logits[:7], labels, members=members)
    with pytest.raises(UserError, match="predictions of 5 or more models, membership of 4"):
        out_mean(logits, labels, members=members[[0, 1, 4, 5]])
    with pytest.raises(UserError, match="3 models, at least 4"):
        reference_mean(logits[:3], labels)
    with pytest.raises(UserError, match="membership must be bool of shape"):
        reference_mean(logits, labels, members=members[:, 1:])


def test_every_sample_needs_two_models_in_and_out(bank):
    logits, labels, members = bank
    members = members.copy()
    members[:, 17] = False
    members[0, 17] = True
    with pytest.raises(UserError, match="sample 17 is in 1 of 8 models"):
        reference_mean(logits, labels, members=members)
    out_mean(logits, labels, members=members)  # needs models out only
    with pytest.raises(UserError, match="sample 17 is out 1 of 8 models"):
        out_mean(logits, labels, members=~members)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (Split(np.array([0]), np.array([], dtype=int), np.array([1])), "forget rows: the set is empty"),
        (Split(np.array([0]), np.array([1]), np.array([1])), "row 1 occurs more than once"),
        (Split(np.array([0]), np.array([1]), np.array([3])), r"test rows: must lie in \[0, 3\), found \[3, 3\]"),
        (Split(np.array([0.0]), np.array([1]), np.array([2])), "array of integers"),
    ],
)
def test_splits_are_checked(rows, message):
    with pytest.raises(UserError, match=message):
        score(np.eye(3), np.arange(3), rows, np.full(3, 0.5))


def test_scores_refuse_what_has_no_ratio():
    with pytest.raises(UserError, match="must both be"):
        scores(np.ones(3), np.ones(4))
    with pytest.raises(UserError, match="2 of 3 target confidences are not positive"):
        scores(np.array([0, 1, np.nan]), np.ones(3))
    with pytest.raises(UserError, match="1 of 3 reference means"):
        scores(np.ones(3), np.array([1, 0, 1]))
    with pytest.raises(UserError, match="population is empty"):
        scores(np.ones(3), np.ones(3), np.array([], dtype=int))
    with pytest.raises(UserError, match="gamma"):
        scores(np.ones(3), np.ones(3), gamma=0)
    for gamma in (0, -1):
        with pytest.raises(UserError, match="gamma must be positive"):
            RmiaSettings(gamma=gamma)
    assert RmiaSettings(gamma=0.5).gamma == 0.5
    with pytest.raises(UserError, match="a must lie"):
        offline_mean(np.ones(3), 2)
