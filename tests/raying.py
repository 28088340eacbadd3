"""A Ray of two CPUs for the tests of a folder, whose workers find the modules beside this file and of `stages`."""

import os
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
os.environ.setdefault("RAY_worker_niceness", "0")  # by default a busy machine starves them, at 15
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(HERE), str(HERE / "stages"), str(HERE.parent), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="package")
def local_ray():
    """One Ray for all folders that ask for it: the first of them starts it, and ends it with the session."""
    import ray
    mine = not ray.is_initialized()
    if mine:
        from amun_ray.runtime.cluster import start_here
        start_here(num_cpus=2, log_to_driver=False, logging_level="error")
    yield ray
    if mine:
        ray.shutdown()
