"""METHODS: every unlearning method is one row, run by one function, `unlearn`.

The package itself is callable: `amun_ray.unlearn(...)` is `unlearned`.
"""

import copy
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from amun_ray.attacks import AdversarialRows
from amun_ray.base.errors import UserError
from amun_ray.base.names import lookup
from amun_ray.base.seeds import generator as stream
from amun_ray.data.dataset import Dataset
from amun_ray.data.splits import check_rows
from amun_ray.training.augment import Augmentation
from amun_ray.training.loop import train
from amun_ray.training.parts import Part, place
from amun_ray.training.recipe import Recipe
from amun_ray.training.spectral import Clipping
from amun_ray.unlearn import broken, lotus, plans, sfr_on, soft
from amun_ray.unlearn.certified import CERTIFIED, certified
from amun_ray.unlearn.method import EITHER, RETAIN, Certificate, Contender, Method, RunReport, Sets, Setting, Task
from amun_ray.unlearn.saliency import SALIENCY, salient

__all__ = ["BASELINES", "METHODS", "Certificate", "Contender", "Method", "RunReport", "Sets", "Setting", "Task",
           "copy_model", "find", "unlearn", "unlearned"]

AMUN = Method(access=EITHER, plan=plans.amun, needs_adversarial=True, settings=plans.JOINT_STATISTICS)
RANDOM_LABEL = Method(access=EITHER, plan=plans.random_label, settings=plans.JOINT_STATISTICS)
MASKED = SALIENCY | plans.JOINT_STATISTICS
BASELINES = ("retrain", "original")  # in every table: what unlearning aims at, and what it starts from

METHODS: dict[str, Method] = {
    "finetune": Method(access=RETAIN, plan=plans.finetune),
    "random_label": RANDOM_LABEL,
    "gradient_ascent": Method(access=EITHER, plan=plans.gradient_ascent, settings=plans.FORGET_STATISTICS),
    "boundary_shrink": Method(access=EITHER, plan=plans.boundary_shrink, settings=plans.BOUNDARY),
    "l1_sparse": Method(access=RETAIN, plan=plans.l1_sparse, settings=plans.L1),
    "salun": replace(RANDOM_LABEL, moves=salient, settings=MASKED),
    "amun": AMUN,
    "amun_without_forget": replace(AMUN, plan=plans.amun_without_forget),
    "amun_soft": replace(AMUN, plan=soft.amun_soft, settings=soft.SOFT),
    "amun_salun": replace(AMUN, moves=salient, settings=MASKED),
    "certified": Method(access=RETAIN, run=certified, settings=CERTIFIED),
    "neggrad_plus": Method(access=RETAIN, plan=plans.neggrad_plus, settings=plans.NEGGRAD),
    "weight_distortion": Method(access=RETAIN, plan=broken.weight_distortion, settings=broken.NOISE),
    "convolution_transpose": Method(access=RETAIN, plan=broken.convolution_transpose),
    "scrub": Method(access=RETAIN, plan=plans.scrub, settings=plans.SCRUB),
    "sfr_on": Method(access=RETAIN, plan=sfr_on.sfr_on, settings=sfr_on.SFR_ON),
    "lotus": Method(access=RETAIN, plan=lotus.lotus, settings=lotus.LOTUS),
}


def unlearn(method: Method | str, model: nn.Module, sets: Sets, *, recipe: Recipe, augmentation: Augmentation,
            generator: torch.Generator, settings: Mapping[str, float] | None = None,
            report: RunReport | None = None) -> Iterator[int]:
    """Unlearn `sets.forget` in `model`, in place; yields the epoch, from 1, after each epoch.

    To keep the original, use `copy_model` first. `method` is a row of METHODS, its name, or `package.module:NAME`;
    `settings` are its own hyper-parameters, with defaults for those left out. `report`, if given, holds the cost so far
    at each yield. All arguments are checked by the call itself, before the first epoch.

    Raises:
        UserError: unknown method, an access that it does not support, a missing set, or wrong settings.
        Diverged: after the epoch in which the loss or a weight stops being finite.
    """
    name = method if isinstance(method, str) else "the method"
    row = find(method) if isinstance(method, str) else method
    _check_sets(name, row, sets)
    task = Task(model=model, sets=sets, recipe=recipe, settings=row.complete(name, sets.access, settings or {}),
                augmentation=augmentation, generator=generator, report=report or RunReport())
    return _timed(_run(row, task), task.report)


