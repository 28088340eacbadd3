"""How long a step of a training takes, measured in a worker."""

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from amun_ray.base.seeds import generator
from amun_ray.runtime.bench import SharedWorkspace, bench
from amun_ray.training.group import ALONE, Group
from amun_ray.training.loop import fit
from amun_ray.work.units import Training

STEPS, ROUNDS = 25, 3  # a round of steps to warm up comes before these
STILL = 1e-9  # a learning rate by which no model diverges


def step_seconds(workspace: SharedWorkspace, training: Training, group: Group = ALONE,
                 warm: Callable[[], None] = lambda: None) -> list[float]:
    """The seconds of a step of `training` by the processes of `group`, the mean of each of ROUNDS; `warm` is called
    before the first of these."""
    here, recipe = bench(workspace), replace(training.recipe(workspace), epochs=1 + ROUNDS, lr=STILL)
    rows = training.rows[:STEPS * recipe.batch_size]
    model = workspace.new_model(training.seed).to(here.device)
    ends = []
    for epoch in fit(model, [here.part(rows)], recipe=recipe, augmentation=workspace.sweep.data.augmentation,
                     generator=generator(training.seed, "order"), group=group):
        if epoch == 1:
            warm()
        ends.append(time.monotonic())  # of an epoch, which waits for the device
    return [(end - begin) * recipe.batch_size / len(rows) for begin, end in pairwise(ends)]
