"""Which Ray a sweep runs on, and what each worker holds: the only reader of cluster resources."""

import os
import signal
import socket
import sys
import sysconfig
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_ray_address_file
from ray.exceptions import RayError
from ray.job_config import JobConfig

from amun_ray.base.errors import UserError, first_line
from amun_ray.config.sections import Resources
from amun_ray.runtime.nodes import await_nodes, live_nodes
from amun_ray.runtime.own_machine import keep_token_private, on_loopback, recorded_address
from amun_ray.runtime.warm import begin

STARTS = 2  # attempts to start a local Ray
NICENESS = "RAY_worker_niceness"  # Ray's default is 15: any other work on the machine nearly stops the workers
# How long a worker without work stays where there are more of them than CPUs. Ray's second ends, while actors work,
# what the next stage needs, and each new worker imports torch again: the default sweep takes 77 s in the place of 93.
IDLE_MS = "RAY_idle_worker_killing_time_threshold_ms", "60000"
NO_PRESTART = "RAY_prestart_worker_first_driver", "0"  # of workers outside the runtime environment: none gets work
OOM_RETRIES = "RAY_task_oom_retries", "3"  # of a task that Ray ended for want of memory; Ray's default is no limit
AUTOSCALER = b"/ray/autoscaler/"  # in its command line
SPARE = 1.25  # memory for a worker that shares a GPU, as a multiple of what a measured one allocated
CONTEXT_BYTES = 600 * 2**20  # GPU memory that a process takes before it allocates anything


@dataclass(frozen=True)
class Cluster:
    """The Ray that this process is connected to: `(cpus, gpus)` of every live node, and how Ray was found."""

    nodes: tuple[tuple[float, float], ...]
    origin: str
    joined: bool = False  # other sweeps may be on it

    def __str__(self) -> str:
        cpus, gpus = (sum(column) for column in zip(*self.nodes, strict=True))
        return f"{self.origin}: {len(self.nodes)} node(s), {cpus:g} CPUs, {gpus:g} GPUs"


def connect() -> Cluster:
    """Use the Ray that this program is connected to; else join the cluster that `RAY_ADDRESS` names or that `ray start`
    runs here; if there is none, start Ray here. `ray start` records its cluster in a folder that Ray itself chooses:
    RAY_TMPDIR, else TMPDIR, else /tmp.

    Ray's own `address="auto"` would also join the private Ray of any other program on this machine, and die with it.

    Raises:
        UserError: the cluster that `RAY_ADDRESS` names does not answer. A sweep meant for a cluster never falls back
            to one machine.
    """
    if ray.is_initialized():
        return Cluster(room_of_nodes(), "Ray: that of this program, which stays as it is")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # a worker without a GPU sees none
    os.environ.setdefault(*OOM_RETRIES)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "job_config": job_config()}
    started, recorded = recorded_address()
    named = os.environ.get("RAY_ADDRESS") or "local"
    address = named if named != "local" else recorded
    if named == "local" and (address is None or not _listens(address)):  # a killed head leaves its file behind
        start_here(**quiet)
        return Cluster(room_of_nodes(), f"Ray: started on this machine, workers at nice {os.environ[NICENESS]}")
    source = "RAY_ADDRESS" if named != "local" else str(started)
    if address is None or not _listens(address):
        raise UserError(f"{source}: no cluster answers at {address}; is it up, and does the firewall let this host in?")
    try:
        ray.init(**quiet)
    except (ConnectionError, RayError) as error:
        raise UserError(f"{source}: no cluster lets this program in at {address}: {_reason(error)}") from error
    await_nodes(int(os.environ.get("AMUN_NODES", "1")))  # set by the cluster file
    return Cluster(room_of_nodes(), f"Ray: joined the cluster at {address}", joined=True)


def start_here(**options: Any) -> None:
    """Start Ray on this machine, on the loopback address, with a retry: a busy machine may exceed Ray's own time limit.

    Raises:
        UserError: Ray did not start at any attempt.
    """
    os.environ.setdefault("RAY_agent_register_timeout_ms", "30000")  # Ray's default: half of it, also too short
    os.environ.setdefault(NICENESS, "0")
    os.environ.setdefault(*IDLE_MS)
    keep_token_private()
    if "runtime_env" not in options and (warm := begin()) is not None:
        options["runtime_env"] = {"py_executable": warm.python}
        os.environ.setdefault(*NO_PRESTART)
    for attempt in range(1, STARTS + 1):
        try:
            with on_loopback():
                ray.init(address="local", include_dashboard=False, **options)
            return
        except Exception as error:  # Ray raises any kind: a bare Exception for a slow raylet
            ray.shutdown()
            if attempt == STARTS:
                raise UserError(f"Ray does not start on this machine: {first_line(error)}. Is it overloaded, or "
                                "out of memory or disk? Ray's logs are in "
                                f"{os.path.dirname(get_ray_address_file(None))}") from error


