"""Transferred examples: built on one model, labelled by another."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from amun_ray.attacks import AttackSettings, craft, transfer
from amun_ray.base.errors import UserError
from amun_ray.base.status import Status


def test_to_itself_everything_transfers(net, images, labels):
    rows = transfer(net, net, images, labels, settings=AttackSettings())
    own = craft(net, images, labels, settings=AttackSettings())
    for name, column in rows.columns.items():
        np.testing.assert_array_equal(column, own.columns[name])
    assert rows.cost.verification == own.cost.verification + 2 * len(images)


def test_the_target_labels_and_judges(net, images, labels):
    target = deepcopy(net)
    generator = torch.Generator().manual_seed(0)
    target.head.weight.data += 0.02 * torch.randn(target.head.weight.shape, generator=generator)
    rows = transfer(net, target, images, labels, settings=AttackSettings())
    with torch.no_grad():
        before, after = (target(some).argmax(1).numpy() for some in (images, torch.from_numpy(rows.image)))
    true = labels.numpy()
    np.testing.assert_array_equal(rows.label, after)
    np.testing.assert_array_equal(rows.status, np.where(before != true, Status.ALREADY_WRONG,
                                                        np.where(after != true, Status.FLIPPED, Status.FAILED)))
    assert (rows.l2 > 0).tolist() == (before == true).tolist()
    assert 0 < rows.report()["flipped_percent"] < 100
    assert {Status.FLIPPED, Status.FAILED} <= set(rows.status.tolist())


def test_the_target_is_checked_too(net, images, labels):
    with pytest.raises(UserError, match="target: must return logits"):
        transfer(net, torch.nn.Flatten(0), images, labels, settings=AttackSettings())
