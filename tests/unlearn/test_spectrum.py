"""Lanczos's bounds on matrices whose spectrum is known."""

import math
from itertools import islice

import pytest
import torch

from amun_ray.unlearn.spectrum import ends


def bounds(values, steps, seed=0):
    """What `steps` steps know of the diagonal matrix with these eigenvalues, in two pieces as a network has them."""
    matrix, rng = torch.as_tensor(values, dtype=torch.float32), torch.Generator().manual_seed(seed)
    first, second = matrix[:1], matrix[1:]
    start = {"a": torch.randn(first.shape, generator=rng), "b": torch.randn(second.shape, generator=rng)}
    return list(islice(ends(lambda vector: {"a": first * vector["a"], "b": second * vector["b"]}, start), steps))


def test_as_many_steps_as_distinct_eigenvalues_are_exact():
    found = bounds([-0.5, 1, 1, 1, 2, 2, 7], 100)
    assert len(found) == 4
    assert found[-1] == pytest.approx((-0.5, 7, 0), abs=2e-4)
    assert len(bounds([3, 3, 3], 100)) == 1


def test_no_two_steps_of_a_large_matrix_certify_anything():
    assert bounds(torch.linspace(-1, 1, 500), 2)[-1].error == math.inf


@pytest.mark.parametrize("values", [
    torch.linspace(0, 1, 2000), torch.linspace(0, 1, 2000) ** 8, -torch.linspace(0, 1, 2000) ** 8,
    torch.cos(torch.linspace(0, math.pi, 2000)), torch.cat([torch.tensor([-0.02]), torch.linspace(0, 1, 1999) ** 4])])
def test_the_ends_are_never_farther_out_than_the_bound_says(values):
    for seed in range(3):
        steps = bounds(values, 60, seed)
        for found in steps:
            assert found.smallest - found.error <= values.min() <= found.smallest + 1e-4
            assert found.largest - 1e-4 <= values.max() <= found.largest + found.error
        assert steps[-1].error < 0.08  # (ln(1.648 sqrt(2000) / 1e-6) / 119)^2 = 0.023 of the width


def test_the_bound_by_hand():
    """n = 4 (all eigenvalues distinct), two steps: share (ln(1.648 * 2 / 1e-6) / 3)^2 > 0.5, so nothing; with 20 steps
    of a large matrix the formula."""
    assert bounds([0, 1, 2, 3.0], 2)[-1].error == math.inf
    found = bounds(torch.linspace(0, 1, 10_000), 30)[-1]
    share = (math.log(1.648 * 100 / 1e-6) / 59) ** 2
    width = found.largest - found.smallest
    assert found.error == pytest.approx(width * share / (1 - 2 * share) + 1e-5 * found.largest)


def test_what_is_not_finite_says_nothing():
    assert bounds([1.0, math.nan], 5) == []
