"""What the store holds for a model and for an adversarial set: weights, predictions, columns."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import safetensors.numpy
from safetensors import SafetensorError
from torch import Tensor, nn

from amun_ray.base.errors import UserError
from amun_ray.base.status import Status
from amun_ray.data import shards
from amun_ray.models import checkpoint
from amun_ray.storage.store import Store, Unit
from amun_ray.work.units import LOGITS, WEIGHTS, AdversarialSet, Trained, Workspace, shard_name

AGAIN = "delete its folder, and the same command makes it again"


def cpu_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights and buffers of `model`, on the CPU."""
    return {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}


def store_weights(store: Store, unit: Unit, state: dict[str, Tensor], name: str = WEIGHTS) -> str:
    """Write a state dict; returns its digest."""
    weights = checkpoint.digest(state)
    store.write(unit, name, checkpoint.save(state, {checkpoint.DIGEST: weights}))
    return weights


def numpy_state(store: Store, unit: Unit, name: str) -> dict[str, np.ndarray]:
    """The weights of a finished model as arrays, which the object store shares without a copy."""
    data = store.read(unit, name).to_pybytes()
    try:
        return safetensors.numpy.load(data)
    except SafetensorError as error:  # possible for units without checksums
        raise UserError(f"{store.path(unit, name)}: cannot be read as weights ({error}); {AGAIN}") from error


def store_array(store: Store, unit: Unit, name: str, array: np.ndarray) -> None:
    """Write an array of numbers as a file `name` of a unit."""
    buffer = pa.BufferOutputStream()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    store.write(unit, name, buffer.getvalue().to_pybytes())


def read_array(store: Store, unit: Unit, name: str) -> np.ndarray:
    """What `store_array` wrote."""
    return np.lib.format.read_array(pa.BufferReader(store.read(unit, name)), allow_pickle=False)


def store_logits(store: Store, unit: Unit, logits: np.ndarray) -> None:
    """Write logits (N, classes) float32."""
    store_array(store, unit, LOGITS, logits)


def read_logits(workspace: Workspace, unit: Unit, name: str) -> np.ndarray:
    """The logits (N, classes) float32 of a finished model, `name` in messages.

    Raises:
        UserError: the file cannot be read, does not fit this sweep's samples and classes, or is not finite.
    """
    store, wanted = workspace.store, (workspace.size, workspace.classes)
    place, data = f"{name}: {store.path(unit, LOGITS)}", store.read(unit, LOGITS)
    try:
        logits = np.lib.format.read_array(pa.BufferReader(data), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{place}: cannot be read as predictions ({error}); {AGAIN}") from error
    if logits.shape != wanted:
        raise UserError(f"{place}: predictions of shape {logits.shape}, this sweep has {wanted[0]} samples and "
                        f"{wanted[1]} classes; {AGAIN}")
    if broken := int((~np.isfinite(logits).all(axis=1)).sum()):
        raise UserError(f"{place}: the predictions of {broken} of {len(logits)} samples are not finite; {AGAIN}")
    return logits


def stream_logits(workspace: Workspace, models: Sequence[Trained]) -> Iterator[np.ndarray]:
    """The logits of `models`, one array in memory at a time."""
    for model in models:
        yield read_logits(workspace, model.unit, model.name)


def numbers(store: Store, adversaries: AdversarialSet) -> dict[str, np.ndarray]:
    """`status`, `eps` and `l2` of every row of a set, each (N,)."""
    return columns(partial(store.read, adversaries.unit), adversaries.shards, ("status", "eps", "l2"))


def read_adversaries(store: Store, adversaries: AdversarialSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The adversarial images (M, C, H, W) float32 in [0, 1], their labels (M,) int64, and which of the attacked
    samples they were made from (M,) int64, from 0; failed rows are left out."""
    rows = columns(partial(store.read, adversaries.unit), adversaries.shards, ("status", "image", "label"))
    kept = rows["status"] != Status.FAILED
    return rows["image"][kept], rows["label"][kept], np.flatnonzero(kept)


def columns(read: Callable[[str], pa.Buffer], count: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of a whole set, shard by shard; `read` returns the bytes of a shard by its name."""
    parts = []
    for number in range(count):
        rows, _ = shards.decode(read(shard_name(number)))
        parts.append({key: rows[key] for key in keys})
    return {key: np.concatenate([rows[key] for rows in parts]) for key in keys}
