"""Models that must forget and were trained elsewhere: their weights, from a file, a folder or an MLflow server."""

import os
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from amun_ray.base.errors import UserError
from amun_ray.config.fields import is_mlflow
from amun_ray.models import checkpoint
from amun_ray.models.foreign import fit
from amun_ray.storage.store import digest


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights in memory, so that no worker needs the place that they came from."""

    source: str
    digest: str  # of the bytes of their file, and of the key there: the address of all that is made from them
    state: dict[str, Tensor]  # of the sweep's model, the whole
    notes: tuple[str, ...] = ()  # what was done to make it that


def read_checkpoint(source: str, server: str | None, model: nn.Module) -> Checkpoint:
    """The weights behind `source`: a file, a folder with one file of weights, or an MLflow address of either.

    Args:
        source: a path, or `runs:/RUN_ID/model`, `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `mlflow-artifacts:/...`,
            also with the path of a file behind it. `#KEY` at its end names one of several state dicts of a file.
        server: the tracking URI for MLflow addresses; None is MLFLOW_TRACKING_URI.
        model: whose weights they must be; it stays as it is.

    Raises:
        UserError: no server is named or answers, it has nothing there, or there are no weights of `model` that can be
            read.
    """
    place, mark, key = source.rpartition("#")
    if not mark or (not is_mlflow(source) and Path(source).exists()):
        place, key = source, ""
    if not is_mlflow(place):
        return _read(place, Path(place), key or None, model)
    server = server or os.environ.get("MLFLOW_TRACKING_URI")
    if not server:
        raise UserError(f"{source}: no MLflow server is named; set tracking.uri, or MLFLOW_TRACKING_URI in the "
                        "environment")
    from amun_ray.tracking import downloaded  # seconds of MLflow that a sweep without such an address spares

    with downloaded(place, server) as path:
        return _read(place, path, key or None, model)


def _read(source: str, path: Path, key: str | None, model: nn.Module) -> Checkpoint:
    name = source
    if path.is_dir():
        file = checkpoint.find(path, source)
        path, name = file, f"{source}: {file.relative_to(path)}"
    fitted = fit(model, checkpoint.read(path, name), name, key)
    content = digest(path.read_bytes())
    return Checkpoint(name if key is None else f"{name}#{key}",
                      content if key is None else digest({"file": content, "key": key}), fitted.state, fitted.notes)
