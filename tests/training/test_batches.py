import numpy as np
import pytest
import torch

from amun_ray.base.errors import UserError
from amun_ray.training import batches as module
from amun_ray.training.augment import Augmentation
from amun_ray.training.batches import batch_sizes, batches, in_order
from amun_ray.training.parts import place


def numbered(count, first, *, augment=False, dtype=np.uint8):
    """`count` images whose every pixel is their own number, from `first`, and whose label is that number."""
    numbers = np.arange(first, first + count)
    pixels = np.broadcast_to(numbers[:, None, None, None], (count, 2, 4, 3)).astype(dtype)
    return place(pixels / np.float32(255) if dtype == np.float32 else pixels, numbers, augment=augment)


PLAIN = Augmentation()
PARTS = (numbered(20, 0, augment=True), numbered(13, 100), numbered(8, 200, dtype=np.float32))


def epoch(parts=PARTS, batch_size=10, augmentation=PLAIN, seed=0):
    return list(batches(parts, batch_size=batch_size, augmentation=augmentation,
                        generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize(("total", "sizes"), [
    (1, [1]), (2, [2]), (10, [10]), (11, [11]), (12, [10, 2]), (20, [10, 10]), (21, [10, 11]), (39, [10, 10, 10, 9])])
def test_batch_sizes(total, sizes):
    assert batch_sizes(total, 10) == sizes


@pytest.mark.parametrize("batch_size", [2, 3, 7, 128])
def test_no_batch_of_one_and_no_sample_lost(batch_size):
    for total in range(2, 300):
        sizes = batch_sizes(total, batch_size)
        assert sum(sizes) == total
        assert min(sizes) >= 2
        assert max(sizes) <= batch_size + 1


def test_nothing_to_train_on_is_said():
    with pytest.raises(UserError, match="there is nothing to train on"):
        epoch(parts=(numbered(0, 0),))


def test_every_sample_comes_once_with_its_own_label():
    images, labels = (torch.cat(column) for column in zip(*epoch(), strict=True))
    assert sorted(labels.tolist()) == [*range(20), *range(100, 113), *range(200, 208)]
    assert torch.allclose(images, labels[:, None, None, None].expand_as(images) / 255)


def test_parts_are_shuffled_together():
    kinds = torch.cat([labels for _, labels in epoch()]) // 100
    assert (kinds[:20] == 0).any()
    assert (kinds[:20] > 0).any()


def test_images_are_channels_last_floats():
    for images, _ in epoch():
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_only_parts_that_ask_for_it_are_augmented():
    for images, labels in epoch(augmentation=Augmentation(crop=3)):
        constant = (images == images[:, :1, :1, :1]).flatten(1).all(1)
        assert constant[labels >= 100].all()
    shifted = torch.cat([(images == 0).flatten(1).any(1)[(labels > 0) & (labels < 20)]
                         for images, labels in epoch(augmentation=Augmentation(crop=3))])
    assert shifted.any()


def test_the_same_seed_gives_the_same_batches_and_the_next_epoch_others():
    generator = torch.Generator().manual_seed(0)
    first, second = ([labels for _, labels in batches(PARTS, batch_size=10, augmentation=Augmentation(),
                                                      generator=generator)] for _ in range(2))
    assert all(map(torch.equal, first, [labels for _, labels in epoch()]))
    assert not all(map(torch.equal, first, second))


@pytest.mark.parametrize("augmentation", [Augmentation(1, True), Augmentation(0, True, (0.2, 1))])
def test_assembling_many_batches_at_once_changes_nothing(monkeypatch, augmentation):
    together = epoch(augmentation=augmentation)
    monkeypatch.setattr(module, "CACHE_BYTES", 1)
    one_by_one = epoch(augmentation=augmentation)
    assert [len(labels) for _, labels in one_by_one] == [len(labels) for _, labels in together]
    assert all(torch.equal(left, right) and left.stride() == right.stride()
               for one, other in zip(one_by_one, together, strict=True) for left, right in zip(one, other, strict=True))


@pytest.mark.parametrize(("room", "rows"), [(1, [10, 10, 10, 11]), (20, [20, 21]), (29, [20, 21]), (40, [41])])
def test_as_many_batches_are_assembled_at_once_as_the_cache_holds(monkeypatch, room, rows):
    """41 images of 2 x 4 x 3 float32 in batches of 10, of which the last joins the one before it."""
    seen, assemble = [], module._assemble
    monkeypatch.setattr(module, "CACHE_BYTES", 4 * 2 * 4 * 3 * room)
    monkeypatch.setattr(module, "_assemble", lambda *given: seen.append(len(given[1])) or assemble(*given))
    assert [len(labels) for _, labels in epoch()] == [10, 10, 10, 11]
    assert seen == rows


def test_the_first_part_may_be_empty():
    assert sum(len(labels) for _, labels in epoch((numbered(0, 0), *PARTS[1:]))) == 13 + 8


def test_in_order_is_neither_shuffled_nor_augmented():
    images, labels = (torch.cat(column) for column in zip(*in_order(PARTS[0], 7), strict=True))
    assert labels.tolist() == list(range(20))
    assert torch.allclose(images[:, 0, 0, 0], labels / 255)
