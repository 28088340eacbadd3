import numpy as np
import pytest

from amun_ray.base.errors import UserError
from amun_ray.data.splits import (
    Groups,
    fold_forget_sets,
    forget_count,
    forgotten_classes,
    like_forget_sets,
    random_forget,
    random_forget_sets,
    reference_halves,
    requested_forget_sets,
)


def test_random_forget_draws_sorted_unique_rows_outside_the_excluded():
    exclude = np.arange(0, 50, dtype=np.int64)
    rows = random_forget(100, 30, 0, "a", 1, exclude=exclude)
    assert rows.dtype == np.int64
    assert len(rows) == 30
    assert (np.diff(rows) > 0).all()
    assert rows.min() >= 50
    assert rows.max() < 100
    np.testing.assert_array_equal(rows, random_forget(100, 30, 0, "a", 1, exclude=exclude))
    assert (rows != random_forget(100, 30, 0, "a", 2, exclude=exclude)).any()
    np.testing.assert_array_equal(random_forget(100, 50, 7, "all", exclude=exclude), np.arange(50, 100))


@pytest.mark.parametrize("count", [0, 51])
def test_random_forget_needs_enough_rows(count):
    with pytest.raises(UserError, match=f"cannot draw {count} forget samples: 50 of 100"):
        random_forget(100, count, 0, exclude=np.arange(50))


@pytest.mark.parametrize(("size", "fraction", "count"), [(100, 0.29, 29), (700, 0.1, 70), (7, 0.5, 3), (3, 0.34, 1)])
def test_a_fraction_is_rounded_down_but_not_by_floating_point(size, fraction, count):
    assert forget_count(size, fraction) == count


@pytest.mark.parametrize(("size", "fraction"), [(100, 0.1), (100, 0.5), (101, 0.495), (7, 0.5), (2, 0.5)])
def test_held_out_sets_never_meet_a_final_set(size, fraction):
    sets = random_forget_sets(size, fraction, sets=3, held_out=2, seed=0)
    assert len(sets.final) == 3
    assert len(sets.held_out) == 2
    for rows in (*sets.final, *sets.held_out):
        assert len(rows) == forget_count(size, fraction)
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()
        assert rows.min() >= 0
        assert rows.max() < size
    assert not set(np.concatenate(sets.final)) & set(np.concatenate(sets.held_out))


def test_a_set_does_not_depend_on_how_many_are_asked_for():
    few, many = (random_forget_sets(1000, 0.1, sets=n, held_out=n, seed=4) for n in (1, 5))
    np.testing.assert_array_equal(few.final[0], many.final[0])
    np.testing.assert_array_equal(few.held_out[0], many.held_out[0])
    assert (many.final[0] != many.final[1]).any()
    assert (many.held_out[0] != many.held_out[1]).any()
    assert (few.final[0] != random_forget_sets(1000, 0.1, sets=1, held_out=1, seed=5).final[0]).any()


@pytest.mark.parametrize(("settings", "message"), [
    ({"fraction": 0.6}, "fraction 0.6 leaves no room for held-out sets.*2 x 60 > 100"),
    ({"fraction": 0.0}, "`0 < forget fraction < 1` must hold, but got 0.0"),
    ({"fraction": 1.5}, "but got 1.5"),
    ({"fraction": 0.001}, "0.001 of 100 training samples is less than one sample"),
    ({"sets": 0}, "sets=0"),
    ({"held_out": 0}, "held_out=0"),
])
def test_impossible_sets_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        random_forget_sets(100, **({"fraction": 0.1, "sets": 1, "held_out": 1, "seed": 0} | settings))


@pytest.mark.parametrize(("size", "folds", "held_out", "sizes"), [
    (12, 4, 1, [3] * 4), (11, 4, 3, [3, 3, 3, 2]), (2, 2, 1, [1, 1])])
def test_folds_are_the_training_set_once(size, folds, held_out, sizes):
    sets = fold_forget_sets(size, folds, held_out=held_out, seed=3)
    assert (len(sets.held_out), len(sets.final)) == (held_out, folds - held_out)
    every = [*sets.held_out, *sets.final]
    assert [len(rows) for rows in every] == sizes
    assert all((np.diff(rows) > 0).all() for rows in every)
    assert sorted(np.concatenate(every)) == list(range(size))


def test_the_search_takes_folds_and_leaves_the_others_as_they_are():
    few, many = (fold_forget_sets(100, 5, held_out=n, seed=0) for n in (1, 2))
    np.testing.assert_array_equal([*few.held_out, *few.final], [*many.held_out, *many.final])
    assert (few.final[0] != fold_forget_sets(100, 5, held_out=1, seed=1).final[0]).any()


def test_folds_that_nothing_is_left_of_are_refused():
    with pytest.raises(UserError, match="5 folds need as many training samples, but there are 4; ask for fewer"):
        fold_forget_sets(4, 5, held_out=1, seed=0)
    for held_out in (0, 5):
        with pytest.raises(UserError, match=f"`1 <= held_out < folds` must hold, but got held_out={held_out}, folds=5"):
            fold_forget_sets(10, 5, held_out=held_out, seed=0)


