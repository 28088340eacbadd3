"""Batches from pixels that stay on the host: the same as from those on the device, read ahead by a thread."""

import threading

import numpy as np
import pytest
import torch

from amun_ray.base.seeds import generator
from amun_ray.base.tensors import shared_tensor
from amun_ray.models import build
from amun_ray.training.augment import Augmentation
from amun_ray.training.batches import ahead, batches, in_order
from amun_ray.training.loop import fit
from amun_ray.training.parts import Part
from amun_ray.training.recipe import Recipe


@pytest.fixture
def parts(tmp_path):
    """Clean images in memory and the same mapped, read-only, from a file; and adversarial ones."""
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (40, 3, 8, 8), np.uint8)
    pixels.tofile(tmp_path / "pixels.u8")
    mapped = np.memmap(tmp_path / "pixels.u8", np.uint8, "r", shape=pixels.shape)
    labels, rows = torch.from_numpy(draw.integers(0, 2, 25)), torch.from_numpy(draw.permutation(40)[:25])
    other = Part(torch.rand(7, 3, 8, 8), torch.ones(7, dtype=torch.int64), augment=False)
    return ([Part(torch.from_numpy(pixels), labels, True, rows), other],
            [Part(shared_tensor(mapped), labels, True, rows, streamed=True), other])


@pytest.mark.parametrize("augmentation", [Augmentation(2, True), Augmentation(resized=(0.2, 0.9)), None])
def test_the_batches_are_the_same_bit_for_bit(parts, augmentation):
    resident, streamed = ([part._replace(augment=augmentation is not None) for part in kind] for kind in parts)
    found = [list(batches(kind, batch_size=5, augmentation=augmentation or Augmentation(), generator=generator(0)))
             for kind in (resident, streamed)]
    assert len(found[0]) == len(found[1]) == 7
    for (images, labels), (other_images, other_labels) in zip(*found, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def test_training_gives_the_same_weights(parts):
    states = []
    for kind in parts:
        model = build("small_cnn", channels=3, classes=2, size=8, mean=[0.5] * 3, std=[0.5] * 3, seed=0)
        for _ in fit(model, kind, recipe=Recipe(epochs=2, lr=0.1, batch_size=8),
                     augmentation=Augmentation(1, True), generator=generator(0)):
            pass
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_part_of_a_streamed_part_is_streamed(parts):
    (resident, _), (streamed, _) = parts
    places = torch.tensor([3, 1, 4, 1])
    taken = streamed.take(places, augment=False)
    assert taken.streamed
    assert torch.equal(taken.own_images, resident.take(places, augment=False).own_images)
    for mine, other in zip(in_order(taken, 3), in_order(resident.take(places, augment=False), 3), strict=True):
        assert torch.equal(mine[0], other[0])


def test_the_thread_is_two_ahead_and_in_order():
    made, two_more = [], threading.Event()

    def make(item):
        made.append(item)
        if len(made) == 3:
            two_more.set()
        return item

    results = ahead(make, range(100))
    assert next(results) == 0
    assert two_more.wait(5)  # 1 and 2 are made while 0 is looked at
    assert len(made) <= 4
    assert list(results) == list(range(1, 100))


def test_what_goes_wrong_in_the_thread_is_raised_here():
    def make(item):
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead(make, range(3)))


def test_a_loop_that_is_left_leaves_no_thread():
    before = threading.active_count()
    results = ahead(lambda item: item, range(1000))
    next(results)
    results.close()
    assert threading.active_count() == before
