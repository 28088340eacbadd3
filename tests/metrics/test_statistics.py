"""Summaries and tests against hand computations, scipy, and simulated data whose truth is known."""

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp, wilcoxon

from amun_ray.base.errors import UserError
from amun_ray.metrics import cases_needed, compare, crossed_mean, jackknife_error, summarize
from amun_ray.metrics.statistics import holm


def test_summary_by_hand():
    assert summarize([1.0, 2.0, 6.0]) == pytest.approx((3.0, 7**0.5, 3))
    assert summarize([1.0, 3.0]) == pytest.approx((2.0, 2**0.5, 2))
    assert summarize([4.0]) == (4.0, 0.0, 1)
    with pytest.raises(UserError, match="^values: 1 of 2 are not finite"):
        summarize([1.0, float("nan")])
    with pytest.raises(UserError, match="at least one number"):
        summarize([])


def test_the_jackknife_of_a_mean_is_its_standard_error():
    """In closed form: s / sqrt(n)."""
    values = np.array([1.0, 4.0, 4.0, 7.0, 9.0])
    left_out = [np.delete(values, place).mean() for place in range(5)]
    assert jackknife_error(left_out) == pytest.approx(values.std(ddof=1) / 5**0.5)


def test_the_mean_of_a_crossed_design_by_hand():
    """Two originals, three sets: rows 1 and 3, columns -1, 0, 1, rest zero but for a corner."""
    values = np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]])
    found = crossed_mean(values)  # mean squares: rows 3 * (1 + 1) / 1 = 6, columns 2 * (1 + 1) / 2 = 2, rest 0
    assert found.mean == 2.0
    assert found.standard_error == pytest.approx((8 / 6) ** 0.5)
    assert found.degrees == pytest.approx(8**2 / (6**2 / 1 + 2**2 / 2))
    values[0, 0] += 3  # rows 1.5, columns 0.5, rest 1.5: rows + columns - rest = 0.5, less than rows
    found = crossed_mean(values)
    rows, columns, rest = _mean_squares(values)
    assert rows + columns - rest < max(rows, columns)
    assert found[1:] == pytest.approx(((max(rows, columns) / 6) ** 0.5, 1 if rows > columns else 2))


def _mean_squares(values):
    """By the textbook's sums of squares, another way than the code's."""
    (a, b), square = values.shape, values.sum()**2 / values.size
    rows, columns = (values.sum(1)**2).sum() / b - square, (values.sum(0)**2).sum() / a - square
    rest = (values**2).sum() - square - rows - columns
    return rows / (a - 1), columns / (b - 1), rest / ((a - 1) * (b - 1))


@pytest.mark.parametrize("shape", [(3, 4), (4, 2), (5, 5)])
def test_the_mean_of_a_crossed_design_by_sums_of_squares(shape):
    rng = np.random.default_rng(0)
    for _ in range(30):
        values = rng.normal(size=shape) + 2 * rng.normal(size=(shape[0], 1)) + 2 * rng.normal(size=(1, shape[1]))
        squares = np.array(_mean_squares(values))
        degrees = np.array([shape[0] - 1, shape[1] - 1, (shape[0] - 1) * (shape[1] - 1)])
        variance = squares @ [1, 1, -1]
        expected = (variance, max(variance**2 / (squares**2 / degrees).sum(), min(degrees)))
        if variance <= squares[:2].max():
            expected = (squares[:2].max(), degrees[squares[:2].argmax()])
        found = crossed_mean(values)
        assert (found.standard_error**2 * values.size, found.degrees) == pytest.approx(expected)
        assert crossed_mean(values.T) == pytest.approx(found)


def test_one_original_gives_students_interval():
    values = np.random.default_rng(3).normal(size=(1, 8))
    low, high, level = crossed_mean(values).interval()
    expected = t.interval(0.95, 7, values.mean(), values.std(ddof=1) / 8**0.5)
    assert (low, high, level) == pytest.approx((*expected, 0.95))
    assert crossed_mean(values).p == pytest.approx(ttest_1samp(values[0], 0).pvalue)


