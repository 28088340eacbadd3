"""Summaries and tests against hand computations, scipy, and simulated data whose truth is known."""

import numpy as np
import pytest
import torch
from scipy.stats import t, wilcoxon

from amun_ray.base.errors import UserError
from amun_ray.metrics import bootstrap_interval, compare, holm, summarize


def test_summary_by_hand():
    assert summarize([1.0, 2.0, 6.0]) == pytest.approx((3.0, 7**0.5, 3))
    assert summarize([1.0, 3.0]) == pytest.approx((2.0, 2**0.5, 2))
    assert summarize([4.0]) == (4.0, 0.0, 1)
    with pytest.raises(UserError, match="^values: 1 of 2 are not finite"):
        summarize([1.0, float("nan")])
    with pytest.raises(UserError, match="at least one number"):
        summarize([])


def test_bootstrap_covers_the_mean_about_as_often_as_it_says():
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    trials = 400
    for draw, truth in ((lambda: rng.normal(3, 2, 9), 3.0), (lambda: rng.exponential(1, 27), 1.0)):
        hits = 0
        for _ in range(trials):
            low, high = bootstrap_interval(draw(), generator=generator, resamples=4000)
            hits += low <= truth <= high
        assert 0.91 <= hits / trials <= 0.985


def test_bootstrap_of_few_values_stays_within_them():
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(400):
        values = rng.normal(size=4)
        low, high = bootstrap_interval(values, generator=generator)
        assert (low, high) == pytest.approx((values.min(), values.max()))
        hits += low <= 0 <= high
    assert hits / 400 == pytest.approx(0.875, abs=0.04)  # all four on one side of the median: 2 / 2**4


def test_bootstrap_is_as_wide_as_students_interval():
    values = np.random.default_rng(3).normal(size=60)
    low, high = bootstrap_interval(values, generator=torch.Generator().manual_seed(0), resamples=100_000)
    half = t.ppf(0.975, 59) * values.std(ddof=1) / 60**0.5
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05 * half)


def test_runs_of_one_group_do_not_count_as_independent():
    rng, generator = np.random.default_rng(1), torch.Generator().manual_seed(0)
    groups = np.repeat(np.arange(9), 3)
    hits = {"grouped": 0, "runs": 0}
    for _ in range(200):
        values = rng.normal(size=9)[groups] + 0.1 * rng.normal(size=27)
        for name, of in (("grouped", groups), ("runs", None)):
            low, high = bootstrap_interval(values, generator=generator, groups=of, resamples=1000)
            hits[name] += low <= 0 <= high
    assert hits["grouped"] >= 0.9 * 200 > hits["runs"]


def test_groups_of_any_size_count_once():
    """Of up to five groups the interval is the range of their means: 2, 7 and 4."""
    interval = bootstrap_interval([1, 7, 3, 2, 4], groups=[8, 5, 8, 8, 6], generator=torch.Generator().manual_seed(0))
    assert interval == (2.0, 7.0)


def test_bootstrap_repeats_for_a_seed_and_handles_no_spread():
    values = [1.0, 2.0, 4.0, 3.0]
    first, second = (bootstrap_interval(values, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert first == second
    assert first[0] < 2.5 < first[1]
    assert bootstrap_interval([2.0, 2.0], generator=torch.Generator()) == (2.0, 2.0)


@pytest.mark.parametrize(
    "change", [{"values": [1.0]}, {"level": 1.0}, {"groups": [0, 0, 0]}, {"groups": [0, 1]}, {"values": [1, np.inf]}]
)
def test_bootstrap_refuses(change):
    with pytest.raises(UserError):
        bootstrap_interval(**{"values": [1.0, 2.0, 3.0], "generator": torch.Generator(), **change})


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 0.04 * 1 is lifted to 0.03 * 2
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_compare_is_wilcoxon_with_holm():
    rng = np.random.default_rng(2)
    base = rng.normal(1, 0.3, 9)
    values = {"amun": base, "worse": base + 1 + 0.1 * rng.normal(size=9), "alike": base + 0.01 * rng.normal(size=9)}
    found = compare(values, reference="amun")
    assert list(found) == ["worse", "alike"]
    for name, row in found.items():
        assert row.p == pytest.approx(wilcoxon(values[name], base).pvalue)
        assert row.difference == pytest.approx(np.mean(values[name] - base))
        assert row.n == 9
    assert found["worse"].p_holm == pytest.approx(2 * found["worse"].p)
    assert found["worse"].significant
    assert not found["alike"].significant


def test_a_p_of_exactly_the_level_is_significant():
    values = {"a": np.zeros(6), "b": np.arange(1.0, 7)}
    p = compare(values, reference="a")["b"].p
    assert p == 2 / 2**6
    assert compare(values, reference="a", level=p)["b"].significant


def test_equal_values_do_not_differ():
    assert compare({"a": [1.0, 2.0], "b": [1.0, 2.0]}, reference="a")["b"] == (0.0, 1.0, 1.0, 2, False)


def test_compare_refuses():
    with pytest.raises(UserError, match="pairs must match"):
        compare({"a": [1.0, 2.0], "b": [1.0]}, reference="a")
    for name in ("a", "b"):
        with pytest.raises(UserError, match=f"^{name}: 1 of 2 are not finite"):
            compare({"a": [1.0, 2.0], "b": [1.0, 2.0]} | {name: [np.nan, 1.0]}, reference="a")
    with pytest.raises(UserError, match="'c' is not among a"):
        compare({"a": [1.0]}, reference="c")
