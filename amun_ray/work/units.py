"""What each piece of work is: its inputs, and the address of its result in the store. Nothing runs here.

A training run is identified by its rows, seed and recipe; an adversarial set by the attacked weights, its rows and the
attack; a trial or an unlearned model by its settings and the lineage of its cases.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Self

import numpy as np
from torch import nn

from amun_ray.base.errors import UserError
from amun_ray.base.seeds import derive
from amun_ray.config.schema import Sweep
from amun_ray.data.dataset import Dataset
from amun_ray.metrics import Split
from amun_ray.storage.store import Store, Unit, digest
from amun_ray.training.recipe import Recipe
from amun_ray.unlearn import Contender, find
from amun_ray.work.checkpoints import Checkpoint
from amun_ray.work.network import Network

WEIGHTS, LOGITS = "weights.safetensors", "logits.npy"
RADIUS = "eps_init"  # metadata key of a shard: the first radius of its set, if the attack has one


@dataclass(frozen=True)
class Workspace:
    """What every piece of work of a sweep needs to know, without the pixels: small enough to send with each."""

    sweep: Sweep
    store: Store
    data_digest: str
    shape: tuple[int, int, int]  # channels, height, width
    classes: int
    size: int  # N, training and test samples together
    train_size: int
    network: Network
    start: str | None  # the digest of the weights from which every training starts; None: each draws its own
    gone: tuple[int, ...] = field(default=(), kw_only=True)  # rows of earlier requests, no longer part of D_R

    @classmethod
    def of(cls, sweep: Sweep, store: Store, dataset: Dataset, start: Checkpoint | None = None, *more: Any) -> Self:
        """The workspace for `dataset`; `more` are a subclass's fields."""
        return cls(sweep, store, dataset.digest, dataset.pixels.shape[1:], dataset.classes, len(dataset),
                   dataset.train_size, Network.of(sweep, dataset), None if start is None else start.digest, *more)

    @property
    def model_inputs(self) -> dict[str, Any]:
        """What a model depends on besides its training rows and seed."""
        start = {} if self.start is None else {"start": self.start}
        return self.network_inputs | start | {"recipe": self.sweep.inputs()["training"],
                                              "augmentation": self.sweep.data.augmentation.inputs}

    @property
    def network_inputs(self) -> dict[str, Any]:
        """The part of these that a loaded model also depends on."""
        return {"dataset": self.data_digest} | self.network.identity

    def split(self, forget: np.ndarray, labels: np.ndarray) -> Split:
        """D_R, D_F and D_T for a forget set; `labels` (N,) of all samples."""
        split = Split.of(forget, labels=labels, train_size=self.train_size)
        return split._replace(retain=np.setdiff1d(split.retain, self.gone))

    def scored(self, forget: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
        """The rows, rising, on which the search scores unlearning of `forget` (see `search.score_samples`); None: all.

        They depend on the config and the forget set alone, so that all trials are compared on the same samples.
        """
        if (count := self.sweep.search.score_samples) is None:
            return None
        split = self.split(forget, labels)
        rows = np.sort(np.concatenate(split.sample(count, self.sweep.seed)))
        return rows if len(rows) < sum(map(len, split)) else None

    def new_model(self, seed: int) -> nn.Module:
        """The sweep's network on the CPU, initialised from `seed`, normalisation in front."""
        return self.network.build(seed)


def case_weights(place: int) -> str:
    """The weights file of a trial for the case at `place` among its cases."""
    return f"weights-{place}.safetensors"


def rows_digest(rows: np.ndarray) -> str:
    """The digest of a set of rows; their order does not matter."""
    return digest(np.sort(rows).astype("<i8").tobytes())


@dataclass(frozen=True, eq=False)
class ForgetCase:
    """An original model that is to forget a set: the original's number, the set's name, and its rows."""

    original: int
    name: str
    rows: np.ndarray  # training rows, int64

    @property
    def key(self) -> tuple[int, str]:
        return self.original, self.name


@dataclass(frozen=True, eq=False)
class Training:
    """A model to train from scratch on `rows`, or to load from `checkpoint`; for references only logits are kept."""

    name: str
    rows: np.ndarray
    seed: int
    keep_weights: bool = True
    checkpoint: Checkpoint | None = None
    epochs: int | None = None  # None: those of the config's `training`

    def recipe(self, workspace: Workspace) -> Recipe:
        """How it is trained."""
        recipe = workspace.sweep.training
        return recipe if self.epochs is None else replace(recipe, epochs=self.epochs)

    def unit(self, workspace: Workspace) -> Unit:
        if self.checkpoint is not None:
            return Unit("imported", workspace.network_inputs | {"file": self.checkpoint.digest})
        inputs = workspace.model_inputs
        return Unit("models", inputs | {
            "recipe": inputs["recipe"] | {"epochs": self.recipe(workspace).epochs}, "rows": rows_digest(self.rows),
            "seed": self.seed, "weights": self.keep_weights})


@dataclass(frozen=True)
class Trained:
    """A finished model: where it is, the digest of its weights (None if only logits were kept), its cost, and whether
    an earlier start made it."""

    name: str
    unit: Unit
    weights: str | None
    seconds: float
    reused: bool = False


@dataclass(frozen=True, eq=False)
class Target:
    """One adversarial set to build: the samples `rows` of the forget set `name`, against the model `original`."""

    original: Trained
    name: str
    rows: np.ndarray

    def unit(self, workspace: Workspace) -> Unit:
        attack = workspace.sweep.inputs()["attack"]
        return Unit("adversarial_sets", {"original": self.original.weights, "dataset": workspace.data_digest,
                                         "rows": rows_digest(self.rows), "attack": attack})

    def shards(self, workspace: Workspace) -> list["Shard"]:
        """The rows in ascending order, split into shards by the config alone.

        Raises:
            UserError: no rows, or rows that are not distinct training rows.
        """
        rows = np.sort(self.rows)
        place = f"forget set {self.name!r}"
        if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer):
            raise UserError(f"{place}: rows must be integers (N,), found {rows.dtype} {rows.shape}")
        if not len(rows):
            raise UserError(f"{place}: it is empty; an adversarial set needs at least one row")
        if rows[0] < 0 or rows[-1] >= workspace.train_size:
            wrong = rows[0] if rows[0] < 0 else rows[-1]
            raise UserError(f"{place}: row {wrong} is outside the training rows 0..{workspace.train_size - 1}")
        if (twice := rows[1:][rows[1:] == rows[:-1]]).size:
            raise UserError(f"{place}: row {twice[0]} is there more than once")
        unit, size = self.unit(workspace), workspace.sweep.attack.shard_size
        return [Shard(f"{self.original.name}, {self.name}", self.original, unit, number, rows[start:start + size])
                for number, start in enumerate(range(0, len(rows), size))]


