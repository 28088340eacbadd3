"""Signals against their definitions, written out; thresholds against a search over all of them; the SVC attack."""

import math

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

from amun_ray.base.errors import UserError
from amun_ray.metrics import SIGNALS, Split, auc, audit, lira, logit_scaled, mis, softmax, tpr_at_fpr
from amun_ray.metrics.threshold import best_threshold, forget_called_member


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(scale=2, size=(30, 5)), rng.integers(0, 5, 30)


def definitions(row, label):
    """The four signals of one row from its softmax probabilities, as the papers write them."""
    p = [math.exp(z) / sum(math.exp(other) for other in row) for z in row]
    modified = -(1 - p[label]) * math.log(p[label])
    modified -= sum(q * math.log(1 - q) for i, q in enumerate(p) if i != label)
    return {
        "loss": math.log(p[label]),
        "confidence": p[label],
        "entropy": sum(q * math.log(q) for q in p),
        "modified_entropy": -modified,
    }


@pytest.mark.parametrize("name", SIGNALS)
def test_equals_its_definition(name, batch):
    expected = [definitions(row, label)[name] for row, label in zip(*batch, strict=True)]
    np.testing.assert_allclose(SIGNALS[name](*batch), expected, rtol=1e-10)


@pytest.mark.parametrize("name", SIGNALS)
def test_a_row_ignores_its_neighbours(name, batch):
    logits, labels = batch
    alone = [SIGNALS[name](logits[i : i + 1], labels[i : i + 1])[0] for i in range(len(labels))]
    np.testing.assert_array_equal(SIGNALS[name](logits, labels), alone)


def test_modified_entropy_in_the_tails():
    logits = np.array([[60.0, 0.0, 0.0], [60.0, 0.0, 0.0], [3000.0, 0.0, 0.0]])
    found = SIGNALS["modified_entropy"](logits, np.array([0, 1, 1]))
    # Right and sure: about -(2 e^-60) * 2 e^-60, beyond what 1 - p keeps. Wrong and sure: log p_y + log(1 - p_0).
    assert -1e-50 < found[0] < 0
    assert found[1] == pytest.approx(-60 + math.log(2) - 60, rel=1e-12)
    assert found[2] == pytest.approx(-6000 + math.log(2))


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_refuse_what_is_not_finite(name, batch):
    logits, labels = batch
    logits = logits.copy()
    logits[3] = np.nan
    with pytest.raises(UserError, match="1 of 30 rows are not finite"):
        SIGNALS[name](logits, labels)
    logits[5] = np.inf
    with pytest.raises(UserError, match="2 of 30 rows are not finite"):
        SIGNALS[name](logits, labels)


@pytest.mark.parametrize("name", SIGNALS)
def test_two_classes_are_enough(name):
    found = SIGNALS[name](np.array([[1.0, -0.5]]), np.array([1]))[0]
    assert found == pytest.approx(definitions([1.0, -0.5], 1)[name])


@pytest.mark.parametrize("name", [name for name in SIGNALS if "entropy" in name])
def test_one_class_has_no_entropy(name):
    with pytest.raises(UserError, match="at least 2 classes"):
        SIGNALS[name](np.zeros((3, 1)), np.zeros(3, dtype=int))


def test_best_threshold_beats_every_other():
    rng = np.random.default_rng(1)
    members, others = rng.normal(1, 1, 80).round(1), rng.normal(0, 1, 50).round(1)

    def balanced_accuracy(threshold):
        return (members >= threshold).mean() + (others < threshold).mean()

    best = max(balanced_accuracy(t) for t in [*members, *others, np.inf])
    assert balanced_accuracy(best_threshold(members, others)) == pytest.approx(best)
    assert best_threshold(np.ones(3), np.ones(2)) == np.inf  # nothing to tell apart: nobody is called a member
    with pytest.raises(UserError, match="scores of non-members are empty"):
        best_threshold(members, np.array([]))
    with pytest.raises(UserError, match="scores of members are empty or hold NaN"):
        best_threshold(np.array([np.nan]), others)