def unlearned(method: Method | str, model: nn.Module, data: Dataset, forget: Collection[int],
              adversarial: AdversarialRows | None = None, *, access: str = "retain", seed: int = 0,
              settings: Mapping[str, float] | None = None, **recipe: Any) -> nn.Module:
    """A copy of `model` that has unlearned the training rows `forget` of `data`; `model` is not changed.

    Args:
        method: a row of METHODS, its name, or `package.module:NAME`.
        adversarial: the result of `amun_ray.craft` for these rows; AMUN and its variants need it.
        access: "retain" (the remaining training rows are at hand) or "forget_only".
        settings: the method's own hyper-parameters.
        recipe: fields of `training.recipe.Recipe`; `lr` and `epochs` are required. (`unlearn.unlearn` also augments.)

    Raises:
        UserError: as in `unlearn`, or a row that is not a training row.
        Diverged: the loss or a weight is no longer finite.
    """
    rows, result = check_rows(forget, data.train_size), copy_model(model)
    device = next(result.parameters()).device

    def part(wanted: np.ndarray) -> Part:
        return place(data.pixels[wanted], data.labels[wanted], augment=True, device=device)

    sets = Sets(retain=part(np.setdiff1d(data.train_rows, rows)) if access == "retain" else None, forget=part(rows),
                adversarial=None if adversarial is None else
                place(adversarial.image[adversarial.kept], adversarial.label[adversarial.kept], augment=False,
                      device=device),
                sources=None if adversarial is None else _sources(rows, adversarial).to(device))
    if access != sets.access:
        raise UserError(f"access must be 'retain' or 'forget_only', but got {access!r}")
    for _ in unlearn(method, result, sets, recipe=Recipe(**recipe), augmentation=Augmentation(),
                     generator=stream(seed, "order"), settings=settings):
        pass
    return result.eval()


def _sources(rows: np.ndarray, adversarial: AdversarialRows) -> torch.Tensor:
    """The places of the adversarial set's samples among the sorted `rows`; UserError if they are none of these."""
    wanted = adversarial.index[adversarial.kept]
    if not np.isin(wanted, rows).all():
        raise UserError("the adversarial set was not made from the rows to forget; craft it with indices=forget")
    return torch.from_numpy(np.searchsorted(rows, wanted))


def find(name: str) -> Method:
    """The row `name` of METHODS, or the Method behind `package.module:NAME`; UserError if there is none."""
    if name in BASELINES:
        raise UserError(f"{name!r} is no method to ask for: every sweep makes these models, and every table has their "
                        "row; remove this line")
    method = lookup(METHODS, name, "method")
    if not isinstance(method, Method):
        raise UserError(f"method {name!r}: an amun_ray.unlearn.Method is expected, found {type(method).__name__}")
    return method


def copy_model(model: nn.Module) -> nn.Module:
    """An independent copy of `model`, without its gradients."""
    copied = copy.deepcopy(model)
    copied.zero_grad(set_to_none=True)
    return copied


def _check_sets(name: str, method: Method, sets: Sets) -> None:
    if sets.access not in method.access:
        raise UserError(f"{name} does not exist with {sets.access!r} access, "
                        f"only with {', '.join(sorted(method.access))}")
    if len(sets.forget.labels) == 0:
        raise UserError("the forget set is empty")
    if sets.retain is not None and len(sets.retain.labels) == 0:
        raise UserError("the retain set is empty; retain=None is the setting without it")
    if method.needs_adversarial and (sets.adversarial is None or len(sets.adversarial.labels) == 0):
        raise UserError(f"{name} needs an adversarial set, but there is none or it is empty")


def _run(method: Method, task: Task) -> Iterator[int]:
    if method.plan is not None:
        mask = None if method.moves is None else method.moves(task)
        yield from train(task.model, method.plan(task), recipe=task.recipe, augmentation=task.augmentation,
                         generator=task.generator, mask=mask, cost=task.report)
    elif method.run is not None:
        for epoch in method.run(task):
            if (clipping := Clipping.of(task.model, task.sets.forget.images)) is not None:
                clipping.settle()
            yield epoch


def _timed(epochs: Iterator[int], report: RunReport) -> Iterator[int]:
    """Pass `epochs` on and time them, without the caller's time between them."""
    while True:
        start = time.perf_counter()
        epoch = next(epochs, None)
        report.seconds += time.perf_counter() - start
        if epoch is None:
            return
        yield epoch


class _Callable(ModuleType):
    """Makes this package callable: Python binds `amun_ray.unlearn` to it, and the public API has that function."""

    __call__ = staticmethod(unlearned)


sys.modules[__name__].__class__ = _Callable
