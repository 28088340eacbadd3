"""One training on several GPUs: Ray Train starts a worker on each, and torch's DistributedDataParallel joins them.

Cost: each worker can reach the whole dataset, like any other worker, and all gradients are exchanged in every step. Ray
reserves the GPUs of a training together, on one node if it can; other work gets the rest.
"""

from collections.abc import Callable
from typing import Any

import ray

from amun_ray.base.errors import Diverged, UserError
from amun_ray.storage.store import Store
from amun_ray.training.group import Group

RESTARTS = 2  # of all workers of a training, if one dies


def limit(workers: int) -> int:
    """How many trainings with `workers` each fit in the cluster now: more would only wait."""
    return max(1, int(ray.cluster_resources().get("GPU", 0)) // workers)


def run_together(store: Store, work: Callable[[Group], None], workers: int, options: dict[str, Any]) -> None:
    """Call `work` in `workers` processes at once, each with the `num_cpus` and `num_gpus` of `options`; wait for all.

    If a worker dies, Ray ends the others and starts all of them again.

    Raises:
        UserError, Diverged: raised by one of the workers.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig  # takes seconds: only for such a training
    from ray.train.torch import TorchTrainer

    reply: Any = ray.remote(_Said).options(num_cpus=0).remote()
    with store.scratch() as folder:
        TorchTrainer(
            _worker(work, reply), run_config=RunConfig(storage_path=folder, failure_config=FailureConfig(RESTARTS)),
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=bool(options["num_gpus"]), resources_per_worker={
                "CPU": options["num_cpus"]} | ({"GPU": options["num_gpus"]} if options["num_gpus"] else {}))).fit()
    if (error := ray.get(reply.error.remote())) is not None:
        raise error


def _worker(work: Callable[[Group], None], reply: Any) -> Callable[[], None]:
    """What each worker runs. A mistake of the user is told to the driver; to Ray it would be a failure, and retried."""
    def worker() -> None:
        import ray.train.torch
        import torch

        if (device := ray.train.torch.get_device()).type == "cuda":
            torch.cuda.set_device(device)  # a worker sees all GPUs that its training has on this node
        context = ray.train.get_context()
        try:
            work(Group(context.get_world_rank(), context.get_world_size()))
        except (UserError, Diverged) as error:
            ray.get(reply.tell.remote(error))
    return worker


class _Said:
    """The first error of any worker."""

    def __init__(self) -> None:
        self._error: Exception | None = None

    def tell(self, error: Exception) -> None:
        self._error = self._error or error

    def error(self) -> Exception | None:
        return self._error