@dataclass(frozen=True, eq=False)
class Shard:
    """One piece of work: some rows of a set. `radius` is None before the set is calibrated, or if it need not be."""

    title: str
    original: Trained
    unit: Unit
    number: int
    rows: np.ndarray
    radius: float | None = None

    def __str__(self) -> str:
        return f"shard {self.number} of {self.title}"

    @property
    def name(self) -> str:
        return shard_name(self.number)

    @property
    def lineage(self) -> dict[str, str]:
        """What the shard's metadata must contain for it to be this shard."""
        lineage = {"set": self.unit.digest, "rows": rows_digest(self.rows),
                   **{key: self.unit.inputs[key] for key in ("original", "dataset")}}
        return lineage if self.radius is None else lineage | {RADIUS: repr(self.radius)}


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.parquet"


@dataclass(frozen=True)
class AdversarialSet:
    """A finished set: where it is, how many shards it has, its report, the workers' time (since the last interruption,
    if any), and whether an earlier start made it."""

    unit: Unit
    shards: int
    report: dict[str, Any]
    seconds: float = field(default=0.0, compare=False)
    reused: bool = field(default=False, compare=False)


class Hyperparameters(NamedTuple):
    """The settings of a trial: learning rate, schedule (`never`, or `every_N` epochs times 0.1), number of epochs, and
    the searched settings of the method."""

    lr: float
    schedule: str
    epochs: int
    own: dict[str, float]


@dataclass(frozen=True, eq=False)
class Case(ForgetCase):
    """A forget case with the target for its unlearned models, and its lineage."""

    target: dict[str, float] | None  # the retrained models' mean scores; None if there are none
    original_test_accuracy: float    # percent
    lineage: dict[str, Any]
    before: dict[str, float] | None = field(default=None, kw_only=True)  # for a search: the scores of the original

    def seed(self, workspace: Workspace, run: int) -> int:
        """The seed, the same for every method and setting, so that runs do not differ by chance."""
        return derive(workspace.sweep.seed, "unlearn", self.original, self.name, run)


def case_inputs(workspace: Workspace, contender: Contender, settings: Hyperparameters, cases: Sequence[Case],
                run: int) -> dict[str, Any]:
    """Everything that the scores of unlearning `cases` depend on; part of the result's address."""
    sweep, chosen = workspace.sweep, settings._asdict()
    given = sweep.method_settings(contender) | settings.own
    chosen["own"] = find(contender.method).inputs(*contender, given)
    return {"contender": list(contender), "settings": chosen, "unlearning": sweep.inputs()["unlearning"],
            "augmentation": sweep.data.augmentation.inputs, "rmia": sweep.model_dump()["rmia"],
            "dataset": workspace.data_digest, "model": workspace.network.identity["model"],
            "cases": [case.lineage | {"seed": case.seed(workspace, run)} for case in cases]}


@dataclass(frozen=True, eq=False)
class Run:
    """An unlearned model to make: its method, settings, case and seed."""

    contender: Contender
    settings: Hyperparameters
    case: Case
    number: int
    unit: Unit

    @classmethod
    def of(cls, workspace: Workspace, contender: Contender, settings: Hyperparameters, case: Case,
           number: int) -> "Run":
        return cls(contender, settings, case, number,
                   Unit("unlearned", case_inputs(workspace, contender, settings, [case], number)))


@dataclass(frozen=True)
class Unlearned:
    """An unlearned model: its run, its stored result (`failed`: the reason), and whether an earlier start made it."""

    run: Run
    result: dict[str, Any]
    reused: bool = False
