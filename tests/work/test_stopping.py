"""When a trial ends early, by curves whose end is known."""

from math import inf

import pytest

from amun_ray.work.stopping import HOPED, PACE, Limits, end, limits

JUDGED = Limits(10.0, 4.0, 1)
NEVER = Limits(10.0, None, 2)


def ended(values, bounds=JUDGED, epochs=5):
    """(epoch, hopeless), or None."""
    over = end(values, bounds, epochs)
    return None if over is None else over[:2]


def test_a_trial_is_hopeless_if_its_best_pace_does_not_bring_it_to_the_goal():
    """From 10 to 9 is 1 point in an epoch, and four are left: 9 - 4 PACE = 4 is the goal itself, 4.01 is behind it."""
    assert PACE == 1.25
    assert ended([9.0]) is None
    assert ended([9.01]) == (1, True)
    assert end([9.01], JUDGED, 5).reason == (
        "hopeless after epoch 1: 9.01 points at best, and no more than 0.99 better in an epoch; to reach were 4.00")
    assert ended([9.0, 8.5]) == (2, True)  # 8.5 - 3 PACE = 4.75
    assert ended([9.0, 7.5]) is None  # its second epoch was better: 7.5 - 3 PACE 1.5


def test_one_that_damages_first_and_repairs_then_goes_on_from_its_second_epoch():
    assert ended([30.0, 12.0]) == (1, True)
    first = JUDGED._replace(since=2)
    assert ended([30.0, 12.0], first) is None  # 18 points in an epoch
    assert ended([30.0, 29.0], first) == (2, True)


def test_the_best_so_far_counts_and_the_last_epoch_ends_no_trial():
    assert ended([3.9, 5.0, 5.0, 5.0, 5.0]) is None
    assert ended([9.0, 7.0, 6.0, 5.5, 5.4]) is None  # 5.5 - PACE 2 < 4
    assert ended([8.0, 7.0, 6.5, 6.4, 0.0], JUDGED._replace(goal=3.8)) == (4, True)  # 6.4 - PACE 2 = 3.9
    assert ended([9.9], epochs=1) is None


def test_a_trial_is_past_its_best_after_two_epochs_in_a_row_half_as_bad_again():
    assert ended([4.0, 6.1, 6.1]) == (3, False)
    assert ended([4.0, 6.1, 6.0, 6.1]) is None  # exactly half as bad again is not enough
    assert ended([4.0, 6.1, 3.0, 4.6]) is None
    assert ended([4.0, 6.1, 3.0, 4.6, 4.6], epochs=6) == (5, False)
    assert ended([4.0, 3.0, 3.0, 4.6, 4.6]) is None  # that is the last epoch
    assert end([4.0, 6.1, 6.1], JUDGED, 5).reason == "past its best after epoch 3: 6.10 points, 4.00 at best"


def test_without_a_goal_no_trial_is_hopeless_and_without_limits_none_ends():
    assert ended([30.0, 29.0, 28.0], NEVER) is None
    assert ended([4.0, 6.1, 6.1], NEVER) == (3, False)
    assert ended([4.0, 6.1, 6.1], None) is None


@pytest.mark.parametrize(("best", "first", "expected"), [
    (3.0, True, (10.0, 3.0, 1)), (3.0, False, (10.0, 3.0, 1)), (inf, True, (10.0, 10 * HOPED, 2)),
    (inf, False, (10.0, None, 2)), (10.0, False, (10.0, None, 2))])
def test_the_goal_is_the_best_finished_trial_or_what_is_hoped_for(best, first, expected):
    assert limits(10.0, best, first=first) == expected
