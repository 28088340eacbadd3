"""Stages side by side: what one waits for, and that an error of any ends all."""

import threading
import time

import pytest

from amun_ray.base.flow import Flow, Gathering, Promise, Stopped, check, in_turn, stopped


def run(*stages, then):
    """All of them beside each other, `then` in this thread."""
    with Flow() as flow:
        for stage in stages:
            flow.start(stage)
        then()


def test_a_stage_waits_for_what_it_needs_and_for_nothing_else():
    seen, gate, late = [], Promise(), Gathering(["a", "b"])

    def first():
        late.put("b", 2)
        assert gate.get() == "open"
        seen.append("first")
        late.put("other", 9)
        late.put("a", 1)

    with Flow() as flow:
        flow.start(first)
        second = flow.start(lambda: seen.append("second") or gate.keep("open") or 5)
        assert second.get() == 5
        assert late.get() == [1, 2]  # in the order of the names, whichever came first
    assert seen == ["second", "first"]


def test_nothing_to_gather_is_had_at_once():
    assert Gathering([]).get() == []


def test_the_first_error_of_a_stage_ends_the_others_and_is_what_is_raised():
    ended = []

    def waits():
        try:
            Promise().get()
        except Stopped:
            ended.append("waits")
            raise

    def works():
        while not stopped():
            time.sleep(0.01)
        ended.append("works")
        check()

    with pytest.raises(KeyError, match="mine"):
        run(waits, works, lambda: {}["mine"], then=Promise().get)
    assert sorted(ended) == ["waits", "works"]
    assert not stopped()
    check()


def test_a_failure_beside_the_caller_is_raised_in_place_of_what_followed_from_it():
    def follows():
        while not stopped():
            time.sleep(0.01)
        raise ValueError("since the other failed")

    with pytest.raises(KeyError, match="mine"):
        run(lambda: {}["mine"], then=follows)


def test_a_failure_that_nobody_waits_for_is_raised_too():
    with pytest.raises(KeyError, match="mine"):
        run(lambda: {}["mine"], then=lambda: None)


def test_an_interrupt_ends_every_stage_and_stays_an_interrupt():
    begun, ended = threading.Event(), []

    def works():
        begun.set()
        try:
            Promise().get()
        finally:
            ended.append(True)

    def interrupted():
        begun.wait(10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(works, then=interrupted)
    assert ended == [True]


def test_functions_in_turn_never_overlap_and_may_call_one_another():
    inside, most = [0], [0]

    @in_turn
    def inner():
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.002)
        inside[0] -= 1

    @in_turn
    def outer():
        inner()

    with Flow() as flow:
        for _ in range(5):
            flow.start(inner)
            flow.start(outer)
    assert (inside, most) == ([0], [1])