def end() -> None:
    """Leave Ray, which ends if this program started it. Its autoscaler, which has no nodes to ask for here, is ended
    first: Ray ends the rest before it, and then waits for it in vain, a second."""
    for children in Path("/proc/self/task").glob("*/children"):  # on Linux; elsewhere Ray waits
        with suppress(OSError):
            for child in children.read_text().split():
                if AUTOSCALER in Path("/proc", child, "cmdline").read_bytes():
                    os.kill(int(child), signal.SIGKILL)
    ray.shutdown()


class _Fixed(list[str]):
    """Folders to which Ray cannot add: it would put the working directory first, in workers only."""

    def extend(self, _: Any) -> None:
        pass


def job_config() -> JobConfig:
    """Make workers look for modules where this program does, so that a name is the same module everywhere."""
    return JobConfig(_py_driver_sys_path=_Fixed(reversed(own_path())))  # Ray prepends them one by one


def own_path() -> list[str]:
    """The folders that this program searches before the standard library, from PYTHONPATH or its caller."""
    rays = os.path.dirname(ray.__file__)  # Ray adds some of its own in each process
    library = os.path.splitext(sysconfig.get_path("stdlib"))[0]  # .../python3, also a prefix of .../python311.zip
    ahead = takewhile(lambda folder: not folder.startswith(library),
                      (folder for folder in sys.path if not folder.startswith(rays)))
    return [os.path.abspath(folder) for folder in ahead]


def _reason(error: Exception) -> str:
    """A hint about tokens: for a wrong token Ray gives the same message as for a missing cluster."""
    if os.environ.get("RAY_AUTH_MODE") != "token":
        hint = "it may ask for a token: set RAY_AUTH_MODE=token, with the cluster's token in ~/.ray/auth_token"
    else:
        hint = "it may have another token than ~/.ray/auth_token or RAY_AUTH_TOKEN here"
    return f"{first_line(error)}; {hint}"


def _listens(address: str) -> bool:
    """Whether something accepts connections at `host:port`; Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return True
    except (OSError, ValueError):
        return False


def room_of_nodes() -> tuple[tuple[float, float], ...]:
    """(CPUs, GPUs) of each node that is alive now."""
    return tuple((node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
                 for node in live_nodes())


def worker_options(resources: Resources, cluster: Cluster) -> dict[str, float]:
    """`num_cpus` and `num_gpus` of one worker: pinned to its share of a GPU if the cluster has any.

    Raises:
        UserError: no node can hold one such worker, or the config asks for a GPU and there is none; the message lists
            the nodes.
    """
    has_gpu = any(gpus for _, gpus in cluster.nodes)
    options = {"num_cpus": resources.cpus,
               "num_gpus": resources.whole_gpus if has_gpu or resources.needs_gpu else 0.0}
    if not slots(options, cluster):
        listed = "; ".join(f"{cpus:g} CPUs, {gpus:g} GPUs" for cpus, gpus in cluster.nodes)
        hint = "; without resources.gpus, workers compute on CPUs" if resources.needs_gpu and not has_gpu else ""
        raise UserError(f"resources: one worker asks for {options['num_cpus']:g} CPUs and {options['num_gpus']:g} "
                        f"GPUs, and no node has that. The nodes: {listed}{hint}")
    if options["num_gpus"] and (there := int(sum(gpus for _, gpus in cluster.nodes))) < resources.together:
        raise UserError(f"resources.gpus: {resources.together} GPUs train one model together, and the cluster has "
                        f"{there}")
    return options


def slots(options: dict[str, float], cluster: Cluster) -> int:
    """How many workers with `options` fit in the cluster at once; a worker spans neither nodes nor GPUs."""
    cpus, gpus = options["num_cpus"], options["num_gpus"]

    def on_node(node_cpus: float, node_gpus: float) -> int:
        by_cpu = int(node_cpus / cpus + 1e-9)
        if not gpus:
            return by_cpu
        by_gpu = int(node_gpus) * int(1 / gpus + 1e-9) if gpus <= 1 else int(node_gpus / gpus + 1e-9)
        return min(by_cpu, by_gpu)
    return sum(on_node(*node) for node in cluster.nodes)


def fit_on_gpu(peak: int, total: int) -> int:
    """How many workers that allocate up to `peak` bytes fit on a GPU with `total`, each with its own context and spare
    memory for a method that needs more; at least 1."""
    return max(1, int(total / (CONTEXT_BYTES + SPARE * peak)))


def gpu_share(workers: int) -> float:
    """The share of a GPU that each of so many workers has; all together never more than one."""
    return int(1e4 / workers) / 1e4  # Ray counts in steps of 1e-4


def check_concurrent(wanted: int | None, workers: int) -> None:
    """Raise UserError if a config asks for more concurrent trials than fit in the cluster: the rest would just wait."""
    if wanted is not None and wanted > workers:
        raise UserError(f"search.concurrent: {wanted} trials at once are asked for, but the cluster holds {workers} "
                        "workers; lower it, leave it out, or give a worker less (resources.cpus, resources.gpus)")