def test_a_request_is_the_final_set_and_is_never_searched_on():
    rows = np.array([9, 3, 5], np.int64)
    sets = requested_forget_sets(20, rows, held_out=4, seed=0)
    np.testing.assert_array_equal(sets.final, [[3, 5, 9]])
    assert [len(held_out) for held_out in sets.held_out] == [3] * 4
    assert not set(np.concatenate(sets.held_out)) & {3, 5, 9}


def test_a_request_of_more_than_half_is_refused():
    with pytest.raises(UserError, match="11 requested samples leave no room.*2 x 11 > 20"):
        requested_forget_sets(20, np.arange(11), held_out=1, seed=0)
    with pytest.raises(UserError, match="held_out=0"):
        requested_forget_sets(20, np.arange(2), held_out=0, seed=0)


@pytest.mark.parametrize("count", [10, 11])
def test_every_row_is_in_exactly_half_of_the_models(count):
    halves = reference_halves(count, 6, seed=1)
    assert halves.shape == (6, count)
    assert halves.dtype == bool
    np.testing.assert_array_equal(halves.sum(0), np.full(count, 3))
    assert set(halves.sum(1)) <= {count // 2, count - count // 2}
    assert len(np.unique(halves, axis=0)) == 6
    np.testing.assert_array_equal(reference_halves(count, 8, seed=1)[:6], halves)  # a bank may grow


@pytest.mark.parametrize(("count", "models", "message"), [(10, 3, "even"), (10, 0, "even"), (1, 2, "2 samples")])
def test_halves_that_cannot_balance_are_refused(count, models, message):
    with pytest.raises(UserError, match=message):
        reference_halves(count, models, seed=0)


SIZES = {"ann": 8, "bob": 3, "cleo": 7, "dan": 20, "eve": 9, "fred": 1, "gus": 3}


def persons(asked):
    """Rows of seven persons in turn, and of nobody; those that `asked` have, and all."""
    of = np.repeat(np.arange(7), list(SIZES.values()))
    of = np.concatenate([of, np.full(5, -1)])[np.random.default_rng(0).permutation(len(of) + 5)]
    return np.flatnonzero(np.isin(of, [[*SIZES].index(name) for name in asked])), Groups("person", [*SIZES], of)


@pytest.mark.parametrize(("asked", "held_out", "wanted"), [
    (["ann"], 1, [{"cleo"}, {"eve"}]), (["bob"], 1, [{"gus"}]), (["bob"], 2, [{"gus"}, {"fred"}]),
    (["dan"], 3, [{"eve"}, {"ann"}, {"cleo"}]), (["bob", "ann"], 1, [{"cleo", "gus"}, {"eve", "gus"}]),
    (["ann", "dan"], 2, [{"eve", "cleo"}, {"bob", "gus"}])])
@pytest.mark.parametrize("seed", range(3))
def test_held_out_sets_are_other_groups_of_the_nearest_size(asked, held_out, wanted, seed):
    rows, groups = persons(asked)
    made = like_forget_sets(rows, groups, held_out=held_out, seed=seed)
    np.testing.assert_array_equal(made.final[0], rows)
    assert len(made.held_out) == held_out
    found = [{groups.names[one] for one in groups.of[rows]} for rows in made.held_out]
    for number, chosen in enumerate(found):
        assert chosen in (wanted if held_out == 1 else wanted[number:number + 1])
        whole = np.flatnonzero(np.isin(groups.of, [groups.names.index(name) for name in chosen]))
        np.testing.assert_array_equal(made.held_out[number], whole)
        assert made.groups[number].startswith("person ")
        assert set(made.groups[number].removeprefix("person ").split(", ")) == chosen
    assert len({row for rows in (*made.held_out, *made.final) for row in rows}) == sum(
        map(len, (*made.held_out, *made.final)))  # all disjoint


def test_more_held_out_groups_do_not_change_the_first():
    rows, groups = persons(["ann"])
    one, three = (like_forget_sets(rows, groups, held_out=count, seed=4).held_out for count in (1, 3))
    np.testing.assert_array_equal(one[0], three[0])


def test_equal_groups_are_chosen_between_by_the_seed():
    groups = Groups("class", [str(number) for number in range(10)], np.repeat(np.arange(10), 4))
    chosen = {like_forget_sets(np.arange(4), groups, held_out=1, seed=seed).groups[0] for seed in range(20)}
    assert len(chosen) > 4


def test_nothing_of_a_group_that_is_asked_for_in_part_is_held_out():
    rows, groups = persons(["ann"])
    assert "ann" not in "".join(like_forget_sets(rows[:3], groups, held_out=6, seed=0).groups)


def test_too_few_other_groups_are_refused():
    rows, groups = persons(["ann", "bob"])
    with pytest.raises(UserError, match=r"^held-out sets that look like the request need 3 x 2 other groups \(person\)"
                                        r", but there are 5; ask for fewer sets \(held_out.sets\), or forget fewer"):
        like_forget_sets(rows, groups, held_out=3, seed=0)


@pytest.mark.parametrize(("forget", "classes"), [
    ([0, 2], [0]), ([0, 1, 2, 4], [0, 1]), ([1, 4], [1]), ([0], []), ([0, 1, 2], []), ([3], [])])
def test_whole_classes_are_told_by_their_rows(forget, classes):
    """Class 2 has no test image, so that nobody could tell how it is forgotten."""
    labels = np.array([0, 1, 0, 2, 1, 0, 1, 3])
    assert forgotten_classes(labels, np.array(forget), 5).tolist() == classes
