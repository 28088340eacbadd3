"""The numbers of docs/scale.md are those that its arithmetic gives."""

import importlib.util
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.fixture(scope="module")
def scale():
    spec = importlib.util.spec_from_file_location("scale", DOCS / "scale.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_derived_line_stands_in_the_page(scale):
    page = (DOCS / "scale.md").read_text()
    assert [line for line in scale.lines() if line not in page] == []


@pytest.mark.parametrize(("gpus", "seconds"), [(1, 12), (2, 7), (3, 5), (5, 3), (100, 3)])
def test_pieces_go_to_the_first_gpu_that_is_free(scale, gpus, seconds):
    pieces = [scale.FLOPS_PER_SECOND * length for length in (3, 3, 2, 2, 2)]
    assert scale.makespan(pieces, gpus) == pytest.approx(seconds)


@pytest.mark.parametrize(("since", "seconds"), [
    ([0], 3 + 3 + 2 + 1 + 1),       # `late` before what waits
    ([0, 0], 3 + 2),                # 3 and 3; then 1 and 1 beside 2
    ([0, 5], 3 + 3 + 1 + 1),        # the second GPU comes for `late`, from 5 to 7
    ([0, 0, 0], 3 + 1), ([2, 2, 2], 2 + 3 + 1)])
def test_a_piece_begins_when_a_gpu_is_free_and_what_it_waits_for_is_over(scale, since, seconds):
    one = scale.FLOPS_PER_SECOND
    graph = {"first": scale.Group([3 * one] * 2), "then": scale.Group([one] * 2, ("first",)),
             "late": scale.Group([2 * one])}
    assert scale.simulated(graph, since) == pytest.approx(seconds)


def test_a_piece_whose_worker_dies_is_done_again(scale):
    graph = {"first": scale.Group([scale.FLOPS_PER_SECOND] * 1000)}
    calm, lost = scale.simulated(graph, [0.0]), scale.simulated(graph, [0.0], lost=0.2)
    assert calm == pytest.approx(1000)
    assert lost == pytest.approx(1000 * (1 + 0.25 / 2), rel=0.05)  # 1 / (1 - 0.2) attempts each, half of one lost


def test_flops_and_bytes_of_a_layer_that_is_counted_by_hand(scale):
    from torch import nn
    flops, weights = scale.network(lambda **_: nn.Conv2d(3, 5, 3, padding=1, bias=False), 8, 10)
    assert (flops, weights) == (2 * 3 * 5 * 9 * 8 * 8, 4 * 3 * 5 * 9)
