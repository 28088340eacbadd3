"""What a store holds that was made from given rows: found by the row numbers in adversarial shards, and by the digests
of its inputs that every unit has.

There are two relations. A unit is *made from* the rows if it saw their adversarial images or was unlearned on them. A
model *remembers* the rows if it was trained on them, or was unlearned from such a model without forgetting them.
Cost: one read of every `unit.json`, and of the row numbers of every shard.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from amun_ray.storage.store import COMPLETE, WITHOUT_UNITS, Store, Unit
from amun_ray.work.copies import UNREADABLE
from amun_ray.work.units import rows_digest

DELETE, STRIP, NEEDED = "delete", "delete its weights, keep its numbers", "keep: needed by later requests"
MODEL_KINDS = ("models", "imported")
SETS = ("sets", "forgets", "units", "weights", "cleansed")  # of `Marks`


class Remnant(NamedTuple):
    """Something that was made from the rows or remembers them: `room` (store, MLflow, spool, file), its name there, its
    size, what to do with it, and why."""

    room: str
    name: str
    bytes: int
    action: str
    why: str


@dataclass(frozen=True)
class Held:
    """A unit as stored, whole or not: its folder, the content of `unit.json` ({} if unreadable), and the size of each
    file in bytes."""

    folder: str
    content: dict[str, Any]
    files: dict[str, int]

    @property
    def kind(self) -> str:
        return self.folder.partition("/")[0]

    @property
    def digest(self) -> str:
        return self.folder.partition("/")[2]

    @property
    def size(self) -> int:
        return sum(self.files.values())

    @property
    def weights(self) -> str | None:
        """The digest of its model, if it has exactly one."""
        weights = (self.content.get("result") or {}).get("weights")
        return weights if isinstance(weights, str) else None

    @property
    def cases(self) -> list[dict[str, Any]]:
        cases = self.content.get("inputs", {}).get("cases", [])
        return [case for case in cases if isinstance(case, dict)]

    @property
    def shown(self) -> list[str]:
        """The adversarial sets at which the unit says what a model answers."""
        adversaries = self.content.get("inputs", {}).get("adversarial", [])
        return adversaries if isinstance(adversaries, list) else []


@dataclass
class Marks:
    """What is known about the rows to be purged, kept between calls: everything else is found by these digests.

    Attributes:
        dataset, rows: digest of the dataset, and the rows in it.
        sets, forgets: adversarial sets with one of the rows; row sets with one of them.
        units, weights: deleted units and models, added as they are found.
        cleansed: weights that have forgotten the rows, also where those that they came from are deleted since.
        radius: the largest L2 distance of an adversarial image of these rows from its clean one, pixel units.
    """

    dataset: str
    rows: list[int]
    sets: set[str] = field(default_factory=set)
    forgets: set[str] = field(default_factory=set)
    units: set[str] = field(default_factory=set)
    weights: set[str] = field(default_factory=set)
    cleansed: set[str] = field(default_factory=set)
    radius: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return {key: sorted(value) if isinstance(value, set) else value for key, value in vars(self).items()}

    @classmethod
    def from_json(cls, noted: dict[str, Any]) -> "Marks":
        content: dict[str, Any] = {key: set(value) if key in SETS else value for key, value in noted.items()}
        return cls(**content)

    def touches(self, case: dict[str, Any]) -> bool:
        """Whether a forget case, as stored in a unit, includes one of the rows."""
        return case.get("adversarial") in self.sets or case.get("forget") in self.forgets


def held(store: Store) -> list[Held]:
    """Every unit of `store`, including those without a readable `unit.json`, left by a killed sweep or damage."""
    files: dict[str, dict[str, int]] = {}
    for name, size in store.sizes().items():
        kind, _, rest = name.partition("/")
        folder, _, file = rest.partition("/")
        if file and kind not in WITHOUT_UNITS:
            files.setdefault(f"{kind}/{folder}", {})[file] = size
    return [Held(folder, _said(store, folder) if COMPLETE in its else {}, its) for folder, its in files.items()]


def _said(store: Store, folder: str) -> dict[str, Any]:
    """The content of a `unit.json`, even if its seal is broken: unusable units must be found too."""
    with suppress(*UNREADABLE):
        content = json.loads(store.get(f"{folder}/{COMPLETE}") or b"")
        if isinstance(content, dict) and isinstance(content.get("inputs"), dict):
            return content
    return {}


@dataclass(frozen=True, eq=False)
class Trace:
    """What `store` holds about the rows of `marks`; digests that it finds are added to `marks`.

    Attributes:
        known: row sets of the sweep and of other requests, each (count,) int64: maps a set's digest back to its rows.
        train_size: of the dataset.
        kept: digests of weights that must stay: the models that later requests start from.
        superseded: digests of weights that were in production before these rows were forgotten.
        retire: also delete models that remember the rows.
    """

    store: Store
    marks: Marks
    known: Iterable[np.ndarray]
    train_size: int
    kept: frozenset[str] = frozenset()
    superseded: frozenset[str] = frozenset()
    retire: bool = False

    @cached_property
    def units(self) -> list[Held]:
        return held(self.store)

    @cached_property
    def _trained(self) -> set[str | None]:
        """The weights of all models trained from scratch: originals are deleted only if they are retired."""
        return {unit.weights for unit in self._of("models")}

    def found(self) -> list[Remnant]:
        """Everything in the store; sets of adversarial images come last, since the rest is recognised by them."""
        self._learn_sets()
        remnants = [*self._broken(), *self._made(), *self._remembering()]
        return [*remnants, *self._sets()]

    def _learn_sets(self) -> None:
        rows = np.array(self.marks.rows, np.int64)
        self.marks.forgets.add(rows_digest(rows))
        self.marks.forgets.update(rows_digest(each) for each in self.known if np.isin(rows, each).any())
        for unit in self._of("adversarial_sets"):
            for name in unit.files:
                self._learn_shard(unit, name, rows)

    def _learn_shard(self, unit: Held, name: str, rows: np.ndarray) -> None:
        if not name.endswith(".parquet"):
            return
        try:
            table = pq.read_table(pa.BufferReader(self.store.get(f"{unit.folder}/{name}")), columns=["index", "l2"])
            dataset = (table.schema.metadata or {}).get(b"dataset", b"").decode()
            mine = np.isin(table.column("index").to_numpy(), rows)
        except UNREADABLE:
            self.marks.sets.add(unit.digest)  # its rows are unknown: it must be remade anyway
            return
        if dataset == self.marks.dataset and mine.any():
            self.marks.sets.add(unit.digest)
            self.marks.radius = max(self.marks.radius, float(table.column("l2").to_numpy()[mine].max()))
            if (named := unit.content.get("inputs", {}).get("rows")) is not None:
                self.marks.forgets.add(named)

    def _sets(self) -> Iterator[Remnant]:
        for unit in self._of("adversarial_sets"):
            if unit.digest in self.marks.sets:
                yield self._item(unit, DELETE, "adversarial images of these rows")

    def _broken(self) -> Iterator[Remnant]:
        for unit in self.units:
            if not unit.content and unit.kind != "adversarial_sets":
                yield self._item(unit, DELETE, "incomplete or damaged: nobody can tell what it was made from")

    def _made(self) -> Iterator[Remnant]:
        for unit in self.units:
            if self.marks.sets.intersection(unit.shown):
                yield self._item(unit, DELETE, "distances of these pictures to the boundary of a model")
            if not any(map(self.marks.touches, unit.cases)):
                continue
            models = [name for name in unit.files if name != COMPLETE]
            if unit.kind == "trials" and models:
                yield self._item(unit, STRIP, "a trial of the search on a set that has these rows")
            elif unit.kind != "trials" and unit.weights in self.kept:
                yield self._item(unit, NEEDED, "the model that has forgotten these rows")
            elif unit.kind != "trials":
                yield self._item(unit, DELETE, "a model unlearned on these rows, or numbers read of one")

    def _remembering(self) -> Iterator[Remnant]:
        rows = np.array(self.marks.rows, np.int64)
        every = np.arange(self.train_size, dtype=np.int64)
        clean = {rows_digest(np.setdiff1d(every, each)) for each in [rows, *self.known] if np.isin(rows, each).all()}
        cleansed = self._cleansed()
        for unit in self.units:
            inputs = unit.content.get("inputs", {})
            if inputs.get("dataset") != self.marks.dataset or any(map(self.marks.touches, unit.cases)):
                continue
            if unit.kind in MODEL_KINDS and inputs.get("rows") not in clean and unit.weights not in cleansed - {None}:
                what = "trained" if unit.kind == "models" else "loaded, and trained"
                yield self._remembers(unit, f"{what} on these rows, or not known not to be")
            elif unit.cases and len(unit.files) > 1 and not _started_from(cleansed, unit):
                yield self._remembers(unit, "unlearned other rows than these")

    def _cleansed(self) -> set[str | None]:
        """The weights that have forgotten the rows: unlearned on them, or unlearned later from such weights."""
        cleansed: set[str | None] = {unit.weights for unit in self.units if any(map(self.marks.touches, unit.cases))}
        cleansed, before = cleansed | self.marks.cleansed, None
        while before != len(cleansed):
            before = len(cleansed)
            cleansed |= {unit.weights for unit in self.units if _started_from(cleansed, unit)}
        self.marks.cleansed = {weights for weights in cleansed if weights is not None}
        return cleansed

    def _remembers(self, unit: Held, why: str) -> Remnant:
        if unit.weights in self.kept:
            return self._item(unit, NEEDED, f"{why}; later requests start from it")
        if unit.weights is not None and unit.weights in self.superseded and (
                self.retire or unit.weights not in self._trained):
            return self._item(unit, DELETE, f"{why}; no longer in production")
        action = NEEDED if not self.retire else STRIP if unit.kind == "trials" else DELETE
        return self._item(unit, action, why)

    def _item(self, unit: Held, action: str, why: str) -> Remnant:
        if action != NEEDED:
            self.marks.units.add(unit.digest)
            if unit.weights is not None:
                self.marks.weights.add(unit.weights)
        size = unit.size - (unit.files.get(COMPLETE, 0) if action == STRIP else 0)
        return Remnant("store", unit.folder, size, action, why)

    def _of(self, kind: str) -> list[Held]:
        return [unit for unit in self.units if unit.kind == kind]


def _started_from(weights: set[str | None], unit: Held) -> bool:
    return bool(unit.cases) and all(case.get("original") in weights for case in unit.cases)


def delete_unit(store: Store, item: Remnant) -> None:
    """Remove a unit, a single file, or only the weights of a trial, whose result then says so; missing ones are
    ignored."""
    if item.action == DELETE:
        (store.remove if item.name in store.sizes(item.name.rpartition("/")[0]) else store.remove_folder)(item.name)
        return
    content = _said(store, item.name)
    if content:
        store.finish(Unit(content["kind"], content["inputs"]), content["result"] | {"weights": []})
    for name in store.sizes(item.name):
        if not name.endswith(f"/{COMPLETE}"):
            store.remove(name)