def test_an_interval_of_few_cases_is_no_wider_than_four_standard_errors_and_says_so():
    found = crossed_mean(np.array([[1.0], [3.0]]))  # 2 originals, 1 set: 1 degree of freedom, where 95 % takes 12.7
    assert found == (2.0, 1.0, 1)
    assert found.interval() == pytest.approx((-2.0, 6.0, 2 * np.arctan(4) / np.pi))


@pytest.mark.parametrize("spread", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(2, 2), (2, 3), (3, 3), (3, 5)])
def test_crossed_cases_neither_reject_nor_miss_more_often_than_they_say(shape, spread):
    """Originals and sets with a `spread` of their own, as a part of the noise; no true difference."""
    rng = np.random.default_rng(0)
    rejected = covered = said = 0
    for _ in range(400):
        values = spread * (rng.normal(size=(shape[0], 1)) + rng.normal(size=(1, shape[1]))) + rng.normal(size=shape)
        found = crossed_mean(values)
        low, high, level = found.interval()
        rejected, covered, said = rejected + (found.p <= 0.05), covered + (low <= 0 <= high), said + level
    assert rejected <= 0.06 * 400
    assert covered >= said - 6


@pytest.mark.parametrize("values", [[[1.0]], [1.0, 2.0], [[1.0, np.nan]], [[]]])
def test_a_crossed_mean_refuses(values):
    with pytest.raises(UserError, match="crossed mean"):
        crossed_mean(np.array(values))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 0.04 * 1 is lifted to 0.03 * 2
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_compare_is_the_larger_of_two_tests_with_holm():
    rng = np.random.default_rng(2)
    differences = {"worse": 1 + 0.1 * rng.normal(size=(3, 3)), "alike": 0.01 * rng.normal(size=(3, 3)),
                   "shared": rng.normal(size=(3, 1)) + 1 + 0.1 * rng.normal(size=(3, 3))}
    found = compare(differences)
    assert list(found) == ["worse", "alike", "shared"]
    ranks = {name: wilcoxon(values.ravel()).pvalue for name, values in differences.items()}
    for name, row in found.items():
        assert row.p == pytest.approx(max(ranks[name], crossed_mean(differences[name]).p))
        assert row.difference == pytest.approx(np.mean(differences[name]))
        assert row.interval == crossed_mean(differences[name]).interval()
        assert row.n == 9
    assert found["shared"].p > 10 * ranks["shared"]  # three originals, not nine cases
    assert found["worse"].p == pytest.approx(ranks["worse"])
    assert found["worse"].p_holm == pytest.approx(3 * found["worse"].p)
    assert found["worse"].significant
    assert not found["alike"].significant


def test_a_p_of_exactly_the_level_is_significant():
    values = {"b": np.arange(1.0, 7)[None] + 10}
    p = compare(values)["b"].p
    assert p == 2 / 2**6
    assert compare(values, level=p)["b"].significant


def test_so_many_cases_are_needed_and_so_many_are_enough():
    assert [cases_needed(m) for m in (1, 2, 4, 11, 18)] == [6, 7, 8, 9, 10]
    for m in (1, 2, 4):
        for cases, wanted in ((cases_needed(m) - 1, False), (cases_needed(m), True)):
            differences = {str(k): 29 + np.arange(1.0, cases + 1)[None] for k in range(m)}
            assert all(found.significant is wanted for found in compare(differences).values())


def test_equal_values_do_not_differ():
    interval = (0.0, 0.0, pytest.approx(0.844, abs=1e-3))
    assert compare({"b": np.zeros((1, 2))})["b"] == (0.0, interval, 1.0, 1.0, 2, False)
    assert compare({"b": np.ones((1, 1))})["b"] == (1.0, None, 1.0, 1.0, 1, False)
    assert compare({}) == {}


def test_compare_refuses():
    with pytest.raises(UserError, match="^b: 1 of 2 are not finite"):
        compare({"b": np.array([[np.nan, 1.0]])})
    with pytest.raises(UserError, match="^b: needs a number for each original and forget set"):
        compare({"b": np.array([1.0, 2.0])})
