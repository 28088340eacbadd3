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


def test_flops_and_bytes_of_a_layer_that_is_counted_by_hand(scale):
    from torch import nn
    flops, weights = scale.network(lambda **_: nn.Conv2d(3, 5, 3, padding=1, bias=False), 8, 10)
    assert (flops, weights) == (2 * 3 * 5 * 9 * 8 * 8, 4 * 3 * 5 * 9)
