"""When a trial ends early, by curves whose end is known."""

from math import inf

import pytest

from amun_ray.work.stopping import HOPED, Limits, end, limits

JUDGED = Limits(10.0, 4.0)


def ended(values, bounds=JUDGED, epochs=5):
    """(epoch, hopeless), or None."""
    over = end(values, bounds, epochs)
    return None if over is None else over[:2]


def test_a_trial_is_hopeless_if_its_pace_does_not_bring_it_to_the_goal():
    """From 10 to 8.75 is 1.25 points in an epoch, and four are left: 8.75 - 4 * 1.25 = 3.75."""
    assert ended([8.75], Limits(10.0, 3.75)) is None
    assert ended([8.75], Limits(10.0, 3.74)) == (1, True)
    assert end([8.75], Limits(10.0, 3.5), 5).reason == (
        "hopeless after epoch 1: 8.75 points at best, lately at most 1.25 better in an epoch; to reach were 3.50")
    assert ended([8.75, 8.5]) == (2, True)  # 8.5 - 3 * 1.25 = 4.75
    assert ended([8.75, 7.25]) is None  # its second epoch was better: 7.25 - 3 * 1.5


def test_only_the_last_three_epochs_say_how_fast_it_is():
    values = [5.0, 4.9, 4.8, 4.7, 4.7]
    assert ended(values[:3], epochs=9) is None  # 4.8 - 6 * 5
    assert ended(values[:3], Limits(10.0, 4.3), 9) is None
    assert ended(values[:4], epochs=9) == (4, True)  # 4.7 - 5 * 0.1 = 4.2
    assert ended(values, Limits(10.0, 4.2), 9) == (5, True)  # 4.7 - 4 * 0.1, from the best so far


def test_nothing_is_hopeless_in_the_first_fifth_of_the_epochs_nor_in_the_last():
    """A method may begin slowly, or damage first and repair then."""
    assert ended([9.99, 8.5], epochs=6) is None
    assert ended([9.99, 9.9], epochs=6) == (2, True)
    assert ended([30.0, 12.0], epochs=10) is None  # 18 points in an epoch
    assert ended([30.0, 29.0], epochs=10) == (2, True)
    assert ended([8.0, 7.0, 6.0, 5.0, 9.9]) is None  # 5 - 1 = 4
    assert ended([9.9], epochs=1) is None


def test_a_trial_is_past_its_best_after_two_epochs_in_a_row_half_as_bad_again():
    assert ended([4.0, 6.1, 6.1]) == (3, False)
    assert ended([4.0, 6.1, 6.0, 6.1]) is None  # exactly half as bad again is not enough
    assert ended([4.0, 6.1, 3.0, 4.6]) is None
    assert ended([4.0, 6.1, 3.0, 4.6, 4.6], epochs=6) == (5, False)
    assert ended([4.0, 3.0, 3.0, 4.6, 4.6]) is None  # that is the last epoch
    assert end([4.0, 6.1, 6.1], JUDGED, 5).reason == "past its best after epoch 3: 6.10 points, 4.00 at best"


def test_a_trial_is_past_its_best_four_epochs_after_it():
    assert ended([4.0, 3.0, 3.0, 3.1, 3.1, 3.1], epochs=9) == (6, False)  # of equals the first is the best
    assert ended([4.0, 3.0, 3.0, 3.1, 3.1, 2.9, 3.0], epochs=9) is None
    assert ended([4.0, 3.0, 3.0, 3.1, 3.1, 3.1], epochs=6) is None  # that is the last epoch


def test_without_a_goal_no_trial_is_hopeless_and_without_limits_none_ends():
    never = Limits(10.0, None)
    assert ended([30.0, 29.0, 28.0], never) is None
    assert ended([4.0, 6.1, 6.1], never) == (3, False)
    assert ended([4.0, 6.1, 6.1], None) is None


@pytest.mark.parametrize(("best", "first", "goal"), [
    (3.0, True, 3.0), (3.0, False, 3.0), (inf, True, 10 * HOPED), (inf, False, None), (10.0, False, None)])
def test_the_goal_is_the_best_finished_trial_or_what_is_hoped_for(best, first, goal):
    assert limits(10.0, best, first=first) == (10.0, goal)
