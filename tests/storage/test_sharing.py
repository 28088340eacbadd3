"""Two sweeps with one store: each unit is made once, and one finishes what the other leaves."""

import pytest

from amun_ray.storage import sharing
from amun_ray.storage.leases import announced, claim, release
from amun_ray.storage.sharing import claimed, hold, make_all, make_once
from amun_ray.storage.store import Store, Unit

UNITS = [Unit("models", {"seed": seed}) for seed in range(4)]


@pytest.fixture
def pair(tmp_path):
    """The stores of two living sweeps, the same folder."""
    first, second = Store(str(tmp_path)), Store(str(tmp_path))
    with announced(first), announced(second):
        yield first, second


@pytest.fixture
def waits(monkeypatch):
    """What is done while a sweep waits, one call per look."""
    todo = []
    monkeypatch.setattr(sharing.time, "sleep", lambda _: todo.pop(0)())
    return todo


def make(store, unit):
    return make_once(store, unit, lambda: store.finish(unit, {}))


def run(store):
    return lambda units: ((unit, make(store, unit)) for unit in units)


def test_a_unit_is_made_once(pair):
    first, second = pair
    assert [make(first, UNITS[0]), make(first, UNITS[0]), make(second, UNITS[0])] == [True, False, False]
    claim(first, UNITS[1].folder)
    assert not make(second, UNITS[1])
    assert not second.has(UNITS[1])
    assert make(first, UNITS[1])  # also by another worker of the sweep that has it


def test_what_others_are_at_is_waited_for_and_not_made(pair, waits, capsys):
    first, second = pair
    claim(first, UNITS[1].folder)
    waits += [lambda: None, lambda: make(first, UNITS[1])]
    made = list(make_all(second, UNITS, lambda unit: unit, run(second)))
    assert made == [(UNITS[0], True), (UNITS[2], True), (UNITS[3], True), (UNITS[1], False)]
    assert capsys.readouterr().out == "  waiting for 1 of them, which another sweep is making\n"
    assert waits == []


def test_what_others_leave_undone_is_made(pair, waits):
    first, second = pair
    claim(first, UNITS[1].folder)
    waits += [lambda: release(first, UNITS[1].folder)]
    made = list(make_all(second, UNITS, lambda unit: unit, run(second)))
    assert made == [(UNITS[place], True) for place in (0, 2, 3, 1)]


def test_a_sweep_alone_never_waits(pair, waits):
    assert list(make_all(pair[0], UNITS, lambda unit: unit, run(pair[0]))) == [(unit, True) for unit in UNITS]
    assert list(claimed(pair[0], UNITS, lambda unit: unit)) == [UNITS]


def test_claims_are_kept_while_they_are_worked_on_and_others_come_later(pair, waits):
    first, second = pair
    claim(first, UNITS[0].folder)
    turns = claimed(second, UNITS, lambda unit: unit)
    assert next(turns) == UNITS[1:]
    assert not claim(first, UNITS[1].folder)
    waits += [lambda: release(first, UNITS[0].folder)]
    assert next(turns) == UNITS[:1]
    assert claim(first, UNITS[1].folder)
    assert list(turns) == []


def test_who_holds_what_is_wanted_is_said_once(pair, waits, capsys):
    first, second = pair
    hold(first, "output", "--output x")
    assert capsys.readouterr().out == ""
    waits += [lambda: None, lambda: release(first, "output")]
    hold(second, "output", "--output x")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("--output x belongs to a sweep that is still running (host ")
    assert not claim(first, "output")
