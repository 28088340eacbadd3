"""A dry run: what a sweep would do, what is already done, and how long the rest takes on a calibrated device."""

from pathlib import Path

from amun_ray.base.log import say
from amun_ray.data.torchvision_sets import NOT_HERE
from amun_ray.work import accuracies, estimate, reuse
from amun_ray.work.calibrate import calibrate, calibrated
from amun_ray.work.plan import Plan


def show(plan: Plan, output: Path, *, measure: bool) -> None:
    """Print the plan, the accuracy of loaded originals, what its store holds, and an estimate.

    `measure`: calibrate this machine first and store the result.

    Raises:
        UserError: a storage that cannot be read or, to keep a calibration, written.
    """
    say(f"{plan}\n  results     {output.absolute()}")
    here = not plan.dataset.name.endswith(NOT_HERE)
    for line in accuracies.sampled(plan) if here else ():
        say(line)
    store, todo = plan.store(output), None
    if measure:
        calibrate(plan, store)
    if store.exists() and here:  # finished work is found by the digest of its images
        todo = reuse.left(plan, store)
        say(reuse.describe(plan, todo, store))
    say(estimate.describe(plan, calibrated(plan, store), todo))
