"""The numbers of docs/scale.md are those that its arithmetic gives."""

from pathlib import Path

import hand_out
import pytest
import scale
import training_step
from torch import nn

PAGE = Path(scale.__file__).with_suffix(".md")


def test_every_derived_line_stands_in_the_page():
    page = PAGE.read_text()
    assert [line for line in scale.lines() if line not in page] == []


@pytest.mark.parametrize(("gpus", "seconds"), [(1, 12), (2, 7), (3, 5), (5, 3), (100, 3)])
def test_pieces_go_to_the_first_gpu_that_is_free(gpus, seconds):
    assert scale.makespan([3, 3, 2, 2, 2], gpus) == seconds


@pytest.mark.parametrize(("since", "seconds"), [
    ([0], 3 + 3 + 2 + 1 + 1),       # `late` before what waits
    ([0, 0], 3 + 2),                # 3 and 3; then 1 and 1 beside 2
    ([0, 5], 3 + 3 + 1 + 1),        # the second GPU comes for `late`, from 5 to 7
    ([0, 0, 0], 3 + 1), ([2, 2, 2], 2 + 3 + 1)])
def test_a_piece_begins_when_a_gpu_is_free_and_what_it_waits_for_is_over(since, seconds):
    graph = {"first": hand_out.Group([3] * 2), "then": hand_out.Group([1] * 2, ("first",)),
             "late": hand_out.Group([2])}
    assert hand_out.simulated(graph, since) == seconds


@pytest.mark.parametrize(("since", "begins"), [
    ([0] * 4, [(0, "wide"), (0, "one"), (0, "one"), (2, "wide again"), (3, "then")]),
    ([0] * 3, [(0, "wide"), (0, "one"), (2, "one"), (3, "wide again"), (4, "then")]),
    ([0, 0, 1], [(0, "wide"), (1, "one"), (3, "one"), (3, "then"), (4, "wide again")]),
    ([0, 0], [(0, "wide"), (3, "one"), (3, "one"), (5, "then"), (6, "wide again")])])  # asked for at 5: one GPU is free
def test_a_training_by_several_gpus_begins_in_its_turn_when_so_many_are_free(since, begins):
    graph = {"wide": hand_out.Group([3], (), [2]), "one": hand_out.Group([2, 2]),
             "wide again": hand_out.Group([1], (), [2]), "then": hand_out.Group([1], ("wide",))}
    *found, (_, last) = hand_out.begun(graph, since)
    assert (found, last) == (begins, "")


def test_a_piece_whose_worker_dies_is_done_again():
    graph = {"first": hand_out.Group([1] * 1000)}
    calm, lost = hand_out.simulated(graph, [0.0]), hand_out.simulated(graph, [0.0], lost=0.2)
    assert calm == pytest.approx(1000)
    assert lost == pytest.approx(1000 * (1 + 0.25 / 2), rel=0.05)  # 1 / (1 - 0.2) attempts each, half of one lost


def test_flops_and_bytes_of_a_layer_that_is_counted_by_hand():
    found = training_step.network(lambda **_: nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, bias=False),
                                                            nn.BatchNorm2d(5, affine=False)), 8, 10)
    assert found == (2 * 3 * 5 * 9 * 8 * 8, 4 * 3 * 5 * 9, 1)


def test_a_step_by_several_gpus_waits_for_statistics_and_exchanges_gradients_meanwhile(monkeypatch):
    monkeypatch.setattr(training_step, "FLOPS_PER_SECOND", 300.0)
    monkeypatch.setattr(training_step, "LATENCY", 0.25)
    net = training_step.Network(flops=100.0, weights=60, norms=2)
    assert training_step.Step.of(net, 8, 1, 10.0) == (8.0, 0.0, 0.0)
    four = training_step.Step.of(net, 8, 4, 10.0)
    assert (four, four.seconds) == ((2.0, 1.0, 9.0), 9.0)
    assert training_step.Step.of(net, 8, 4, 100.0).seconds == 3.0
