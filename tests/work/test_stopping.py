"""When a trial ends early, by curves whose end is known."""

import pytest

from amun_ray.work.stopping import HOPED, Limits, end, limits, reach

JUDGED = Limits(10.0, 4.0, 1)


def ended(values, bounds=JUDGED, epochs=5):
    """(epoch, hopeless), or None."""
    over = end(values, bounds, epochs)
    return None if over is None else over[:2]


def test_a_trial_is_thought_to_improve_as_lately_and_less_in_each_epoch():
    """From 10 to 8.75 is 1.25 points in an epoch, and four are left."""
    assert reach(10.0, [8.75], 5) == pytest.approx(8.75 - 1.25 * (1 + 0.95 + 0.95**2 + 0.95**3))
    assert reach(10.0, [8.75, 7.25, 7.5], 5) == pytest.approx(7.25 - 1.5 * 1.95)  # its second epoch was better
    assert reach(10.0, [12.0, 13.0], 5) == 12.0
    assert reach(10.0, [12.0, 11.0], 2) == 11.0


def test_only_the_last_three_epochs_say_how_fast_it_is():
    assert reach(10.0, [5.0, 4.9, 4.8], 4) == pytest.approx(4.8 - 5.0)
    assert reach(10.0, [5.0, 4.9, 4.8, 4.6], 5) == pytest.approx(4.6 - 0.2)
    assert reach(10.0, [5.0, 4.9, 4.8, 4.6, 4.7], 6) == pytest.approx(4.6 - 0.2)  # from the best so far


def test_a_trial_is_hopeless_if_the_goal_is_out_of_its_reach():
    within = reach(10.0, [8.75], 5)
    assert ended([8.75], Limits(10.0, within, 1)) is None
    assert ended([8.75], Limits(10.0, within - 1e-9, 1)) == (1, True)
    assert end([8.75], Limits(10.0, 3.5, 1), 5).reason == (
        "hopeless after epoch 1: 8.75 points at best, which may become 4.11; to reach were 3.50")
    assert ended([7.5, 7.25], JUDGED) is None  # 7.25 - 3 * 2.5, nearly
    assert ended([7.5, 7.25, 7.25, 7.25], JUDGED) == (4, True)


def test_nothing_is_hopeless_before_it_is_judged_nor_after_the_last_epoch():
    """A method may begin slowly, or damage first and repair then."""
    assert ended([9.99, 8.5], Limits(10.0, 4.0, 2), epochs=6) is None
    assert ended([9.99, 9.9], Limits(10.0, 4.0, 3), epochs=6) is None
    assert ended([9.99, 9.9], Limits(10.0, 4.0, 2), epochs=6) == (2, True)
    assert ended([30.0, 12.0], epochs=10, bounds=Limits(10.0, 4.0, 2)) is None  # 18 points in an epoch
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
    never = Limits(10.0, None, 1)
    assert ended([30.0, 29.0, 28.0], never) is None
    assert ended([4.0, 6.1, 6.1], never) == (3, False)
    assert ended([4.0, 6.1, 6.1], None) is None


@pytest.mark.parametrize(("best", "first", "goal"), [
    ([5.0, 3.0, 6.0], True, 3.0), ([5.0, 3.0, 6.0], False, 3.0), ([], True, 10 * HOPED), ([], False, None),
    ([11.0, 10.0], False, None)])
def test_the_goal_is_the_best_finished_trial_or_what_is_hoped_for(best, first, goal):
    assert limits(10.0, best, 5, first=first) == (10.0, goal, 1)


@pytest.mark.parametrize(("epochs", "since"), [(1, 1), (5, 1), (6, 2), (10, 2), (11, 3), (35, 7)])
def test_no_trial_is_judged_in_the_first_fifth_of_its_epochs(epochs, since):
    assert limits(10.0, [], epochs, first=True).since == limits(10.0, [3.0], epochs, first=False).since == since


def test_no_trial_is_judged_where_the_best_one_would_have_been_hopeless():
    """It was worse than the original for two epochs, and then came 9, 6, 3; for two epochs nothing was in sight."""
    best = [11.0, 11.0, 9.0, 6.0, 3.0, 3.0]
    assert [reach(10.0, best[:epoch], 6) > 3.0 for epoch in (1, 2, 3, 4)] == [True, True, True, False]
    bounds = limits(10.0, best, 6, first=False)
    assert bounds == (10.0, 3.0, 4)
    assert ended(best, bounds, 6) is None
    assert ended([11.0, 11.0, 10.9, 10.8], bounds, 6) == (4, True)
    assert limits(10.0, [8.0, 3.0, 9.0, 9.0, 9.0], 10, first=False).since == 2  # after its best it need not improve
    assert limits(10.0, [11.0, 4.0, 3.0], 11, first=False).since == 3  # the first fifth stays unjudged
    assert limits(10.0, [8.0, 6.0, 4.0], 3, first=False).since == 2  # 6 - 2 is within reach, 8 - 2 * 1.95 was not
