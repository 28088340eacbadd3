"""The state of a request after each sequence of its entries."""

import pytest

from amun_ray.ledger import Entry, History, RowId


def history(*said):
    """The history of `(kind, requests, content)`, in that order."""
    entries = []
    for number, (kind, requests, content) in enumerate(said):
        last = entries[-1] if entries else None
        entries.append(Entry.after(last, kind, requests.split(), f"2030-01-01T00:00:{number:02d}", content))
    return History(tuple(entries))


OPENED = ("opened", "", {"original": {"weights": "w0"}})
ONE = ("received", "r1", {"rows": [[1, "a"], [2, "b"]]})
TWO = ("received", "r2", {"rows": [[2, "b"], [3, "c"]]})
BEGUN, BOTH = ("begun", "r1", {"step": 1}), ("begun", "r1 r2", {"step": 2})
YES, NO = ("finished", "r1", {"accepted": True}), ("finished", "r1", {"accepted": False})
PROMOTED = ("promoted", "r1", {"model": "w1", "version": "2"})
PURGED = ("purged", "r1", {})


@pytest.mark.parametrize(("said", "states"), [
    ([ONE], {"r1": "received"}),
    ([ONE, BEGUN], {"r1": "begun"}),
    ([ONE, BEGUN, NO], {"r1": "refused"}),
    ([ONE, BEGUN, YES], {"r1": "accepted"}),
    ([ONE, BEGUN, YES, PROMOTED], {"r1": "promoted"}),
    ([ONE, BEGUN, YES, PROMOTED, PURGED], {"r1": "purged"}),
    ([ONE, BEGUN, YES, PROMOTED, TWO], {"r1": "promoted", "r2": "received"}),
    ([ONE, BEGUN, YES, TWO, BOTH], {"r1": "begun", "r2": "begun"}),  # accepted, not promoted: taken up again
    ([ONE, BEGUN, NO, TWO, BOTH, ("finished", "r1 r2", {"accepted": True})], {"r1": "accepted", "r2": "accepted"}),
])
def test_the_state_of_a_request_is_that_of_its_last_entry(said, states):
    found = history(OPENED, *said)
    assert {asked.id: asked.state for asked in found.requests.values()} == states
    for state in set(states.values()):
        assert [asked.id for asked in found.of(state)] == [one for one, its in states.items() if its == state]


def test_a_row_belongs_to_the_first_request_that_names_it():
    found = history(OPENED, ONE, TWO)
    assert found.asked == {RowId(1, "a"): "r1", RowId(2, "b"): "r1", RowId(3, "c"): "r2"}
    assert found.forgotten == {}
    assert history(OPENED, ONE, TWO, BEGUN, YES).forgotten == {}
    assert history(OPENED, ONE, TWO, BEGUN, YES, PROMOTED).forgotten == {RowId(1, "a"): "r1", RowId(2, "b"): "r1"}


def test_the_model_in_production_is_the_last_one_that_was_promoted():
    assert history(OPENED, ONE, BEGUN, YES).weights == "w0"
    assert history(OPENED, ONE, BEGUN, YES, PROMOTED).weights == "w1"


def test_a_step_that_was_begun_and_not_finished_is_known():
    assert history(OPENED, ONE).begun is None
    assert history(OPENED, ONE, BEGUN, TWO).begun.requests == ("r1",)
    assert history(OPENED, ONE, BEGUN, YES).begun is None
    assert history(OPENED, ONE, BEGUN, YES, TWO, BOTH).begun.requests == ("r1", "r2")
    assert history(OPENED, ONE, BEGUN, YES, TWO, BOTH).step == 2


def test_the_next_request_gets_the_next_number():
    assert history(OPENED).next_id == "r1"
    assert history(OPENED, ONE, TWO, BEGUN).next_id == "r3"
