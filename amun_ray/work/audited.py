"""What a plan says of the attacks of the report that run models again; and whether AutoAttack can."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from amun_ray.attacks.autoattack import check_autoattack, ensemble, most_passes
from amun_ray.base.tensors import to_unit
from amun_ray.config.audit import PROBES
from amun_ray.config.schema import Sweep
from amun_ray.data.dataset import Dataset

if TYPE_CHECKING:
    from amun_ray.work.plan import Plan

FEW = {2: "with 2 classes there is no DLR loss", 3: "with 3 classes there is no targeted DLR loss"}


def check(sweep: Sweep, dataset: Dataset, network: nn.Module) -> None:
    """UserError as in `check_autoattack`, of an untrained `network`; nothing if the config does not ask for it."""
    if (attack := sweep.audit.autoattack) is not None:
        check_autoattack(network.eval(), to_unit(torch.from_numpy(dataset.pixels[:8])), attack.norm)


def tested(sweep: Sweep, dataset: Dataset) -> int:
    """How many images AutoAttack sees of each model, at most."""
    return min(sweep.audit.autoattack.samples, len(dataset) - dataset.train_size) if sweep.audit.autoattack else 0


def passes(sweep: Sweep, dataset: Dataset) -> int:
    """Its forward passes for each model, at most."""
    return tested(sweep, dataset) * most_passes(dataset.classes)


def lines(plan: "Plan", each: str) -> list[str]:
    """The lines of a plan on the attacks that run models again, and on those that cannot; `each`: a worker's share."""
    sweep, contenders = plan.sweep, len(plan.sweep.contenders)
    probes = [row for row in PROBES if row in plan.audited]
    return [
        *([f"  probes      {plan.probed * len(probes)} readings of {plan.probed} finished models "
           f"({', '.join(probes)}); {each}"] if probes else []),
        *_autoattack(sweep, plan.dataset),
        *([f"  U-LiRA      {sweep.references.count} adversarial sets and {contenders * sweep.references.count} "
           f"unlearned reference models ({sweep.audit.ulira} targets); {each}"] if "ulira" in plan.audited else []),
        *(f"  audit       {name} is left out: it {reason}" for name, reason in plan.not_audited.items()
          if name in sweep.audit.model_fields_set)]


def _autoattack(sweep: Sweep, dataset: Dataset) -> list[str]:
    if (attack := sweep.audit.autoattack) is None:
        return []
    why = f" ({FEW[dataset.classes]})" if dataset.classes in FEW else ""
    return [f"  AutoAttack  {tested(sweep, dataset)} test images, {attack.norm} {attack.eps:.4g}: "
            f"{', '.join(ensemble(dataset.classes))}{why}"]
