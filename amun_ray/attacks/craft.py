"""`craft`: from clean images to verified adversarial rows. `calibrate`: the first radius for all of them.

Both take a model, or a `Prepared` one: prepare once where many batches follow.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from amun_ray.attacks.checks import check_batch
from amun_ray.attacks.frozen import folded, frozen
from amun_ray.attacks.look import Capacity, Looker, flat, shape_of, unflat
from amun_ray.attacks.rows import AdversarialRows, AttackCost
from amun_ray.attacks.settings import AttackSettings
from amun_ray.attacks.slots import Outcome, run
from amun_ray.attacks.verify import shrink, verify
from amun_ray.base.device import uses_bfloat16
from amun_ray.base.errors import UserError
from amun_ray.base.status import Status
from amun_ray.base.tensors import l2

logger = logging.getLogger(__name__)

CALIBRATION_SHARE = 0.95  # share of the samples with an adversarial example within the first radius (paper, section 3)
CALIBRATION_DOUBLINGS = 20


class Prepared:
    """A model as `craft` and `calibrate` use it; pass it instead of the model.

    It keeps what takes time to build: the frozen copy, the folded copy, its compiled form, and how many images fit on
    the GPU. Results are the same as with the model itself.

    Args:
        model: as in `craft`. It is copied, so later changes to it have no effect.
        settings: only `compile` is read, and `batch_size` if no capacity is given.
        capacity: of the device, as found with an earlier model.
    """

    def __init__(self, model: nn.Module, settings: AttackSettings, capacity: Capacity | None = None) -> None:
        self.original = frozen(model)
        self.capacity = capacity or Capacity(settings.batch_size)
        self.compiled = settings.compile
        self._fast: Callable[[Tensor], Tensor] | None = None

    def fast(self, example: Tensor) -> Callable[[Tensor], Tensor]:
        """The copy to search on, built at the first call from one or a few images (N, C, H, W) in [0, 1]."""
        if self._fast is None:
            self._fast = folded(self.original, example)
            if self.compiled:
                mode = "reduce-overhead" if example.is_cuda else "default"
                self._fast = torch.compile(self._fast, dynamic=False, mode=mode)
        return self._fast


def prepared(model: nn.Module | Prepared, settings: AttackSettings) -> Prepared:
    """`model`, prepared unless it already is."""
    return model if isinstance(model, Prepared) else Prepared(model, settings)


def craft(model: nn.Module | Prepared, images: Tensor, labels: Tensor, *, settings: AttackSettings,
          indices: np.ndarray | None = None) -> AdversarialRows:
    """Find a close adversarial image for every sample, and verify it on `model` itself.

    The search runs on a frozen copy of `model` (batch norm folded, channels_last); `model` is not changed. Every
    returned row that is not marked failed is misclassified by `model` in eval mode, in float32. A sample that the
    model already gets wrong is its own neighbour at distance 0. Beyond float noise, a sample's result does not
    depend on the others, with one exception: if `settings.eps_init` is None and the attack has a radius, `calibrate`
    is called on the images given here.

    Args:
        model: (N, C, H, W) float32 in [0, 1] -> logits (N, classes); its tensors are float32. Pass `Prepared(model)`
            for several calls.
        images: (N, C, H, W) float32 in [0, 1], on the model's device.
        labels: (N,) int64, the true classes.
        indices: (N,) int64, the images' rows in the dataset; 0 .. N-1 if not given.

    Raises:
        UserError: an argument is wrong (found before any work starts), or logits are not finite.
    """
    ready = prepared(model, settings)
    check_batch(ready.original, images, labels)
    rows = _indices(indices, len(images))
    if settings.values.get("eps_init", 1.0) is None:
        settings = replace(settings, eps_init=calibrate(ready, images, labels, settings=settings))
    look = _looker(ready, images, settings)
    original = Looker(ready.original, look.shape, ready.capacity, contiguous=True)
    clean = flat(images)
    outcome = run(settings.attack(), look, clean, labels, slots=settings.batch_size)
    outcome = outcome._replace(best=_shrunk(look, clean, outcome, labels, settings))
    verdict = verify(original, clean, labels, outcome, kappa=settings.values.get("kappa", 0.0),
                     again=lambda *rows: run(settings.attack(), original, *rows, slots=settings.batch_size).best)
    stored = unflat(verdict.image, look.shape).contiguous()
    distance = l2(stored - images)
    eps = outcome.eps if settings.row.has_radius else distance
    status = torch.full_like(labels, Status.FAILED, dtype=torch.int8)
    status[verdict.flipped], status[verdict.already_wrong] = Status.FLIPPED, Status.ALREADY_WRONG
    cost = AttackCost(len(images), look.forward, look.backward, original.forward)
    return AdversarialRows(index=rows, cost=cost, **{name: column.cpu().numpy() for name, column in {
        "image": stored, "true_label": labels, "label": verdict.label, "l2": distance, "steps": outcome.looks,
        "eps": torch.where(verdict.already_wrong, 0.0, eps), "status": status}.items()})


def calibrate(model: nn.Module | Prepared, images: Tensor, labels: Tensor, *, settings: AttackSettings,
              samples: int = 100) -> float:
    """The first radius by the paper's rule: the one within which 95 % of a small sample have an adversarial example.

    Runs the attack from a very small radius, doubling. Call it once for a forget set and give the result to every
    `craft` as `eps_init`; the sample is the first `samples` images, so pass them in a random order.

    Args:
        model, images, labels: as in `craft`. Samples that the model already gets wrong are ignored.

    Returns:
        The radius, in pixel units of the attack's norm.

    Raises:
        UserError: the attack has no radius to calibrate, or could not flip any sample.
    """
    ready = prepared(model, settings)
    check_batch(ready.original, images, labels)
    if settings.row.smallest is None:
        raise UserError(f"attack {settings.name!r} has no radius to calibrate; leave out eps_init")
    images, labels = images[:samples], labels[:samples]
    settings = replace(settings, eps_init=settings.row.smallest, doublings=CALIBRATION_DOUBLINGS, shrink=None)
    look = _looker(ready, images, settings)
    outcome = run(settings.attack(), look, flat(images), labels, slots=settings.batch_size)
    searched = outcome.eps > 0
    flipped = outcome.flipped & searched
    radii = outcome.eps[flipped].sort().values
    if len(radii) == 0:
        raise UserError(f"eps_init: cannot be calibrated, none of {int(searched.sum())} samples could be flipped; "
                        "give eps_init")
    wanted = int(np.ceil(CALIBRATION_SHARE * int(searched.sum())))
    if wanted > len(radii):
        logger.warning("only %d of %d samples could be flipped while calibrating eps_init", len(radii),
                       int(searched.sum()))
    return radii[min(wanted, len(radii)) - 1].item()


def _indices(indices: np.ndarray | None, count: int) -> np.ndarray:
    if indices is None:
        return np.arange(count, dtype=np.int64)
    indices = np.asarray(indices)
    if indices.shape != (count,) or not np.issubdtype(indices.dtype, np.integer):
        raise UserError(f"indices: must be ({count},) integers, one per image, found {indices.shape} {indices.dtype}")
    return indices.astype(np.int64)


def _shrunk(look: Looker, clean: Tensor, outcome: Outcome, labels: Tensor, settings: AttackSettings) -> Tensor:
    times = settings.values.get("shrink", 0)
    rows = (outcome.flipped & (outcome.eps > 0)).nonzero().squeeze(1)
    best = outcome.best
    if times and len(rows):
        best[rows] = shrink(look, clean[rows], best[rows], labels[rows], times=times)
    return best


def _looker(ready: Prepared, images: Tensor, settings: AttackSettings) -> Looker:
    """The looker of the search: the folded copy, with the precision and compilation that the settings ask for."""
    precision = settings.precision if settings.row.bfloat16 or settings.precision != "auto" else "float32"
    return Looker(ready.fast(images[:1]), shape_of(images), ready.capacity, fixed=ready.compiled,
                  bfloat16=uses_bfloat16(precision, images.device, on_cpu=True))
