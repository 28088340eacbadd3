"""The targets of U-LiRA: which rows they are, and which of them, and what else, a reference model unlearns."""

import numpy as np
import torch

from amun_ray.base.seeds import generator
from amun_ray.work.units import Workspace


def targets(workspace: Workspace) -> np.ndarray:
    """`audit.ulira` random training rows, in ascending order; they do not depend on anything else."""
    order = torch.randperm(workspace.train_size, generator=generator(workspace.sweep.seed, "U-LiRA")).numpy()
    return np.sort(order[:workspace.sweep.audit.ulira])


def forgotten_targets(workspace: Workspace, seen: np.ndarray, number: int, count: int) -> np.ndarray:
    """What the reference model `number`, trained on `seen` (N,) bool, unlearns: the targets among it, and random other
    training rows among it until these are `count`. In ascending order."""
    chosen = targets(workspace)
    mine, others = chosen[seen[chosen]], np.setdiff1d(np.flatnonzero(seen[:workspace.train_size]), chosen)
    order = torch.randperm(len(others), generator=generator(workspace.sweep.seed, "U-LiRA", number)).numpy()
    return np.sort(np.concatenate([mine, others[order[:max(count - len(mine), 0)]]]))
