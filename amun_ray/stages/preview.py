"""A dry run: what a sweep would do, what of it is done, and how long the rest takes on a device that was calibrated."""

from pathlib import Path

from amun_ray.data.torchvision_sets import NOT_HERE
from amun_ray.stages import estimate
from amun_ray.stages.calibrate import calibrate, calibrated
from amun_ray.stages.plan import Plan
from amun_ray.stages.progress import say


def show(plan: Plan, output: Path, *, measure: bool) -> None:
    """Print the plan, what its store holds, and an estimate; `measure`: calibrate this machine first, and keep that.

    Raises:
        UserError: a storage that cannot be asked or, to keep a calibration, written to.
    """
    say(f"{plan}\n  results     {output.absolute()}")
    store, todo = plan.store(output), None
    if measure:
        calibrate(plan, store)
    if store.exists() and not plan.dataset.name.endswith(NOT_HERE):  # what is there is known by its images
        from amun_ray.stages import reuse  # seconds of Ray

        todo = reuse.left(plan, store)
        say(reuse.describe(plan, todo, store))
    say(estimate.describe(plan, calibrated(plan, store), todo))
