import pytest
import torch
from torch.nn import functional as F

from amun_ray.training.augment import Augmentation, augmented, draw


@pytest.fixture
def images():
    return torch.randint(0, 256, (20, 3, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_equals_padding_cropping_and_flipping_one_image_at_a_time(images):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 20, (200,), generator=generator)
    draws = draw(200, Augmentation(crop=2, flip=True), generator)
    result = augmented(images, rows, draws).permute(0, 3, 1, 2)
    for index, (down, across, flip) in enumerate(draws.tolist()):
        wanted = F.pad(images[rows[index]], (2, 2, 2, 2))[:, 2 + down:10 + down, 2 + across:8 + across]
        assert torch.equal(result[index], wanted.flip(2) if flip else wanted)


def test_draws_cover_every_shift_and_both_directions_evenly():
    draws = draw(10_000, Augmentation(crop=1, flip=True), torch.Generator().manual_seed(0))
    for column, values in ((0, (-1, 0, 1)), (1, (-1, 0, 1)), (2, (0, 1))):
        shares = [(draws[:, column] == value).float().mean().item() for value in values]
        assert sum(shares) == pytest.approx(1)
        assert shares == pytest.approx([1 / len(values)] * len(values), abs=0.02)


def test_the_default_changes_nothing(images):
    rows = torch.arange(20)
    result = augmented(images, rows, draw(20, Augmentation(), torch.Generator().manual_seed(0)))
    assert torch.equal(result.permute(0, 3, 1, 2), images)
