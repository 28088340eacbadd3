"""A network that notes where it is built: on which host, in which actor, pinned to which accelerators.

Copied into the home of every host. `AMUN_SEEN` is a folder of the shared storage.
"""

import json
import os
import socket
import time
from pathlib import Path

import ray
from torch import nn

from amun_ray.models import MODELS

SEEN = Path("/mnt/amun/seen")
CRAFTERS = 4  # two hosts with two accelerators each
PATIENCE_SECONDS = 60


def network(*, channels: int, classes: int, size: int) -> nn.Module:
    """A narrow `small_cnn`. An actor waits until all of them are there: none may do all of the work."""
    context = ray.get_runtime_context() if ray.is_initialized() else None
    actor = context.get_actor_id() if context and context.worker.mode == ray.WORKER_MODE else None
    if actor is not None:
        note = {"host": socket.gethostname(), "actor": actor, "gpus": context.get_accelerator_ids()["GPU"],
                "visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "time": time.time()}
        SEEN.mkdir(exist_ok=True)
        (SEEN / f"{actor}.json").write_text(json.dumps(note))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(list(SEEN.iterdir())) < CRAFTERS and time.monotonic() < deadline:
            time.sleep(0.1)
    return MODELS["small_cnn"](channels=channels, classes=classes, size=size, width=8)
