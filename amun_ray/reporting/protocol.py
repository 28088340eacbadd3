"""The protocol of the AMUN paper beside what a sweep does: each thing that both can say, in the same words."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from amun_ray.unlearn import find
from amun_ray.unlearn.plans import ORIGINAL, PAPER, SCRIPTS
from amun_ray.work.plan import Plan

LABELS = {PAPER: "by the model at the epoch's start", ORIGINAL: "by the original",
          SCRIPTS: "by a copy after the pass over D_R, augmented and rounded"}
L1 = {0: "falls linearly to 0 in {:g} epochs", 1: "compounded over {:g} epochs"}
WHATEVER = ("Whatever a config says, a mask also keeps weight decay and momentum from weights that it holds, the "
            "final forget sets share no image with the held-out ones, and FT AUC is over all pairs of images (its "
            "scripts: over three draws of equal size).")


class Either(NamedTuple):
    """What the paper's text says, and what its authors' scripts do otherwise."""

    text: Any
    scripts: Any


def _training(plan: Plan) -> str:
    recipe = plan.sweep.training
    falls = f" x {recipe.decay_factor:g} every {recipe.decay_every} epochs" if recipe.decay_every else ""
    falls = falls if recipe.schedule == "step" else f" {recipe.schedule}"
    momentum = f", momentum {recipe.momentum:g}" if recipe.optimizer == "sgd" else ""
    return f"{recipe.optimizer}, lr {recipe.lr:g}{falls}{momentum}, weight decay {recipe.weight_decay:g}"


def _unlearning(plan: Plan) -> str:
    shared = plan.sweep.unlearning
    momentum = f", momentum {shared.momentum:g}" if shared.optimizer == "sgd" else ""
    return f"{shared.optimizer}{momentum}, weight decay {shared.weight_decay:g}, batch {shared.batch_size}"


def _attack(plan: Plan) -> str | None:
    """Of Algorithm 1 alone; another attack differs by its name."""
    search = plan.sweep.attack.search
    values = search.values
    return None if search.name != "pgd_l2" else (
        f"{values['steps']} steps of {values['step_ratio']:g} eps, each radius from the "
        f"{'clean image' if values['start'] == 'clean' else 'last one'}, "
        f"{'read after all' if values['stop'] == 'full' else 'stopped at the first flip'}, {values['objective']}")


def _labels(plan: Plan) -> str | None:
    if "boundary_shrink" not in plan.sweep.methods:
        return None
    chosen = plan.sweep.chosen("boundary_shrink")
    return "searched" if "labelled_by" in chosen.search else LABELS[int(chosen.settings.get("labelled_by", PAPER))]


def _l1(plan: Plan) -> str | None:
    if "l1_sparse" not in plan.sweep.methods:
        return None
    chosen = plan.sweep.chosen("l1_sparse")
    return L1[int(chosen.settings.get("compounded", 0))].format(chosen.settings.get("decay_epochs", 10))


def _statistics(plan: Plan) -> str | None:
    """What batch norm does where a method sees no sample of D_R in a pass."""
    said = set()
    for method, access in plan.sweep.contenders:
        if "forget_statistics" in find(method).settings_in(access):
            chosen = plan.sweep.chosen(method)
            said.add("searched" if "forget_statistics" in chosen.search else
                     "updated" if chosen.settings.get("forget_statistics") == 1 else "kept")
    return " or ".join(sorted(said)) or None


def _mask(plan: Plan) -> str | None:
    masked = [name for name in ("salun", "amun_salun") if name in plan.sweep.methods]
    fixed = [name for name in masked if "mask_ratio" not in plan.sweep.space(
        next(one for one in plan.sweep.contenders if one.method == name))]
    return None if not masked else f"not searched for {' and '.join(fixed)}" if fixed else "searched from 0.1 to 0.9"


HERE: dict[str, Callable[[Plan], Any]] = {  # of what a protocol says, what a sweep does; None: it has no such thing
    "data": lambda plan: plan.dataset.name,
    "classes": lambda plan: plan.dataset.classes,
    "pixels a side": lambda plan: plan.dataset.size,
    "training images": lambda plan: plan.dataset.train_size,
    "augmentation": lambda plan: f"crop {plan.sweep.data.crop}, flip {'on' if plan.sweep.data.flip else 'off'}",
    "network": lambda plan: plan.sweep.model.name,
    "bound on singular values": lambda plan: plan.sweep.model.spectral_clip,
    "epochs of training": lambda plan: plan.sweep.training.epochs,
    "training": _training,
    "loss of training": lambda plan: plan.sweep.training.loss,
    "batch of training": lambda plan: plan.sweep.training.batch_size,
    "arithmetic": lambda plan: {"auto": "bfloat16 on a GPU that has it"}.get(
        plan.sweep.training.precision, plan.sweep.training.precision),
    "original models": lambda plan: plan.sweep.originals.count,
    "forget sets": lambda plan: len(plan.sets.final),
    "runs": lambda plan: plan.sweep.final.runs,
    "reference models": lambda plan: plan.sweep.references.count,
    "epochs of reference models": lambda plan: plan.sweep.references.epochs or plan.sweep.training.epochs,
    "RMIA": lambda plan: (f"Taylor order {plan.sweep.rmia.order}, margin {plan.sweep.rmia.margin:g}, temperature "
                          f"{plan.sweep.rmia.temperature:g}, gamma {plan.sweep.rmia.gamma:g}"),
    "epochs of unlearning, at most": lambda plan: plan.sweep.search.epochs,
    "unlearning": _unlearning,
    "searched learning rates": lambda plan: (f"{plan.sweep.search.lr.low:g} to {plan.sweep.search.lr.high:g}, "
                                             f"{', '.join(plan.sweep.search.schedules)}"),
    "attack": lambda plan: plan.sweep.attack.search.name,
    "Algorithm 1": _attack,
    "first radius": lambda plan: None if plan.sweep.attack.search.name != "pgd_l2" else (
        plan.sweep.attack.search.eps_init or "calibrated"),
    "share of weights that a mask moves": _mask,
    "weight of the l1 norm": _l1,
    "labels of boundary_shrink": _labels,
    "batch norm in passes without D_R": _statistics,
}


ABSENT = ("Algorithm 1", "first radius", "share of weights that a mask moves", "weight of the l1 norm",
          "labels of boundary_shrink", "batch norm in passes without D_R")  # a sweep need not have such a thing


def differences(plan: Plan, protocol: Mapping[str, Any]) -> Iterator[str]:
    """`what: here (paper: there)` for everything in which the sweep is not `protocol`."""
    for what, theirs in protocol.items():
        text, scripts = theirs if isinstance(theirs, Either) else (theirs, theirs)
        here = HERE[what](plan)
        if here == text or (here is None and what in ABSENT):
            continue
        if here == scripts:
            yield f"{what}: {here}, as in its scripts (paper: {text})"
        else:
            also = "" if scripts == text else f"; its scripts: {scripts}"
            yield f"{what}: {here} (paper: {text}{also})"
