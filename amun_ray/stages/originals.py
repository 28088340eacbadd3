"""Stage 1: every model that is trained from scratch - originals, retrained ones, RMIA references - or loaded.

Cost: `originals x (1 + forget sets) + references` trainings, each independent of the others, so time falls with the
number of workers until there is one training per worker. Storage: one weights file per original and retrained model;
for every model, and for a reference model alone, its logits on all samples: `N x classes` float32.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import ray
from torch import Tensor, nn

from amun_ray.base.errors import Diverged, UserError
from amun_ray.base.progress import bar
from amun_ray.base.seeds import derive, generator
from amun_ray.data.splits import reference_halves
from amun_ray.models import checkpoint
from amun_ray.runtime.bench import Workspace, bench
from amun_ray.runtime.queue import run_tasks
from amun_ray.storage.sharing import make_all, make_once
from amun_ray.storage.store import Store, Unit, digest
from amun_ray.training.loop import fit
from amun_ray.work.checkpoints import Checkpoint
from amun_ray.work.plan import Plan

WEIGHTS, LOGITS = "weights.safetensors", "logits.npy"


@dataclass(frozen=True, eq=False)
class Training:
    """One model to train from scratch on `rows`, or the one of `checkpoint`; of references only logits are kept."""

    name: str
    rows: np.ndarray
    seed: int
    keep_weights: bool = True
    checkpoint: Checkpoint | None = None

    def unit(self, workspace: Workspace) -> Unit:
        if self.checkpoint is not None:
            return Unit("imported", {"file": self.checkpoint.digest, "dataset": workspace.data_digest,
                                     "model": workspace.sweep.model.model_dump()})
        return Unit("models", workspace.model_inputs | {"rows": rows_digest(self.rows), "seed": self.seed,
                                                        "weights": self.keep_weights})


@dataclass(frozen=True)
class Trained:
    """A finished model: where it is, the digest of its weights (None where only logits were kept), what it cost, and
    whether an earlier start paid for it."""

    name: str
    unit: Unit
    weights: str | None
    seconds: float
    reused: bool = False


def rows_digest(rows: np.ndarray) -> str:
    """The digest of a set of rows; their order does not matter."""
    return digest(np.sort(rows).astype("<i8").tobytes())


def original_trainings(workspace: Workspace, checkpoints: Sequence[Checkpoint]) -> list[Training]:
    """The models that must forget: those of `checkpoints`, or where there are none, trained on D."""
    rows = np.arange(workspace.train_size, dtype=np.int64)
    return [Training(f"original {k}", rows, derive(workspace.sweep.seed, "original", k),
                     checkpoint=checkpoints[k] if checkpoints else None)
            for k in range(workspace.sweep.originals.count)]


def retrained_trainings(workspace: Workspace, name: str, forget: np.ndarray, count: int) -> list[Training]:
    """`count` models that never saw the rows `forget`: the target of unlearning them."""
    rows = np.setdiff1d(np.arange(workspace.train_size, dtype=np.int64), forget)
    return [Training(f"retrained without {name}, {k}", rows, derive(workspace.sweep.seed, "retrained", k))
            for k in range(count)]


def reference_trainings(workspace: Workspace, halves: np.ndarray) -> list[Training]:
    """One model per row of `halves` (models, N), on the samples marked there: the RMIA reference bank."""
    return [Training(f"reference {k}", np.flatnonzero(half), derive(workspace.sweep.seed, "reference", k),
                     keep_weights=False) for k, half in enumerate(halves)]


class Wanted(NamedTuple):
    """Every training of a sweep; `halves` (references, N) bool: what each reference model is trained on."""

    originals: list[Training]
    retrained: dict[str, list[Training]]  # by forget set
    references: list[Training]
    halves: np.ndarray

    @property
    def every(self) -> list[Training]:
        return [*self.originals, *(one for group in self.retrained.values() for one in group), *self.references]


def wanted_trainings(workspace: Workspace, plan: Plan) -> Wanted:
    """The models that a sweep asks for, whether the store holds them or not."""
    sets = {name: rows for _, name, rows in [*plan.held_out, *plan.final]}
    halves = reference_halves(workspace.size, plan.sweep.references.count, plan.sweep.seed)
    retrained = {name: retrained_trainings(workspace, name, sets[name], count)
                 for name, count in plan.retrained.items()}
    return Wanted(original_trainings(workspace, plan.checkpoints), retrained,
                  reference_trainings(workspace, halves), halves)


def train_models(workspace: Workspace, trainings: Sequence[Training], options: dict) -> list[Trained]:
    """Train what the store does not hold yet, as Ray tasks; the result is in the order of `trainings`.

    Raises:
        UserError: a checkpoint that does not fit the model; a training that left the finite numbers, by its name.
    """
    units = [training.unit(workspace) for training in trainings]
    pending = {unit.digest: (training, unit) for training, unit in zip(trainings, units, strict=True)
               if not workspace.store.has(unit)}
    shared = ray.put(workspace)
    task = _train.options(max_retries=3, **options)
    new: set[str] = set()
    with bar("training", len(pending), "models") as progress:
        for (_, unit), made in make_all(
                workspace.store, list(pending.values()), lambda job: job[1],
                lambda jobs: run_tasks(lambda job: task.remote(shared, *job), jobs)):
            new |= {unit.digest} if made else set()
            progress.stored += not made
            progress.update()
    return [_trained(workspace.store, training.name, unit, reused=unit.digest not in new)
            for training, unit in zip(trainings, units, strict=True)]


@ray.remote
def _train(workspace: Workspace, training: Training, unit: Unit) -> bool:
    return make_once(workspace.store, unit, lambda: make_model(workspace, training, unit))


def make_model(workspace: Workspace, training: Training, unit: Unit) -> None:
    """Train or load one model, predict every sample with it, and store both."""
    here, started = bench(workspace), time.monotonic()
    model = workspace.new_model(training.seed).to(here.device)
    try:
        if training.checkpoint is not None:
            checkpoint.load_state(model, training.checkpoint.state, training.checkpoint.source)
        else:
            for _ in fit(model, [here.part(training.rows)], recipe=workspace.sweep.training,
                         augmentation=workspace.sweep.data.augmentation,
                         generator=generator(training.seed, "order")):
                pass
        seconds, logits = time.monotonic() - started, here.logits(model)
    except Diverged as error:
        raise UserError(f"{training.name}: {error}. Lower training.lr, or mend the checkpoint") from error
    if workspace.store.has(unit):  # by another sweep, which took this one for dead
        return
    store_logits(workspace.store, unit, logits)
    weights = store_weights(workspace.store, unit, cpu_state(model)) if training.keep_weights else None
    workspace.store.finish(unit, {"name": training.name, "weights": weights, "seconds": seconds,
                                  "samples": len(training.rows)})


def _trained(store: Store, name: str, unit: Unit, *, reused: bool) -> Trained:
    result = store.result(unit)
    return Trained(name, unit, result["weights"], result["seconds"], reused)


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


def read_logits(workspace: Workspace, unit: Unit, name: str) -> np.ndarray:
    """The logits (N, classes) float32 of a finished model, `name` in messages.

    Raises:
        UserError: what is stored cannot be read, is not of this sweep's samples and classes, or is not finite.
    """
    store, wanted = workspace.store, (workspace.size, workspace.classes)
    place = f"{name}: {store.path(unit, LOGITS)}"
    again = "delete its folder, and the same command makes it again"
    try:
        logits = np.lib.format.read_array(pa.BufferReader(store.read(unit, LOGITS)), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{place}: cannot be read as predictions ({error}); {again}") from error
    if logits.shape != wanted:
        raise UserError(f"{place}: predictions of shape {logits.shape}, this sweep has {wanted[0]} samples and "
                        f"{wanted[1]} classes; {again}")
    if broken := int((~np.isfinite(logits).all(axis=1)).sum()):
        raise UserError(f"{place}: the predictions of {broken} of {len(logits)} samples are not finite; {again}")
    return logits


def stream_logits(workspace: Workspace, models: Sequence[Trained]) -> Iterator[np.ndarray]:
    """The logits of `models`, one array in memory at a time."""
    for model in models:
        yield read_logits(workspace, model.unit, model.name)
