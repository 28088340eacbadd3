"""AutoAttack in a plan: whether it can run, which attacks it will run, and at most how much that is."""

import torch
from torch import nn

from amun_ray.attacks.autoattack import check_autoattack, ensemble, most_passes
from amun_ray.base.tensors import to_unit
from amun_ray.config.schema import Sweep
from amun_ray.data.dataset import Dataset

FEW = {2: "with 2 classes there is no DLR loss", 3: "with 3 classes there is no targeted DLR loss"}


def check(sweep: Sweep, dataset: Dataset, network: nn.Module) -> None:
    """UserError as in `check_autoattack`, of an untrained `network`; nothing if the config does not ask for it."""
    if (attack := sweep.audit.autoattack) is not None:
        check_autoattack(network.eval(), to_unit(torch.from_numpy(dataset.pixels[:8])), attack.norm)


def tested(sweep: Sweep, dataset: Dataset) -> int:
    """How many images each model is attacked at, at most."""
    return min(sweep.audit.autoattack.samples, len(dataset) - dataset.train_size) if sweep.audit.autoattack else 0


def passes(sweep: Sweep, dataset: Dataset) -> int:
    """Forward passes for each model, at most."""
    return tested(sweep, dataset) * most_passes(dataset.classes)


def lines(sweep: Sweep, dataset: Dataset) -> list[str]:
    """The line of the plan, if any."""
    if (attack := sweep.audit.autoattack) is None:
        return []
    why = f" ({FEW[dataset.classes]})" if dataset.classes in FEW else ""
    return [f"  AutoAttack  {tested(sweep, dataset)} test images, {attack.norm} {attack.eps:.4g}: "
            f"{', '.join(ensemble(dataset.classes))}{why}"]
