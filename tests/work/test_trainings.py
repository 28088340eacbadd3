"""Which rows each model is trained on, against sets worked out here."""


from dataclasses import replace

import numpy as np
import pytest
from searching import FORGET, RANKS, ranked, sweep

from amun_ray.config.schema import Sweep
from amun_ray.data.splits import random_forget_sets, reference_halves
from amun_ray.storage.store import Store
from amun_ray.work.checkpoints import Checkpoint
from amun_ray.work.estimate import pieces
from amun_ray.work.plan import Plan
from amun_ray.work.trainings import original_trainings, wanted_trainings

TRAIN, SIZE = 2 * RANKS, 3 * RANKS
MORE = {"originals": {"count": 2}, "forget": {"fraction": 0.1, "sets": 2}, "references": {"count": 6}, "seed": 5}


@pytest.fixture
def plan():
    return Plan(Sweep.model_validate(sweep({}).model_dump() | MORE), ranked())


@pytest.fixture
def workspace(plan):
    return plan.workspace(Store("nowhere"))


@pytest.fixture
def wanted(workspace, plan):
    return wanted_trainings(workspace, plan)


def test_references_may_have_epochs_of_their_own(plan, workspace, wanted):
    settings = plan.sweep.model_dump()
    other = Plan(Sweep.model_validate(settings | {"references": {"count": 6, "epochs": 3}}), plan.dataset)
    room = other.workspace(Store("nowhere"))
    again = wanted_trainings(room, other)
    assert {one.recipe(room) for one in again.references} == {replace(plan.sweep.training, epochs=3)}
    assert {one.recipe(room) for one in again.every[:-6]} == {plan.sweep.training}
    for mine, theirs, same in [(again.originals, wanted.originals, True), (again.references, wanted.references, False)]:
        assert {a.unit(room).digest == b.unit(workspace).digest for a, b in zip(mine, theirs, strict=True)} == {same}
    less = pieces(plan).trainings[-1] // plan.sweep.training.epochs
    assert pieces(other).trainings == (*pieces(plan).trainings[:-6], *[3 * less] * 6)
    assert "(3 of the reference models)" in str(other)
    equal = Plan(Sweep.model_validate(settings | {"references": {"count": 6, "epochs": plan.sweep.training.epochs}}),
                 plan.dataset)
    assert [one.unit(workspace).digest for one in wanted.references] == [
        one.unit(room).digest for one in wanted_trainings(equal.workspace(Store("nowhere")), equal).references]


def test_originals_are_trained_on_d(wanted):
    assert [training.name for training in wanted.originals] == ["original 0", "original 1"]
    assert [training.rows.tolist() for training in wanted.originals] == [list(range(TRAIN))] * 2


def test_retrained_models_are_trained_on_d_without_their_forget_set(wanted):
    held_out, final, _ = random_forget_sets(TRAIN, 0.1, sets=2, held_out=1, seed=5)
    forgotten = {"held_out 0": held_out[0], "final 0": final[0], "final 1": final[1]}
    assert {name: len(group) for name, group in wanted.retrained.items()} == {
        "held_out 0": 1, "final 0": 2, "final 1": 2}
    for name, group in wanted.retrained.items():
        assert len(forgotten[name]) == TRAIN // 10
        for number, training in enumerate(group):
            assert training.name == f"retrained without {name}, {number}"
            assert training.rows.tolist() == [row for row in range(TRAIN) if row not in forgotten[name]]


def test_references_are_trained_on_the_halves_of_the_bank(wanted):
    halves = reference_halves(SIZE, 6, 5)
    assert np.array_equal(wanted.halves, halves)
    assert [training.rows.tolist() for training in wanted.references] == [
        [row for row in range(SIZE) if half[row]] for half in halves]
    assert [training.name for training in wanted.references] == [f"reference {k}" for k in range(6)]


def test_every_model_has_a_seed_of_its_own_and_the_longest_trainings_come_first(wanted):
    by_kind = [wanted.originals, *wanted.retrained.values(), wanted.references]
    assert wanted.every == [training for group in by_kind for training in group]
    assert len({training.seed for training in wanted.originals + wanted.references}) == 8
    for group in wanted.retrained.values():  # the same for each set: they differ by what they do not see
        assert [one.seed for one in group] == [one.seed for one in wanted.retrained["final 1"]][:len(group)]
    assert [training.keep_weights for training in wanted.every] == [True] * 7 + [False] * 6


def test_the_search_waits_for_no_model_without_a_final_set(wanted):
    assert wanted.searched == [*wanted.originals, *wanted.retrained["held_out 0"], *wanted.references]


def test_weights_of_references_are_kept_where_one_is_to_be_unlearned(plan):
    other = Plan(Sweep.model_validate(plan.sweep.model_dump() | {"audit": {"ulira": 1}}), plan.dataset)
    made = wanted_trainings(other.workspace(Store("nowhere")), other)
    assert all(training.keep_weights for training in made.references)


def test_checkpoints_take_the_place_of_originals_in_their_order(workspace):
    given = [Checkpoint(name, name, {}) for name in ("one", "other")]
    made = original_trainings(workspace, given)
    assert [training.checkpoint for training in made] == given
    assert all(training.checkpoint is None for training in original_trainings(workspace, []))


def test_the_split_of_a_forget_set_is_d_without_it_and_the_test_rows(workspace):
    rows = workspace.split(FORGET[::2], np.zeros(SIZE, np.int64))
    assert rows.forget.tolist() == list(range(0, RANKS, 2))
    assert rows.retain.tolist() == [row for row in range(TRAIN) if row not in FORGET[::2]]
    assert rows.test.tolist() == list(range(TRAIN, SIZE))
