"""A split of few samples: which they are, and how far scores on them are from those on all."""

import numpy as np
import pytest

from amun_ray.metrics import Split, average_gap, score

RETAIN, FORGET, TEST = 4000, 400, 1000
WHOLE = Split(np.arange(RETAIN), np.arange(RETAIN, RETAIN + FORGET),
              np.arange(RETAIN + FORGET, RETAIN + FORGET + TEST), np.arange(6000, 6030))


def test_few_samples_are_all_of_d_f_and_random_others_which_a_greater_number_adds_to():
    ten, twenty, other = WHOLE.sample(10, 0), WHOLE.sample(20, 0), WHOLE.sample(10, 1)
    assert [len(part) for part in ten] == [10, FORGET, 10, 10]
    for few, more, all_ in zip(ten, twenty, WHOLE, strict=True):
        assert set(few) <= set(more) <= set(all_)
        assert (np.diff(few) > 0).all()
    assert np.array_equal(ten.forget, WHOLE.forget)
    assert not set(ten.retain) & set(other.retain)  # of 4,000
    assert all(map(np.array_equal, ten, WHOLE.sample(10, 0)))
    assert abs(WHOLE.sample(1000, 0).retain.mean() - RETAIN / 2) < 4 * RETAIN / (12 * 1000) ** 0.5


def test_more_samples_than_there_are_mean_all():
    assert all(map(np.array_equal, WHOLE.sample(RETAIN, 0), WHOLE))
    assert [len(part) for part in WHOLE.sample(RETAIN - 1, 0)] == [RETAIN - 1, FORGET, TEST, 30]


def test_places_among_the_rows_that_are_scored():
    split = Split(np.array([0, 2, 9]), np.array([7, 4]), np.array([10, 12]), np.array([11]))
    within = split.within(np.array([2, 4, 7, 9, 11, 12]))
    assert [part.tolist() for part in within] == [[0, 3], [1, 2], [5], [4]]


@pytest.fixture(scope="module")
def models():
    """Logits of an unlearned and of a retrained model that are right or wrong together, mostly; labels; a bank."""
    rng, count = np.random.default_rng(0), len(np.concatenate(WHOLE[:3]))
    hard, labels = rng.normal(1.5, 1.0, count), rng.integers(0, 2, count)
    hard[:RETAIN] += 1.0
    margins = [hard + rng.normal(shift, 0.7, count) for shift in (0.0, -0.3)]  # the retrained one is worse
    logits = [np.stack([margin * (1 - 2 * labels), np.zeros(count)], axis=1) for margin in margins]
    return *logits, labels, rng.uniform(0.4, 0.9, count), np.sign(margins[0]) != np.sign(margins[1])


def errors(models, count):
    """(draws, terms), rms: scores of the unlearned model minus those of the retrained one on few samples, minus the
    same on all; and of the Avg. Gap."""
    *logits, labels, mean, _ = models
    whole, terms = Split(*WHOLE[:3]), ("unlearn_accuracy", "retain_accuracy", "test_accuracy", "forget_test_auc")

    def apart(rows):
        split = whole.within(rows)
        one, other = (score(each[rows], labels[rows], split, mean[rows]) for each in logits)
        return np.array([one[term] - other[term] for term in terms] + [average_gap(one, other)])

    full = apart(np.arange(len(labels)))
    off = np.array([apart(np.sort(np.concatenate(whole.sample(count, draw)))) - full for draw in range(100)])
    return np.sqrt((off**2).mean(axis=0))


def expected(differ, count):
    """The standard error, in points, of the difference in accuracy between two models, which `differ` where True."""
    return 100 * np.sqrt(differ.mean() / count * (1 - count / len(differ)))


def test_with_as_many_samples_as_d_t_has_only_d_r_is_uncertain_as_the_binomial_says(models):
    unlearn, retain, test, auc, gap = errors(models, TEST)
    assert unlearn == 0
    assert test == 0
    assert auc < 0.05  # its population is another one, which changes ties alone
    assert retain == pytest.approx(expected(models[-1][:RETAIN], TEST), rel=0.15)
    assert gap == pytest.approx(retain / 4, rel=0.05)


def test_the_number_that_docs_scale_md_names_keeps_avg_gap_within_a_tenth_of_a_point(models):
    """s = 62,500 d / (1 + 62,500 d / |D_R|), where s is more than D_T has."""
    wanted = 62_500 * models[-1][:RETAIN].mean()
    count = round(wanted / (1 + wanted / RETAIN))
    assert TEST < count < RETAIN
    assert errors(models, count)[-1] == pytest.approx(0.1, rel=0.2)


def test_with_fewer_samples_d_t_adds_its_own_uncertainty(models):
    _, _, test, auc, gap = errors(models, 250)
    assert test == pytest.approx(expected(models[-1][-TEST:], 250), rel=0.15)
    assert 0.3 < auc < test
    assert gap > 0.3
