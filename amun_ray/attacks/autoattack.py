"""Robust accuracy by AutoAttack (Croce and Hein, ICML 2020), its standard ensemble, of the library `pyautoattack`.

Four attacks run one after another, each on the images that withstood those before: APGD on the cross-entropy; APGD on
the targeted DLR loss and FAB, with up to nine targets each, 100 iterations a target; and Square, 5,000 queries. DLR
needs three classes, targeted DLR four, of which the library warns: with three the untargeted one takes its place, with
two there is none.
"""

import copy
import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amun_ray.attacks.checks import check_batch
from amun_ray.base.errors import UserError, first_line

logger = logging.getLogger(__name__)

TARGETS, ITERATIONS, QUERIES = 9, 100, 5000  # of the standard version
LEAST_SIDE = 5  # in pixels: Square divides an image into five stripes in L2
SAME = 1e-4  # answers of one model that differ by more, as a share of their length, are stochastic: the library's limit
NEEDED = "audit.autoattack: needs the package pyautoattack: pip install 'amun_ray[autoattack]'"


def ensemble(classes: int) -> tuple[str, ...]:
    """The attacks that a network with so many classes gets, by the library's names."""
    return ("apgd-ce", *(("apgd-t",) if classes > 3 else ("apgd-dlr",) if classes == 3 else ()), "fab-t", "square")


def most_passes(classes: int) -> int:
    """Forward passes on an image that withstands all; a backward pass counts two."""
    targets = min(TARGETS, classes - 1)
    gradient = 3 * (ITERATIONS + 1)
    dlr = {"apgd-t": targets * gradient, "apgd-dlr": gradient}
    return gradient + sum(dlr.get(name, 0) for name in ensemble(classes)) + targets * 4 * ITERATIONS + QUERIES


def check_autoattack(model: nn.Module, images: Tensor, norm: str) -> None:
    """Whether `model`, in eval mode, can be attacked in `norm`, judged on a few `images` (N, C, H, W) in [0, 1].

    Raises:
        UserError: the library cannot be imported, images too small, or a model that answers differently each time.
    """
    try:
        import pyautoattack  # noqa: F401
    except ImportError as error:
        raise UserError(f"{NEEDED} ({first_line(error)})") from error
    if norm == "L2" and min(images.shape[2:]) < LEAST_SIDE:
        raise UserError(f"audit.autoattack: norm L2 needs images of at least {LEAST_SIDE} pixels a side, and these "
                        f"have {min(images.shape[2:])}; take norm: Linf, or leave autoattack out")
    with torch.no_grad():
        first, *others = (model(images).float() for _ in range(3))
    length = first.norm(dim=1).clamp_min(1e-10)
    if any(((other - first).norm(dim=1) > SAME * length).any() for other in others):
        raise UserError("audit.autoattack: the network answers differently each time it sees an image, in eval mode, "
                        "and the attacks need one that does not; leave autoattack out, or make it deterministic")


def withstood(model: nn.Module, images: Tensor, labels: Tensor, *, norm: str, eps: float, seed: int) -> np.ndarray:
    """Where `model` is right, and stays right in the whole ball as far as AutoAttack can tell: (N,) bool.

    The draws of all images are one stream, so an image's result depends, in rare cases, on the others of the call. If a
    GPU's memory is too small for all at once, it warns and goes on with half as many.

    Args:
        model: (N, C, H, W) float32 in [0, 1] -> logits (N, classes); it is not changed.
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,) int64, the true classes.
        norm: "Linf" or "L2".
        eps: the radius, in pixel units.

    Raises:
        UserError: as in `check_autoattack`, or arguments that do not fit.
    """
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    check_batch(frozen, images, labels)
    check_autoattack(frozen, images[:8], norm)
    attack, at_once = _standard(frozen, images, norm, eps, seed), len(images)
    while True:
        try:
            with torch.random.fork_rng([images.device] if images.is_cuda else []):  # it draws from torch's own stream
                _, said = attack.run_standard_evaluation(images, labels, batch_size=at_once)
            return (said == labels).cpu().numpy()
        except torch.OutOfMemoryError:
            if at_once == 1:
                raise
            at_once = (at_once + 1) // 2
            logger.warning("out of GPU memory: AutoAttack goes on with %d images at a time", at_once)


def _standard(model: nn.Module, images: Tensor, norm: str, eps: float, seed: int) -> Any:
    """The library's standard version, with as many targets as there are classes for."""
    from pyautoattack import AutoAttack

    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    attack = AutoAttack(model, norm=norm, eps=eps, seed=seed, device=images.device, version="standard")
    attack.attacks_to_run = list(ensemble(classes))
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(TARGETS, classes - 1)
    return attack
