"""How sure a trial's value is, and which one is chosen."""

import math

import pytest

from amun_ray.metrics import crossed_mean
from amun_ray.storage.store import Unit
from amun_ray.unlearn import Contender
from amun_ray.work.trials import Errors, Trial, chosen
from amun_ray.work.units import Hyperparameters


def trial(number, gaps, test, *, originals=1, bank=None):
    """A finished trial of one epoch, with the Avg. Gap and the test accuracy of each case."""
    curves = [[{"average_gap": gap, "test_accuracy": one}] for gap, one in zip(gaps, test, strict=True)]
    each = len(gaps) // originals
    unit = Unit("trials", {"cases": [{"original": f"{place // each}", "forget": f"{place % each}"}
                                     for place in range(len(gaps))]})
    result = {"best_average_gap": sum(gaps) / len(gaps), "best_epoch": 1, "curves": curves}
    return Trial(Contender("amun", "retain"), number, Hyperparameters(0.01, "never", 1, {}), unit,
                 result | ({} if bank is None else {"bank_error": bank}))


def test_the_error_of_a_value_is_that_of_its_cases_and_of_the_bank():
    """Gaps 1, 2, 3 of three sets: a standard deviation of 1 over the root of 3."""
    made = trial(0, [1.0, 2.0, 3.0], [90.0] * 3, bank=0.5)
    assert made.errors == (pytest.approx(3 ** -0.5), 0.5)
    assert made.errors.total == pytest.approx(math.sqrt(1 / 3 + 1 / 4))
    assert str(made.errors) == "+- 0.76 (cases 0.58, bank 0.50)"
    two = trial(0, [2.0, 4.0, 6.0, 8.0], [90.0] * 4, originals=2)
    assert two.errors == (pytest.approx(crossed_mean([[2.0, 4.0], [6.0, 8.0]]).standard_error), None)


def test_of_one_case_nothing_is_known():
    assert trial(0, [1.0], [90.0]).errors == (None, None)
    assert str(Errors(None, None)) == "(error unknown)"
    assert Errors(None, None).total == 0


def test_within_one_error_the_better_test_accuracy_is_chosen():
    """The least is 2 +- 1: 2.9 is near, 3.1 is not, whatever its accuracy."""
    trials = [trial(0, [1.0, 3.0], [80.0, 90.0]), trial(1, [2.9, 2.9], [90.0, 90.0]), trial(2, [3.1, 3.1], [99.0] * 2),
              trial(3, [2.8, 2.8], [90.0, 90.0]), trial(4, [2.0, 2.0], [85.0, 85.0], bank=9.0)]
    assert chosen(trials, "least").number == 0
    assert chosen(trials, "within_one_error").number == 3  # of equals that of the lesser value
    failed = Trial(Contender("amun", "retain"), 5, Hyperparameters(0.01, "never", 1, {}), trials[0].unit,
                   {"failed": "epoch 1: loss is nan"})
    assert chosen([failed, *trials], "within_one_error").number == 3
    assert chosen([failed], "within_one_error") is failed
