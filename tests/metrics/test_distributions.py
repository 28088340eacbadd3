"""KLOM and the NeurIPS challenge's epsilon: by hand, in closed form, and against every attack tried one by one."""

import numpy as np
import pytest

from amun_ray.base.errors import UserError
from amun_ray.metrics import epsilons, forgetting_quality, klom

RETRAINED = np.array([0.0, 1.0, 2.0, 3.0])
DELTA = 1e-5
LOG_3 = np.log(0.75 - DELTA) - np.log(0.25)  # one of four wrong on either side


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


def test_klom_by_hand():
    assert klom(column(0, 0, 1), column(0, 1, 1)) == pytest.approx([np.log(2) / 3])
    assert klom(column(1, 1, 1), column(0, 0, 0)) == pytest.approx([np.log(1e5)])  # an empty bin counts as 1e-5
    assert klom(column(500, 500, 0), column(100, 100, 0)) == [0]  # clipped
    assert klom(column(2, 2, 2), column(2, 2, 2)) == [0]


def test_klom_of_two_normals_is_their_divergence():
    draws = np.random.default_rng(0).normal(size=(2, 200_000, 1))
    assert klom(draws[0] + 1, draws[1]) == pytest.approx([0.5], abs=0.02)  # KL of N(1, 1) from N(0, 1) is 1 / 2


def test_samples_do_not_mix():
    one, other = np.random.default_rng(1).normal(size=(2, 6, 5))
    for metric in (klom, epsilons):
        np.testing.assert_array_equal(metric(one, other), np.concatenate(
            [metric(one[:, [k]], other[:, [k]]) for k in range(5)]))


def test_epsilon_by_hand():
    assert epsilons(column(*RETRAINED), column(*RETRAINED)) == pytest.approx([0], abs=1e-4)
    for sign in (1, -1):
        moved = sign * (RETRAINED + 2.5)
        assert epsilons(column(*moved), column(*sign * RETRAINED)) == pytest.approx([LOG_3])
    assert epsilons(column(5, 6, 7), column(1, 2, 3)) == [50]  # a threshold
    assert epsilons(column(-1, 0, 1), column(-9, 8, 9)) == [50]  # no threshold, but an interval
    assert epsilons(column(0, 0.001, 0.002), column(-1, 0, 1)) == [50]  # too peaked


def test_epsilon_is_that_of_the_best_of_all_attacks():
    """With integers, ends at multiples of one half try everything."""
    rng = np.random.default_rng(2)
    for _ in range(30):
        one, other = rng.integers(0, 9, size=(2, 6)).astype(float)
        narrow, wide = (one, other) if np.ptp(one) <= np.ptp(other) else (other, one)
        low, high = (one, other) if np.median(one) <= np.median(other) else (other, one)
        if np.ptp(narrow) < 0.01 * np.ptp(wide):
            continue
        ends = np.arange(-3, 12, 0.5)
        left, right = (grid.ravel()[:, None] for grid in np.meshgrid(ends, ends))
        allowed = np.abs(right - left - np.ptp(narrow)) <= 2
        rates = [*zip((low >= ends[:, None]).mean(1), (high < ends[:, None]).mean(1), strict=True),
                 *zip(((wide >= left) & (wide <= right) & allowed).mean(1),
                      1 - ((narrow >= left) & (narrow <= right) & allowed).mean(1), strict=True)]
        best = 0.0
        for a, b in set(rates):
            if a == b == 0:
                best = 50
            elif 0 < a < 1 and 0 < b < 1:
                best = max(best, np.log(1 - DELTA - a) - np.log(b), np.log(1 - DELTA - b) - np.log(a))
        assert epsilons(one[:, None], other[:, None]) == pytest.approx([best], abs=1e-9)


def test_points_fall_by_half_for_each_half_of_epsilon():
    unlearned = np.stack([RETRAINED, RETRAINED + 2.5, RETRAINED + 9], axis=1)
    retrained = np.repeat(RETRAINED[:, None], 3, axis=1)
    assert forgetting_quality(unlearned, retrained) == pytest.approx(100 * (1 + 1 / 4 + 0) / 3)
    assert forgetting_quality(unlearned[:3, 2:], retrained[:3, 2:]) == 0
    same = np.random.default_rng(3).normal(size=(3, 1))
    assert forgetting_quality(same, same) == 100


@pytest.mark.parametrize(("one", "other", "message"), [
    (np.zeros((2, 4)), np.zeros((3, 4)), "2 unlearned models: at least 3"),
    (np.zeros((3, 4)), np.zeros((1, 4)), "1 retrained models: at least 3"),
    (np.zeros((3, 4)), np.zeros((3, 5)), "of the same samples"),
    (np.full((3, 4), np.nan), np.zeros((3, 4)), "unlearned models: not all are finite"),
])
def test_what_makes_no_distributions_is_refused(one, other, message):
    for metric in (klom, forgetting_quality):
        with pytest.raises(UserError, match=message):
            metric(one, other)
