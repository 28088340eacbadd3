"""Transferred examples (the paper's Table 8): built on one model, labelled and verified on another."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from amun_ray.attacks.checks import check_batch, check_model
from amun_ray.attacks.craft import Prepared, craft, prepared
from amun_ray.attacks.frozen import frozen
from amun_ray.attacks.look import Look, Looker, flat, shape_of
from amun_ray.attacks.rows import AdversarialRows, AttackCost
from amun_ray.attacks.settings import AttackSettings
from amun_ray.base.status import Status


def transfer(source: nn.Module | Prepared, target: nn.Module, images: Tensor, labels: Tensor, *,
             settings: AttackSettings, indices: np.ndarray | None = None) -> AdversarialRows:
    """Attack `source`, then label the images with `target`; arguments and errors as in `craft`.

    The rows' labels are the predictions of `target`. A row is flipped if `target` is wrong, already wrong (at distance
    0) if `target` is wrong on the clean image, and failed if the example did not transfer; the predictions of `source`
    do not count. `report()["flipped_percent"]` of the result is the success rate.
    """
    ready, target = prepared(source, settings), frozen(target)
    check_batch(ready.original, images, labels)
    check_model(target, images, labels, name="target")
    rows = craft(ready, images, labels, settings=settings, indices=indices)
    look = Looker(target, shape_of(images), ready.capacity, contiguous=True)
    carried = torch.from_numpy(rows.image).to(images.device)
    before, after = _say(look, images, labels), _say(look, carried, labels)
    already = before.predicted != labels
    flipped = (after.predicted != labels) & ~already
    status = torch.full_like(labels, Status.FAILED, dtype=torch.int8)
    status[flipped], status[already] = Status.FLIPPED, Status.ALREADY_WRONG
    image = torch.where(already[:, None, None, None], images, carried)
    return replace(
        rows,
        image=image.cpu().numpy(),
        label=torch.where(already, before.predicted, after.predicted).cpu().numpy(),
        eps=np.where(already.cpu().numpy(), np.float32(0), rows.eps),
        l2=np.where(already.cpu().numpy(), np.float32(0), rows.l2),
        status=status.cpu().numpy(),
        cost=rows.cost + AttackCost(verification=look.forward),
    )


def _say(look: Looker, images: Tensor, labels: Tensor) -> Look:
    return look(flat(images), labels, torch.zeros_like(labels, dtype=torch.bool))
