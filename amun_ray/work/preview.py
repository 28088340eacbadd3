"""A dry run: what a sweep would do, what of it is done, and how long the rest takes on a device that was calibrated."""

from pathlib import Path

from amun_ray.base.log import say
from amun_ray.data.torchvision_sets import NOT_HERE
from amun_ray.work import accuracies, estimate, reuse
from amun_ray.work.calibrate import calibrate, calibrated
from amun_ray.work.plan import Plan


def show(plan: Plan, output: Path, *, measure: bool) -> None:
    """Print the plan, what loaded originals know, what its store holds, and an estimate.

    `measure`: calibrate this machine first, and keep that.

    Raises:
        UserError: a storage that cannot be asked or, to keep a calibration, written to.
    """
    say(f"{plan}\n  results     {output.absolute()}")
    here = not plan.dataset.name.endswith(NOT_HERE)
    for line in accuracies.sampled(plan) if here else ():
        say(line)
    store, todo = plan.store(output), None
    if measure:
        calibrate(plan, store)
    if store.exists() and here:  # what is there is known by its images
        todo = reuse.left(plan, store)
        say(reuse.describe(plan, todo, store))
    say(estimate.describe(plan, calibrated(plan, store), todo))
