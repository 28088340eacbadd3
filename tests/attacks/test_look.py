"""One look at a model whose logits are known, in bfloat16 and in float32."""

import pytest
import torch
from torch import nn

from amun_ray.attacks.look import Capacity, Looker

# Logits of the rows 0, 1, ... in bfloat16 and in float32; the label is 0 everywhere. Where the margin in bfloat16 is
# less than 3 % of the spread, all of a row are those in float32.
ROUGH = torch.tensor([[9.00, 8.50, 8.00], [-9.00, -9.02, -10.00], [0.00, 0.50, -0.50], [5.00, 4.96, 4.00],
                      [-0.40, -0.38, 0.60], [100.0, 98.00, 0.00], [0.10, 0.05, 0.00]])
EXACT = ROUGH + torch.tensor([0.25, 0.75, 0.5])
DOUBTFUL = torch.tensor([False, True, True, False, True, True, False])


class Known(nn.Module):
    """The number of a row is its first pixel, in tenths; a row of zeros is row 0."""

    def __init__(self):
        super().__init__()
        self.seen = []  # (bfloat16, numbers) of each pass

    def forward(self, images):
        numbers = (10 * images[:, 0, 0, 0]).round().long()
        bfloat16 = torch.is_autocast_enabled("cpu")
        self.seen.append((bfloat16, numbers.tolist()))
        return (ROUGH if bfloat16 else EXACT)[numbers] + 0 * images.sum()


def look(judged, *, capacity=8, numbers=(0, 1, 2, 3, 4, 5, 6), wants=False, **options):
    """The look at rows of these numbers, its model and its looker."""
    model = Known()
    looker = Looker(model, (1, 1, 2), Capacity(capacity), bfloat16=True, **options)
    rows = torch.tensor([[number / 10, 0.5] for number in numbers])
    labels = torch.zeros(len(numbers), dtype=torch.int64)
    seen = looker(rows, labels, torch.full((len(numbers),), wants), judged=judged)
    return seen, model, looker


def expected(logits):
    """Prediction, margin of class 0, and spread of logits (N, 3)."""
    return logits.argmax(1), logits[:, 0] - logits[:, 1:].amax(1), logits.amax(1) - logits.amin(1)


def test_the_gradient_is_taken_against_the_rival_or_the_strongest_other_class():
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    looker = Looker(lambda images: images.flatten(1) @ weight.T, (1, 2, 3), Capacity(2))
    rows, labels = torch.rand(3, 6, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2])
    others = (rows @ weight.T).scatter(1, labels[:, None], -torch.inf).argmax(1)
    rivals = torch.tensor([3, -1, 0])
    seen = looker(rows, labels, torch.ones(3, dtype=torch.bool), rivals=rivals)
    torch.testing.assert_close(seen.gradient, weight[labels] - weight[torch.where(rivals < 0, others, rivals)])
    torch.testing.assert_close(seen.margin, expected_margins(rows @ weight.T, labels))
    torch.testing.assert_close(seen.logits, rows @ weight.T)


