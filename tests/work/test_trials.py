"""When a trial is hopeless."""

import pytest

from amun_ray.work.trials import limits, stopped_after


def test_a_hopeless_trial_is_farther_behind_than_any_made_up():
    """The best is 1; after epoch 1 nobody made up more than 3 points, after epoch 2 no more than 1."""
    finished = [[4, 2, 1], [3, 3, 2]]
    assert limits(finished) == (4, 2)
    assert stopped_after([4, 2, 5], limits(finished)) is None
    assert stopped_after([5, 2, 1], limits(finished)) == 1
    assert stopped_after([4, 3, 1], limits(finished)) == 2


def test_one_that_diverged_got_no_better_after_its_last_epoch():
    assert limits([[4, 2, 1], [3]]) == pytest.approx(limits([[4, 2, 1], [3, 3, 3]]))
