import pytest
import torch
from scipy.stats import ks_2samp
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import resized_crop

from amun_ray.training.augment import Augmentation, augmented, draw


@pytest.fixture
def images():
    return torch.randint(0, 256, (20, 3, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_equals_padding_cropping_and_flipping_one_image_at_a_time(images):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 20, (200,), generator=generator)
    draws = draw(200, Augmentation(crop=2, flip=True), generator, (8, 6))
    result = augmented(images, rows, draws).permute(0, 3, 1, 2)
    for index, (down, across, flip) in enumerate(draws.tolist()):
        wanted = F.pad(images[rows[index]], (2, 2, 2, 2))[:, 2 + down:10 + down, 2 + across:8 + across]
        assert torch.equal(result[index], wanted.flip(2) if flip else wanted)


def test_draws_cover_every_shift_and_both_directions_evenly():
    draws = draw(10_000, Augmentation(crop=1, flip=True), torch.Generator().manual_seed(0), (8, 6))
    for column, values in ((0, (-1, 0, 1)), (1, (-1, 0, 1)), (2, (0, 1))):
        shares = [(draws[:, column] == value).float().mean().item() for value in values]
        assert sum(shares) == pytest.approx(1)
        assert shares == pytest.approx([1 / len(values)] * len(values), abs=0.02)


def test_the_default_changes_nothing(images):
    rows = torch.arange(20)
    result = augmented(images, rows, draw(20, Augmentation(), torch.Generator().manual_seed(0), (8, 6)))
    assert torch.equal(result.permute(0, 3, 1, 2), images)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_box_is_cut_and_resized_as_torchvision_does_it(images, dtype):
    source = images if dtype == torch.uint8 else images / 255
    rows = torch.arange(20).repeat(10)
    draws = draw(200, Augmentation(flip=True, resized=(0.1, 0.9)), torch.Generator().manual_seed(0), (8, 6))
    result = augmented(source, rows, draws).permute(0, 3, 1, 2)
    assert 0 < draws[:, 2].sum() < 200
    for index, (_, _, flip, *box) in enumerate(draws.tolist()):
        wanted = resized_crop(images[rows[index]] / 255, *box, size=[8, 6], antialias=True)
        torch.testing.assert_close(result[index], wanted.flip(2) if flip else wanted)


def test_the_whole_image_as_a_box_changes_nothing(images):
    draws = torch.tensor([[0, 0, 0, 0, 0, 8, 6]] * 20)
    assert torch.equal(augmented(images, torch.arange(20), draws).permute(0, 3, 1, 2), images / 255)


def test_boxes_are_drawn_as_torchvision_draws_them():
    """Areas, ratios and places of 20,000 boxes have the distribution of RandomResizedCrop's, within its own noise."""
    share, (height, width) = (0.2, 0.8), (40, 60)
    draws = draw(20_000, Augmentation(resized=share), torch.Generator().manual_seed(0), (height, width))[:, 3:].double()
    image = torch.empty(1, height, width)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, list(share), [3 / 4, 4 / 3])
                           for _ in range(20_000)]).double()

    def described(boxes):
        top, left, high, wide = boxes.unbind(1)
        return [high * wide, (wide / high).log(), top / (height - high + 1), left / (width - wide + 1)]

    for mine, other in zip(described(draws), described(theirs), strict=True):
        assert ks_2samp(mine.numpy(), other.numpy()).statistic < 0.025  # at 0.02 the chance of one is 1 in 10,000


def test_boxes_stay_inside_and_follow_from_the_seed():
    def boxes(seed):
        return draw(2000, Augmentation(resized=(0.01, 1)), torch.Generator().manual_seed(seed), (40, 8))[:, 3:]

    found = boxes(0)
    assert (found[:, 2:] >= 1).all()
    assert (found >= 0).all()
    assert (found[:, :2] + found[:, 2:] <= torch.tensor([40, 8])).all()
    assert torch.equal(found, boxes(0))
    assert not torch.equal(found, boxes(1))
    assert Augmentation(2, True).inputs == [2, True]  # as before there were boxes
    assert Augmentation(resized=(0.5, 1)).inputs == [0, False, [0.5, 1]]
