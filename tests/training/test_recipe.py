import pytest

from amun_ray.base.errors import UserError
from amun_ray.training.recipe import Recipe


def test_step_schedule_multiplies_after_every_so_many_epochs():
    recipe = Recipe(lr=0.1, epochs=5, decay_every=2, decay_factor=0.1)
    rates = [recipe.lr_at(time) for time in (0, 1.99, 2, 3.5, 4)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001])


def test_step_schedule_without_decay_is_constant():
    assert Recipe(lr=0.3, epochs=9).lr_at(8.9) == 0.3


def test_step_schedule_does_not_look_at_the_total():
    short, long = (Recipe(lr=0.1, epochs=epochs, decay_every=1) for epochs in (2, 10))
    assert [short.lr_at(time) for time in (0, 0.5, 1.5)] == [long.lr_at(time) for time in (0, 0.5, 1.5)]


def test_one_cycle_rises_to_the_peak_and_falls_to_zero():
    recipe = Recipe(lr=0.4, epochs=8, schedule="one_cycle")
    rates = [recipe.lr_at(time) for time in (0, 1, 2, 5, 8)]
    assert rates == pytest.approx([0.04, 0.22, 0.4, 0.2, 0])


def test_cosine_falls_to_zero_and_a_warm_up_rises_from_a_tenth():
    recipe = Recipe(lr=0.4, epochs=8, schedule="cosine")
    assert [recipe.lr_at(time) for time in (0, 2, 4, 8)] == pytest.approx([0.4, 0.2 * (1 + 0.5**0.5), 0.2, 0])
    warm = Recipe(lr=0.4, epochs=8, schedule="cosine", warm_up=2)
    assert [warm.lr_at(time) / recipe.lr_at(time) for time in (0, 1, 2, 5)] == pytest.approx([0.1, 0.55, 1, 1])
    assert [Recipe(lr=0.4, epochs=8, warm_up=2).lr_at(time) for time in (0, 1, 2, 7)] == pytest.approx(
        [0.04, 0.22, 0.4, 0.4])


@pytest.mark.parametrize(("name", "value"), [
    ("optimizer", "adam"), ("warm_up", -1), ("clip", -0.5), ("label_smoothing", 1),
    ("lr", 0), ("lr", -1e-3), ("lr", float("nan")), ("lr", float("inf")), ("epochs", 0), ("batch_size", 1),
    ("momentum", 1), ("weight_decay", -1e-4), ("schedule", "linear"), ("decay_every", -1), ("decay_factor", 0),
    ("decay_factor", 2), ("precision", "float16")])
def test_a_value_out_of_range_is_named(name, value):
    with pytest.raises(UserError, match=f"{name} must be .*but got {value!r}"):
        Recipe(**({"lr": 0.1, "epochs": 1} | {name: value}))


def test_all_mistakes_come_in_one_message():
    with pytest.raises(UserError, match=r"lr must be .*; epochs must be"):
        Recipe(lr=0, epochs=0)
