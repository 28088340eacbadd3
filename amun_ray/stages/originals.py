"""Stage 1: every model that is trained from scratch - originals, retrained ones, RMIA references - or loaded.

Cost: `originals x (1 + forget sets) + references` trainings, each independent of the others, so time falls with the
number of workers until there is one training per worker. Storage: one weights file per original and retrained model;
for every model, and for a reference model alone, its logits on all samples: `N x classes` float32.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray
from torch import Tensor, nn

from amun_ray.errors import Diverged, UserError
from amun_ray.models import checkpoint
from amun_ray.seeds import derive, generator
from amun_ray.stages.progress import bar
from amun_ray.stages.queue import run_tasks
from amun_ray.stages.workspace import Workspace, bench
from amun_ray.store import Store, Unit, digest
from amun_ray.training.loop import fit

WEIGHTS, LOGITS = "weights.safetensors", "logits.npy"


@dataclass(frozen=True, eq=False)
class Training:
    """One model to train from scratch on `rows`, or to load from `checkpoint`; of references only logits are kept."""

    name: str
    rows: np.ndarray
    seed: int
    keep_weights: bool = True
    checkpoint: str | None = None

    def unit(self, workspace: Workspace) -> Unit:
        if self.checkpoint is not None:
            with open(self.checkpoint, "rb") as file:
                source = digest(file.read())
            return Unit("imported", {"file": source, "dataset": workspace.data_digest,
                                     "model": workspace.sweep.model.model_dump()})
        return Unit("models", workspace.model_inputs | {"rows": rows_digest(self.rows), "seed": self.seed,
                                                        "weights": self.keep_weights})


@dataclass(frozen=True)
class Trained:
    """A finished model: where it is, the digest of its weights (None where only logits were kept), what it cost."""

    name: str
    unit: Unit
    weights: str | None
    seconds: float


def rows_digest(rows: np.ndarray) -> str:
    """The digest of a set of rows; their order does not matter."""
    return digest(np.sort(rows).astype("<i8").tobytes())


def original_trainings(workspace: Workspace) -> list[Training]:
    """The models that must forget, trained on D."""
    originals, rows = workspace.sweep.originals, np.arange(workspace.train_size, dtype=np.int64)
    return [Training(f"original {k}", rows, derive(workspace.sweep.seed, "original", k),
                     checkpoint=os.path.abspath(originals.checkpoints[k]) if originals.checkpoints else None)
            for k in range(originals.count)]


def retrained_trainings(workspace: Workspace, name: str, forget: np.ndarray, count: int) -> list[Training]:
    """`count` models that never saw the rows `forget`: the target of unlearning them."""
    rows = np.setdiff1d(np.arange(workspace.train_size, dtype=np.int64), forget)
    return [Training(f"retrained without {name}, {k}", rows, derive(workspace.sweep.seed, "retrained", k))
            for k in range(count)]


def reference_trainings(workspace: Workspace, halves: np.ndarray) -> list[Training]:
    """One model per row of `halves` (models, N), on the samples marked there: the RMIA reference bank."""
    return [Training(f"reference {k}", np.flatnonzero(half), derive(workspace.sweep.seed, "reference", k),
                     keep_weights=False) for k, half in enumerate(halves)]


def train_models(workspace: Workspace, trainings: Sequence[Training], options: dict, limit: int) -> list[Trained]:
    """Train what the store does not hold yet, as Ray tasks; the result is in the order of `trainings`.

    Raises:
        UserError: a checkpoint that does not fit the model; a training that left the finite numbers, by its name.
    """
    units = [training.unit(workspace) for training in trainings]
    pending = {unit.digest: (training, unit) for training, unit in zip(trainings, units, strict=True)
               if not workspace.store.has(unit)}
    shared = ray.put(workspace)
    task = _train.options(max_retries=3, **options)
    with bar("training", len(pending), "models") as progress:
        for _ in run_tasks(lambda job: task.remote(shared, *job), pending.values(), limit=limit):
            progress.update()
    return [_trained(workspace.store, training.name, unit) for training, unit in zip(trainings, units, strict=True)]


@ray.remote
def _train(workspace: Workspace, training: Training, unit: Unit) -> None:
    make_model(workspace, training, unit)


def make_model(workspace: Workspace, training: Training, unit: Unit) -> None:
    """Train or load one model, predict every sample with it, and store both."""
    here, started = bench(workspace), time.monotonic()
    model = workspace.new_model(training.seed).to(here.device)
    try:
        if training.checkpoint is not None:
            checkpoint.load_into(model, training.checkpoint)
        else:
            for _ in fit(model, [here.part(training.rows)], recipe=workspace.sweep.training,
                         augmentation=workspace.sweep.data.augmentation,
                         generator=generator(training.seed, "order")):
                pass
        seconds, logits = time.monotonic() - started, here.logits(model)
    except Diverged as error:
        raise UserError(f"{training.name}: {error}. Lower training.lr, or mend the checkpoint") from error
    store_logits(workspace.store, unit, logits)
    weights = store_weights(workspace.store, unit, cpu_state(model)) if training.keep_weights else None
    workspace.store.finish(unit, {"name": training.name, "weights": weights, "seconds": seconds,
                                  "samples": len(training.rows)})


def _trained(store: Store, name: str, unit: Unit) -> Trained:
    result = store.result(unit)
    return Trained(name, unit, result["weights"], result["seconds"])


def cpu_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights and buffers of `model`, on the CPU."""
    return {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}


def store_weights(store: Store, unit: Unit, state: dict[str, Tensor], name: str = WEIGHTS) -> str:
    """Write a state dict; returns its digest."""
    weights = checkpoint.digest(state)
    store.write(unit, name, checkpoint.save(state, {"digest": weights}))
    return weights


def store_logits(store: Store, unit: Unit, logits: np.ndarray) -> None:
    """Write logits (N, classes) float32."""
    buffer = pa.BufferOutputStream()
    np.lib.format.write_array(buffer, logits, allow_pickle=False)
    store.write(unit, LOGITS, buffer.getvalue().to_pybytes())


def read_logits(store: Store, unit: Unit) -> np.ndarray:
    """The logits (N, classes) float32 of a finished model."""
    return np.lib.format.read_array(pa.BufferReader(store.read(unit, LOGITS)), allow_pickle=False)


def stream_logits(store: Store, models: Sequence[Trained]) -> Iterator[np.ndarray]:
    """The logits of `models`, one array in memory at a time."""
    for model in models:
        yield read_logits(store, model.unit)