ROWS = Split(np.arange(400), np.arange(400, 600), np.arange(600, 1000))


def simulated(seen):
    """Logits (1000, 3) of a model that is sure of the first `seen` samples, and labels."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, 1000)
    logits = rng.normal(size=(1000, 3))
    logits[np.arange(1000), labels] += np.where(np.arange(1000) < seen, 9, 1)
    return logits, labels


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("per_class", [True, False])
def test_threshold_attack_finds_what_was_remembered(name, per_class):
    shares = []
    for seen in (600, 400):
        logits, labels = simulated(seen)
        shares.append(forget_called_member(SIGNALS[name](logits, labels), labels, ROWS, per_class=per_class))
    assert shares[0] > 90
    assert shares[1] < 10


def test_a_class_without_members_takes_the_common_threshold():
    labels = np.array([0, 0, 1, 1, 0, 0])
    signal = np.array([5.0, 5.0, 4.0, 1.0, 1.0, 1.0])
    rows = Split(np.array([0, 1]), np.array([2, 3]), np.array([4, 5]))
    assert forget_called_member(signal, labels, rows) == 0  # the threshold is 5, for both classes
    assert forget_called_member(np.where(signal == 4, 6, signal), labels, rows) == 50


def test_each_class_has_its_own_threshold_and_a_score_at_it_is_a_member():
    """Class 0: members 2, others 1; class 1: members 6, others 5. One threshold for all is 6."""
    labels = np.array([0, 1, 0, 1, 0, 1])
    signal = np.array([2.0, 6.0, 2.0, 5.5, 1.0, 5.0])
    rows = Split(np.array([0, 1]), np.array([2, 3]), np.array([4, 5]))
    assert forget_called_member(signal, labels, rows) == 50
    assert forget_called_member(signal, labels, rows, per_class=False) == 0


def test_a_class_that_lacks_one_side_takes_the_common_threshold():
    """All members, of class 0, score 3 and all others, of class 1, score 1: at 3 and above is a member of any class."""
    labels, signal = np.array([0, 0, 0, 1, 1, 1]), np.array([3.0, 3.0, 2.0, 3.0, 1.0, 1.0])
    rows = Split(np.array([0, 1]), np.array([2, 3]), np.array([4, 5]))
    assert forget_called_member(signal, labels, rows) == 50


def test_mis_finds_what_was_forgotten():
    generator = torch.Generator().manual_seed(0)
    remembered, retrained = (mis(*simulated(seen), ROWS, generator=generator) for seen in (600, 400))
    assert remembered < 10
    assert retrained > 90


def test_mis_is_the_svc_it_says():
    logits, labels = simulated(400)
    confidence = softmax(logits, labels)[:, None]
    truth = np.repeat([1, 0], 400)
    fitted = SVC(C=3.0, gamma=1.0).fit(np.concatenate([confidence[ROWS.retain], confidence[ROWS.test]]), truth)
    expected = 100 * (fitted.predict(confidence[ROWS.forget]) == 0).mean()
    assert mis(logits, labels, ROWS, generator=torch.Generator().manual_seed(0)) == pytest.approx(expected, abs=1e-9)


def test_mis_draws_at_most_the_largest_and_repeats_for_a_seed():
    logits, labels = simulated(400)
    first, second = (mis(logits, labels, ROWS, generator=torch.Generator().manual_seed(1), largest=40) for _ in "12")
    assert first == second


class Remembers:
    """In the place of the classifier: keeps what it was fitted to."""

    def __init__(self, **settings):
        pass

    def fit(self, features, truth):
        Remembers.features, Remembers.truth = features[:, 0], truth
        return self

    def predict(self, features):
        return np.zeros(len(features))


@pytest.mark.parametrize(("largest", "rows", "size"), [
    (None, Split(np.arange(2500), np.arange(2500, 2510), np.arange(2510, 5000)), 2000),
    (40, ROWS, 40),
    (40, Split(np.arange(30), np.arange(400, 600), np.arange(600, 1000)), 30),
    (40, Split(np.arange(400), np.arange(400, 600), np.arange(600, 630)), 30)])
def test_mis_is_fitted_to_equal_draws_of_both_sides(largest, rows, size, monkeypatch):
    monkeypatch.setattr("sklearn.svm.SVC", Remembers)
    count = rows.test[-1] + 1
    logits, labels = np.random.default_rng(0).normal(size=(count, 2)), np.zeros(count, dtype=int)
    generator = torch.Generator().manual_seed(7)
    mis(logits, labels, rows, generator=generator, **({} if largest is None else {"largest": largest}))
    again = torch.Generator().manual_seed(7)
    drawn = [part[torch.randperm(len(part), generator=again)[:size].numpy()] for part in (rows.retain, rows.test)]
    np.testing.assert_array_equal(Remembers.features, softmax(logits, labels)[np.concatenate(drawn)])
    np.testing.assert_array_equal(Remembers.truth, [1] * size + [0] * size)


def test_audit_agrees_with_its_parts_and_tells_remembered_from_forgotten():
    references = [simulated(600)[0] + np.random.default_rng(seed).normal(size=(1000, 3)) for seed in range(4)]
    members = np.repeat([[True], [True], [False], [False]], 1000, axis=1)
    found = {}
    for title, seen in (("remembered", 600), ("retrained", 400)):
        logits, labels = simulated(seen)
        found[title] = audit(
            logits,
            labels,
            ROWS,
            np.full(1000, 0.5),
            generator=torch.Generator().manual_seed(0),
            normals=lira.fit(references, labels, members=members),
        )
        assert found[title]["mis"] == mis(logits, labels, ROWS, generator=torch.Generator().manual_seed(0))
        for name, signal in SIGNALS.items():
            values = signal(logits, labels)
            assert found[title][f"{name}_forget_called_member"] == forget_called_member(values, labels, ROWS)
            assert found[title][f"{name}_forget_test_auc"] == auc(values[ROWS.forget], values[ROWS.test])
        value, normals = logit_scaled(logits, labels), lira.fit(references, labels, members=members)
        ratio = lira.log_likelihood_ratio(value, normals)
        assert found[title]["lira_forget_called_member"] == lira.forget_called_member(value, normals, ROWS)
        assert found[title]["lira_forget_test_tpr_at_1pct_fpr"] == tpr_at_fpr(ratio[ROWS.forget], ratio[ROWS.test], 1)
        assert found[title]["lira_forget_test_tpr_at_0.1pct_fpr"] == tpr_at_fpr(
            ratio[ROWS.forget], ratio[ROWS.test], 0.1)
    assert set(found["remembered"]) >= {
        "rmia_forget_test_tpr_at_0.1pct_fpr",
        "lira_forget_test_tpr_at_1pct_fpr",
        "lira_forget_called_member",
        "modified_entropy_forget_called_member",
    }
    for name in ("rmia", *SIGNALS):
        assert found["remembered"][f"{name}_forget_test_auc"] > 90
        assert found["retrained"][f"{name}_forget_test_auc"] == pytest.approx(50, abs=6)


def test_audit_of_a_collapsed_model_and_of_its_own_draw():
    rows = Split(np.arange(30), np.arange(400, 600), np.arange(600, 1000))
    found = audit(np.zeros((1000, 3)), np.zeros(1000, dtype=int), rows, np.full(1000, 0.5),
                  generator=torch.Generator().manual_seed(0))
    assert {value for name, value in found.items() if name.endswith("_auc")} == {50}
    logits, labels = simulated(500)
    first, other = (mis(logits, labels, rows, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert first != other
    assert audit(logits, labels, rows, np.full(1000, 0.5), generator=torch.Generator().manual_seed(1))["mis"] == first


def test_audit_without_lira_has_no_lira_entries():
    found = audit(*simulated(400), ROWS, np.full(1000, 0.5), generator=torch.Generator())
    assert found
    assert not [name for name in found if name.startswith("lira")]
