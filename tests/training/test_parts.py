import numpy as np
import pytest
import torch

from amun_ray.base.errors import UserError
from amun_ray.training.augment import Augmentation
from amun_ray.training.batches import batches, in_order
from amun_ray.training.parts import Part, count, place

PIXELS, LABELS = np.zeros((4, 1, 2, 2), np.uint8), np.zeros(4, np.int64)


def test_place_takes_arrays_and_tensors():
    part = place(PIXELS, torch.from_numpy(LABELS), augment=True)
    assert part.images.dtype == torch.uint8
    assert part.augment
    assert count([part, part]) == 8


def test_a_part_of_some_rows_shares_the_images_and_trains_as_a_copy_of_them_would():
    pixels = torch.randint(0, 256, (30, 1, 4, 4), dtype=torch.uint8)
    rows = torch.tensor([7, 3, 29, 11, 0, 16])
    labels = torch.arange(6)
    picked, copied = Part(pixels, labels, True, rows), place(pixels[rows], labels, augment=True)
    assert picked.images is pixels
    assert torch.equal(picked.own_images, copied.images)
    taken = picked.take(torch.tensor([5, 0]), augment=False)
    assert taken.images is pixels
    assert torch.equal(taken.own_images, pixels[[16, 7]])
    assert taken.labels.tolist() == [5, 0]

    def seen(part):
        options = {"batch_size": 4, "augmentation": Augmentation(crop=1, flip=True)}
        return [*batches([part, copied], generator=torch.Generator().manual_seed(0), **options), *in_order(part, 4)]
    for one, other in zip(seen(picked), seen(copied), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


@pytest.mark.parametrize(("images", "labels", "message"), [
    (PIXELS[0], LABELS, "images \\(N, C, H, W\\)"),
    (PIXELS, LABELS[:3], "images \\(N, C, H, W\\)"),
    (PIXELS.astype(np.float64), LABELS, "uint8 or float32"),
    (PIXELS, LABELS.astype(np.int32), "labels must be int64"),
    (np.full((4, 1, 2, 2), 2, np.float32), LABELS, "pixels must lie in \\[0, 1\\]"),
])
def test_what_is_no_part_is_refused(images, labels, message):
    with pytest.raises(UserError, match=message):
        place(images, labels, augment=False)