class Linear(nn.Module):
    """Logits (N, 4) of a weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
        self.forwards = 0

    def forward(self, images):
        self.forwards += len(images)
        return images.flatten(1) @ self.weight.T


@pytest.mark.parametrize(("capacity", "fixed"), [(8, False), (1, False), (8, True)])
@pytest.mark.parametrize("count", [2, 3, 9])
def test_several_gradients_are_those_against_each_of_the_strongest_classes(count, capacity, fixed):
    model = Linear()
    looker = Looker(model, (1, 2, 3), Capacity(capacity), fixed=fixed)
    rows, labels = torch.rand(5, 6, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 3, 0])
    several, wants = torch.tensor([False, True, False, True, False]), torch.tensor([True, True, False, True, True])
    rivals = torch.where(several, -count, torch.tensor([3, 0, 0, 0, -1]))
    seen = looker(rows, labels, wants, rivals=rivals)
    assert seen.compared.keys() == {count}
    logits, weight = rows @ model.weight.T, model.weight
    ranked = logits.scatter(1, labels[:, None], -torch.inf).argsort(1, descending=True)[:, :min(count, 3)]
    torch.testing.assert_close(seen.compared[count], (weight[labels][:, None] - weight[ranked])[several])
    torch.testing.assert_close(seen.gradient[several], seen.compared[count][:, 0])
    torch.testing.assert_close(seen.gradient[0], weight[0] - weight[3])
    torch.testing.assert_close(seen.gradient[4], weight[0] - weight[ranked[4, 0]])
    torch.testing.assert_close(seen.logits, logits)
    if fixed:
        assert (looker.forward, looker.backward) == (3 + 2 * min(count, 3), 3 + 2 * min(count, 3))
        assert model.forwards == 8 * (1 + min(count, 3))  # a pass each, at one shape
    else:
        assert (looker.forward, looker.backward) == (5, 2 + 2 * min(count, 3))
        assert model.forwards == 5


@pytest.mark.parametrize("capacity", [8, 1])
def test_rows_may_ask_for_different_numbers_of_gradients(capacity):
    model, labels = Linear(), torch.tensor([0, 1, 2, 3, 0])
    rows = torch.rand(5, 6, generator=torch.Generator().manual_seed(1))
    seen = Looker(model, (1, 2, 3), Capacity(capacity))(rows, labels, torch.ones(5, dtype=torch.bool),
                                                        rivals=torch.tensor([-3, 2, -2, -3, -2]))
    against = (rows @ model.weight.T).scatter(1, labels[:, None], -torch.inf).argsort(1, descending=True)[:, :3]
    wanted = model.weight[labels][:, None] - model.weight[against]
    torch.testing.assert_close(seen.compared, {2: wanted[[2, 4], :2], 3: wanted[[0, 3]]})
    torch.testing.assert_close(seen.gradient[1], model.weight[1] - model.weight[2])


def expected_margins(logits, labels):
    return torch.stack([row[label] - max(row[:label].tolist() + row[label + 1:].tolist())
                        for row, label in zip(logits, labels, strict=True)])


JUDGED = [None, torch.arange(7) != 2, torch.zeros(7, dtype=torch.bool)]


@pytest.mark.parametrize("judged", JUDGED)
@pytest.mark.parametrize("wants", [False, True])
def test_doubtful_rows_that_are_judged_are_read_again_in_float32(judged, wants):
    again = DOUBTFUL if judged is None else DOUBTFUL & judged
    seen, model, looker = look(judged, wants=wants)
    wanted = expected(torch.where(again[:, None], EXACT, ROUGH))
    for found, right in zip(seen, wanted, strict=False):
        torch.testing.assert_close(found, right)
    numbers = again.nonzero().squeeze(1).tolist()
    assert model.seen == [(True, [0, 1, 2, 3, 4, 5, 6])] + [(False, numbers)] * bool(numbers)
    assert (looker.forward, looker.backward) == (7 + len(numbers), 7 * wants)


def test_at_one_fixed_shape_the_doubtful_rows_are_padded():
    seen, model, looker = look(None, capacity=8, fixed=True)
    torch.testing.assert_close(seen.margin, expected(torch.where(DOUBTFUL[:, None], EXACT, ROUGH))[1])
    assert model.seen == [(True, [0, 1, 2, 3, 4, 5, 6, 0]), (False, [1, 2, 4, 5, 0, 0, 0, 0])]
    assert (looker.forward, looker.backward) == (11, 7)


@pytest.mark.parametrize("numbers", [(1,), (3,), (1, 1, 1)])
def test_one_row_is_as_good_as_many(numbers):
    seen, model, _ = look(None, numbers=numbers)
    torch.testing.assert_close(seen.margin, expected((EXACT if numbers[0] == 1 else ROUGH)[list(numbers)])[1])
    assert len(model.seen) == (2 if numbers[0] == 1 else 1)


def test_rows_are_looked_at_in_parts_in_their_order():
    seen, model, looker = look(None, capacity=2)
    torch.testing.assert_close(seen.predicted, expected(torch.where(DOUBTFUL[:, None], EXACT, ROUGH))[0])
    assert [numbers for bfloat16, numbers in model.seen if bfloat16] == [[0, 1], [2, 3], [4, 5], [6]]
    assert [numbers for bfloat16, numbers in model.seen if not bfloat16] == [[1], [2], [4, 5]]
    assert looker.forward == 11
