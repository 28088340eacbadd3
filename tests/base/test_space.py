"""Which values a search space contains, and the grid over it."""

import pytest

from amun_ray.base.space import Choice, Range, grid
from amun_ray.unlearn import Setting

LR = Range(1e-4, 1e-1, log=True)


@pytest.mark.parametrize(("axis", "inside", "outside"), [
    (LR, (1e-4, 1e-2, 0.1), (9e-5, 0.11, "never", float("nan"))),
    (Range(0, 1), (0, 0.5, 1), (-0.1, 1.1)),
    (Choice(("never", "every_1")), ("never", "every_1"), ("every_2", 1)),
    (Choice((0, 1)), (0, 1.0), (0.5, 2)),
])
def test_what_is_outside_is_told_with_the_rule(axis, inside, outside):
    assert [axis.problem(value) for value in inside] == [None] * len(inside)
    for value in outside:
        assert axis.problem(value).endswith(f"but got {value!r}")
    assert LR.problem(0.5) == "must be from 0.0001 to 0.1, but got 0.5"
    assert Choice((0, 1)).problem(0.5) == "must be one of 0, 1, but got 0.5"


def test_a_grid_of_a_range_has_its_ends_and_equal_steps_on_its_scale():
    assert LR.grid(4) == (1e-4, pytest.approx(1e-3), pytest.approx(1e-2), 1e-1)
    assert Range(0, 8).grid(3) == (0, 4, 8)
    assert Range(0, 8).grid(1) == (4,)
    assert Range(3, 3).grid(5) == (3,)
    assert Choice((0, 1)).grid(7) == (0, 1)


def test_a_setting_becomes_the_range_or_the_choices_of_its_row():
    assert Setting(default=1, low=0.5, high=2, log=True).axis == Range(0.5, 2, log=True)
    assert Setting(default=0, low=0, high=1, choices=(0, 1)).axis == Choice((0, 1))


def test_a_grid_of_a_space_is_every_combination():
    space = {"lr": Range(1, 3), "schedule": Choice(("never", "every_1")), "alpha": Range(0, 1)}
    places = grid(space, lr=3, own=2)
    assert len(places) == len({tuple(place.values()) for place in places}) == 3 * 2 * 2
    assert {"lr": 2, "schedule": "every_1", "alpha": 1} in places
