"""Weights that were trained elsewhere, from a file, a folder or an MLflow server: those of models that must forget, and
those with which every training begins."""

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from amun_ray.base.errors import UserError
from amun_ray.base.files import expanded
from amun_ray.config.fields import FOLDER, is_mlflow
from amun_ray.models import checkpoint, library
from amun_ray.models.foreign import Fitted, State, fit
from amun_ray.storage.store import digest


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights in memory, so that no worker needs the place that they came from."""

    source: str
    digest: str  # of the bytes of their file, and of the key there: the address of all that is made from them
    state: dict[str, Tensor]  # of the sweep's model, all but what is fresh
    notes: tuple[str, ...] = ()  # what was done to make it that
    fresh: tuple[str, ...] = ()  # the names of the head where that of the file is for other classes

    def begin(self, model: nn.Module) -> None:
        """Put these weights into `model`; what is fresh stays as it is there."""
        model.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if name in self.fresh}
                              | self.state)

    def __str__(self) -> str:
        drawn = (f"{', '.join(self.fresh)}: drawn anew from each training's seed",) if self.fresh else ()
        return "; ".join([f"{self.source}: {len(self.state)} tensors loaded", *self.notes, *drawn])


def read_checkpoint(source: str, server: str | None, model: nn.Module,
                    head: Callable[[], Collection[str]] | None = None) -> Checkpoint:
    """The weights behind `source`: a file, a folder with one file of weights, or an MLflow address of either.

    Args:
        source: a path, or `runs:/RUN_ID/model`, `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `mlflow-artifacts:/...`,
            also with the path of a file behind it. `#KEY` at its end names one of several state dicts of a file; a
            folder may be called `huggingface:FOLDER`, as the network in it is.
        server: the tracking URI for MLflow addresses; None is MLFLOW_TRACKING_URI.
        model: whose weights they must be; it stays as it is.
        head: says which tensors of the model may be others, or none, in the file; asked where not everything fits.

    Raises:
        UserError: no server is named or answers, it has nothing there, or there are no weights of `model` that can be
            read.
    """
    source = source.removeprefix(FOLDER)
    place, mark, key = source.rpartition("#")
    if not mark or (not is_mlflow(source) and Path(expanded(source)).exists()):
        place, key = source, ""
    if not is_mlflow(place):
        return _read(place, Path(expanded(place)), key or None, model, head)
    server = server or os.environ.get("MLFLOW_TRACKING_URI")
    if not server:
        raise UserError(f"{source}: no MLflow server is named; set tracking.uri, or MLFLOW_TRACKING_URI in the "
                        "environment")
    from amun_ray.tracking import downloaded  # seconds of MLflow that a sweep without such an address spares

    with downloaded(place, server) as path:
        return _read(place, path, key or None, model, head)


def _read(source: str, path: Path, key: str | None, model: nn.Module,
          head: Callable[[], Collection[str]] | None) -> Checkpoint:
    name = source
    if path.is_dir():
        file = checkpoint.find(path, source)
        path, name = file, f"{source}: {file.relative_to(path)}"
    fitted = _fitted(model, checkpoint.read(path, name), name, key, head)
    content = digest(path.read_bytes())
    return Checkpoint(name if key is None else f"{name}#{key}",
                      content if key is None else digest({"file": content, "key": key}),
                      {name: tensor for name, tensor in fitted.state.items() if name not in fitted.fresh},
                      fitted.notes, fitted.fresh)


def _fitted(model: nn.Module, states: Mapping[str, State], name: str, key: str | None,
            head: Callable[[], Collection[str]] | None) -> Fitted:
    """`fit`, with the names in the file, with those that its library has for them, and without the head: whichever is
    the first to fit; UserError of the last."""
    spelled = [states]
    theirs = {place: library.renamed(getattr(model, "net", model), state) for place, state in states.items()}
    if any(theirs.values()):
        spelled.append({place: found or states[place] for place, found in theirs.items()})
    refused = UserError(name)
    for other_head in [None, head] if head else [None]:
        for each in spelled:
            try:
                return fit(model, each, name, key, other_head() if other_head else ())
            except UserError as error:
                refused = error
    raise refused
