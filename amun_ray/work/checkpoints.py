"""Weights trained elsewhere, from a file, a folder or an MLflow server: those of the original models, and those from
which every training starts."""

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
    """Weights in memory, so that no worker needs access to their source."""

    source: str
    digest: str  # of the file's bytes and the key in it: part of the address of everything made from them
    state: dict[str, Tensor]  # of the sweep's model, without the tensors in `fresh`
    notes: tuple[str, ...] = ()  # how the file's tensors were adapted
    fresh: tuple[str, ...] = ()  # the tensors of the head, if the file's head is for other classes

    def begin(self, model: nn.Module) -> None:
        """Copy these weights into `model`; `fresh` tensors keep their values."""
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
            optionally followed by the path of a file. `#KEY` at the end names one of several state dicts in a file; a
            folder may be written as `huggingface:FOLDER`, like the network in it.
        server: the tracking URI for MLflow addresses; None means MLFLOW_TRACKING_URI.
        model: the network that the weights must fit; it is not changed.
        head: returns the tensors of the model that may differ or be missing in the file; called if not everything fits.

    Raises:
        UserError: no server is named or answers, it has nothing at this address, or no readable weights of `model`.
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
    from amun_ray.tracking import downloaded  # imports MLflow, which takes seconds: only for such an address

    with downloaded(place, server) as path:
        return _read(place, path, key or None, model, head)


def _read(source: str, path: Path, key: str | None, model: nn.Module,
          head: Callable[[], Collection[str]] | None) -> Checkpoint:
    name = source
    if path.is_dir():
        file = checkpoint.find(path, source)
        path, name = file, f"{source}: {file.relative_to(path)}"
    fitted = _fitted(model, checkpoint.read(path, name), name, key, head)
    first, *more = [digest(file.read_bytes()) for file in checkpoint.files(path, name)]
    content = digest([first, *more]) if more else first
    return Checkpoint(name if key is None else f"{name}#{key}",
                      content if key is None else digest({"file": content, "key": key}),
                      {name: tensor for name, tensor in fitted.state.items() if name not in fitted.fresh},
                      fitted.notes, fitted.fresh)


def _fitted(model: nn.Module, states: Mapping[str, State], name: str, key: str | None,
            head: Callable[[], Collection[str]] | None) -> Fitted:
    """`fit`, with the names in the file, then with its library's names for them, then without the head: the first that
    fits; if none does, the last UserError."""
    spelled = [states]
    theirs = {place: library.renamed(getattr(model, "net", model), state) for place, state in states.items()}
    if any(theirs.values()):
        spelled.append({place: own or states[place] for place, own in theirs.items()})
    refused = UserError(name)
    for other_head in [None, head] if head else [None]:
        for each in spelled:
            try:
                return fit(model, each, name, key, other_head() if other_head else ())
            except UserError as error:
                refused = error
    raise refused
