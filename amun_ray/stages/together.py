"""One training on several GPUs: Ray Train starts a worker on each, and torch's DistributedDataParallel joins them.

Cost: each worker can reach the whole dataset, like any other worker, and all gradients are exchanged in every step. Ray
reserves the GPUs of a training together, on one node if it can; other work gets the rest.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import ray

from amun_ray.base.errors import Diverged, UserError
from amun_ray.storage.store import Store
from amun_ray.training.group import Group

T = TypeVar("T")
RESTARTS = 2  # of all workers of a training, if one dies


def gpus_now() -> float:
    """The GPUs of the cluster: trainings that take more would only wait, and Ray Train waits for a minute at a time."""
    return ray.cluster_resources().get("GPU", 0.0)


def run_together(store: Store, work: Callable[[Group], T], workers: int, options: dict[str, Any]) -> T:
    """Call `work` in `workers` processes at once, each with the `num_cpus` and `num_gpus` of `options`; wait for all.

    If a worker dies, Ray ends the others and starts all of them again. Returns what the first process returned.

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
    result, error = ray.get(reply.said.remote())
    if error is not None:
        raise error
    return result


def _worker(work: Callable[[Group], Any], reply: Any) -> Callable[[], None]:
    """What each worker runs. A mistake of the user is told to the driver; to Ray it would be a failure, and retried."""
    def worker() -> None:
        import ray.train.torch
        import torch

        if (device := ray.train.torch.get_device()).type == "cuda":
            torch.cuda.set_device(device)  # a worker sees all GPUs that its training has on this node
        context = ray.train.get_context()
        group = Group(context.get_world_rank(), context.get_world_size())
        try:
            result = work(group)
        except (UserError, Diverged) as error:
            ray.get(reply.fail.remote(error))
        else:
            if not group.rank:
                ray.get(reply.answer.remote(result))
    return worker


class _Said:
    """The result of the first process, and the first error of any."""

    def __init__(self) -> None:
        self._result: Any = None
        self._error: Exception | None = None

    def answer(self, result: Any) -> None:
        self._result = result

    def fail(self, error: Exception) -> None:
        self._error = self._error or error

    def said(self) -> tuple[Any, Exception | None]:
        return self._result, self._error
