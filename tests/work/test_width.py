"""What the first cluster decides, once, and the store keeps: `search.together: auto`, and `resources.widen`."""

import pytest
from searching import sweep, without_ray

from amun_ray.storage.store import Store, Unit
from amun_ray.work.width import at_a_time, kept_widths, widths, with_width

SEVERAL = {"finetune": None, "random_label": None}  # three methods and accesses
EQUAL = {1: 1.0, 2: 0.5, 4: 0.25}  # seconds of a step with so many GPUs, where these lose nothing
UNITS = [Unit("models", {"number": number}) for number in range(3)]


@pytest.mark.parametrize(("workers", "together"), [(1, 1), (3, 1), (4, 2), (7, 3), (64, 12)])
def test_the_first_cluster_decides_and_the_store_keeps_it(workers, together, tmp_path, capsys):
    auto = without_ray(sweep({"together": "auto"}, SEVERAL), tmp_path)
    settled = with_width(auto, workers)
    assert settled.sweep.search.width == together
    assert with_width(auto, 1000).sweep == settled.sweep
    assert capsys.readouterr().out == 2 * (
        f"search.together: {together} trials of a method at a time, for the {workers} workers of the first start\n")
    others = without_ray(sweep({"together": "auto"}, {"finetune": None}), tmp_path)
    assert with_width(others, 7).sweep.search.width == 6  # two rounds of 12 trials


def test_a_number_is_left_as_it_is(tmp_path, capsys):
    given = without_ray(sweep({"together": 5}), tmp_path)
    assert with_width(given, 64) is given
    assert not [*tmp_path.rglob("widths")]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("workers", "rounds"), [(1, [1] * 24), (8, [3] * 8), (32, [12, 12]), (64, [24]), (512, [24])])
def test_the_rounds_of_a_search_are_equal_and_nearest_to_what_fills_the_workers(workers, rounds):
    together = at_a_time(24, 3, workers)
    assert [min(together, 24 - begun) for begun in range(0, 24, together)] == rounds


@pytest.mark.parametrize(("lengths", "gpus", "steps", "wanted"), [
    ([4.0, 4.0], 2, {1: 1.0, 2: 0.5}, [1, 1]),                 # nothing to gain
    ([4.0, 4.0], 4, EQUAL, [2, 2]),
    ([4.0, 4.0], 8, EQUAL, [4, 4]),
    ([4.0, 4.0, 4.0], 2, {1: 1.0, 2: 0.6}, [2, 1, 1]),         # 2.4 seconds of both GPUs, then 4 beside 4
    ([4.0, 4.0, 4.0], 2, {1: 1.0, 2: 1.0}, [1, 1, 1]),         # two GPUs are no faster than one
    ([9.0, 4.0, 4.0], 4, {1: 1.0, 2: 0.55, 4: 0.4}, [2, 1, 1])])  # two for the others would end none earlier
def test_trainings_get_as_many_gpus_as_let_all_end_first(lengths, gpus, steps, wanted):
    assert widths(lengths, gpus, steps) == wanted


@pytest.mark.parametrize("gpus", [20, 24, 32])
def test_no_other_split_of_any_two_numbers_of_gpus_ends_earlier(gpus):
    """Against every way there is, each by a schedule of its own, for many trainings."""
    lengths, steps = [4.0] * 3 + [3.0] * 7 + [2.0] * 11, {1: 1.0, 2: 0.6, 4: 0.4}

    def over(numbers):
        free, begin = [0.0] * gpus, 0.0  # when each GPU is; none begins before its turn
        for length, number in zip(lengths, numbers, strict=True):
            free.sort()
            begin = max(begin, free[number - 1])
            free[:number] = [begin + length * steps[number]] * number
        return max(free)

    ways = [[wide] * first + [narrow] * (21 - first) for wide in steps for narrow in steps for first in range(22)
            if wide >= narrow]
    assert over(widths(lengths, gpus, steps)) == pytest.approx(min(map(over, ways)))
    assert over(widths(lengths, gpus, steps)) < over([1] * 21)


def test_the_numbers_of_gpus_stay_those_of_the_first_start(tmp_path, capsys):
    store = Store(str(tmp_path))

    def again():
        raise AssertionError("measured once")

    assert kept_widths(store, UNITS, [9.0, 4.0, 4.0], lambda: (4, {1: 1.0, 2: 0.5625, 4: 0.4})) == [2, 1, 1]
    assert kept_widths(store, UNITS, [9.0, 4.0, 4.0], again) == [2, 1, 1]
    assert capsys.readouterr().out == 2 * (
        "resources.widen: 1 training on 2 GPUs each, 2 trainings on 1 GPU each, for the 4 GPUs of the first start; "
        "measured: 2 are 1.78 times, 4 are 2.5 times as fast as one\n")
    assert kept_widths(store, UNITS[:2], [4.0, 4.0], lambda: (2, {1: 1.0})) == [1, 1]
    assert capsys.readouterr().out == "resources.widen: 2 trainings on 1 GPU each, for the 2 GPUs of the first start\n"
