import numpy as np
import pytest
import torch

from amun_ray.errors import UserError
from amun_ray.training.parts import count, place

PIXELS, LABELS = np.zeros((4, 1, 2, 2), np.uint8), np.zeros(4, np.int64)


def test_place_takes_arrays_and_tensors():
    part = place(PIXELS, torch.from_numpy(LABELS), augment=True)
    assert part.images.dtype == torch.uint8
    assert part.augment
    assert count([part, part]) == 8


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
