"""What is measured where a whole class is forgotten, beside numbers counted by hand."""

import numpy as np
import pytest
import torch

from amun_ray.metrics import RmiaSettings, Split, auc, audit, check_split, score
from amun_ray.metrics.rmia import scores as rmia

# training rows 0..7: classes 0 0 0 1 1 1 2 2; test rows 8..13: 0 0 1 1 2 2
LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2])
SAID = np.array([0, 0, 0, 0, 0, 1, 2, 0, 0, 1, 1, 0, 2, 2])  # what a model takes each sample for
MEAN = np.linspace(0.2, 0.8, 14)


def split(*forget):
    return Split.of(np.array(forget), labels=LABELS, train_size=8)


def logits():
    made = np.random.default_rng(0).normal(size=(14, 3))
    made[np.arange(14), SAID] = 4 + np.arange(14) / 10
    return made


def test_the_test_set_falls_into_two():
    found = split(3, 4, 5)
    assert [part.tolist() for part in found] == [[0, 1, 2, 6, 7], [3, 4, 5], [8, 9, 12, 13], [10, 11]]
    assert found.unseen.tolist() == [10, 11]
    both = split(0, 1, 2, 6, 7)
    assert (both.test.tolist(), both.unseen.tolist()) == ([10, 11], [8, 9, 12, 13])
    check_split(found, 14)


@pytest.mark.parametrize("forget", [(3, 4), (0, 3, 4, 5), (0, 6)])
def test_anything_else_leaves_it_whole(forget):
    found = split(*forget)
    assert found.test.tolist() == found.unseen.tolist() == list(range(8, 14))
    assert not found.forgotten_test.size
    assert "forgotten_test_accuracy" not in score(logits(), LABELS, found, MEAN)


def test_a_class_without_test_images_cannot_be_measured_apart():
    labels = LABELS.copy()
    labels[8:] = [0, 0, 0, 2, 2, 2]
    assert Split.of(np.array([3, 4, 5]), labels=labels, train_size=8).test.tolist() == list(range(8, 14))
    labels[8:] = 1
    assert Split.of(np.array([3, 4, 5]), labels=labels, train_size=8).test.tolist() == list(range(8, 14))


def test_scores_by_hand():
    found = score(logits(), LABELS, split(3, 4, 5), MEAN)
    assert found["unlearn_accuracy"] == pytest.approx(100 / 3)
    assert found["retain_accuracy"] == 80
    assert found["test_accuracy"] == 75  # rows 8, 9, 12, 13: one of them wrong
    assert found["forgotten_test_accuracy"] == 50  # rows 10, 11
    membership = rmia(RmiaSettings().confidence(logits(), LABELS), MEAN)  # the population is all 14, as ever
    assert found["forget_test_auc"] == auc(membership[[3, 4, 5]], membership[[10, 11]])
    assert found["forget_test_auc"] != auc(membership[[3, 4, 5]], membership[8:])
    assert found["retain_test_auc"] == auc(membership[[0, 1, 2, 6, 7]], membership[[8, 9, 12, 13]])


def test_every_attack_compares_with_test_images_of_the_class():
    found = audit(logits(), LABELS, split(3, 4, 5), MEAN, generator=torch.Generator().manual_seed(0))
    entropy = torch.distributions.Categorical(logits=torch.from_numpy(logits())).entropy().numpy()
    assert found["entropy_forget_test_auc"] == auc(-entropy[[3, 4, 5]], -entropy[[10, 11]])
    assert found["entropy_forget_test_auc"] != auc(-entropy[[3, 4, 5]], -entropy[8:])
