"""Models that must forget and were trained elsewhere: their weights, from a file, a folder or an MLflow server."""

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from amun_ray.base.errors import UserError
from amun_ray.config.fields import is_mlflow
from amun_ray.models import checkpoint
from amun_ray.storage.store import digest


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights in memory, so that no worker needs the place that they came from."""

    source: str
    digest: str  # of the bytes of their file: the address of all that is made from them
    state: dict[str, Tensor]


def read_checkpoint(source: str, server: str | None) -> Checkpoint:
    """The weights behind `source`: a file, a folder with one file of weights, or an MLflow address of either.

    Args:
        source: a path, or `runs:/RUN_ID/model`, `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `mlflow-artifacts:/...`,
            also with the path of a file behind it.
        server: the tracking URI for MLflow addresses; None is MLFLOW_TRACKING_URI.

    Raises:
        UserError: no server is named or answers, it has nothing there, or there are no weights that can be read.
    """
    if not is_mlflow(source):
        return _read(source, Path(source))
    server = server or os.environ.get("MLFLOW_TRACKING_URI")
    if not server:
        raise UserError(f"{source}: no MLflow server is named; set tracking.uri, or MLFLOW_TRACKING_URI in the "
                        "environment")
    from amun_ray.tracking import downloaded  # seconds of MLflow that a sweep without such an address spares

    with downloaded(source, server) as path:
        return _read(source, path)


def _read(source: str, path: Path) -> Checkpoint:
    name = source
    if path.is_dir():
        file = checkpoint.find(path, source)
        path, name = file, f"{source}: {file.relative_to(path)}"
    state = checkpoint.read(path, name)
    return Checkpoint(name, digest(path.read_bytes()), state)
