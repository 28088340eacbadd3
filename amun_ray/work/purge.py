"""The purge of a request: everything that was made from its rows is listed, deleted, and searched for again.

The list is first written to `FOLDER/REQUEST.json`, with the digests by which the items are recognised. The next call
reads it, and so finishes an interrupted purge with the same result.
Cost: one read of every file of the store and of MLflow's folder, and the distances of stored pictures to forgotten ones
(see `copies`); all on the calling machine, whatever the number of devices.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from amun_ray.base.errors import UserError
from amun_ray.base.files import write_whole
from amun_ray.data.dataset import Dataset
from amun_ray.storage.leases import host_and_process, is_alive
from amun_ray.storage.pixels import copies_of_node
from amun_ray.storage.store import PIXELS, Store
from amun_ray.storage.versions import kept_versions
from amun_ray.work import copies, decoded
from amun_ray.work.lineage import DELETE, NEEDED, Marks, Remnant, Trace, delete_unit

if TYPE_CHECKING:
    from amun_ray.tracking import Archive

CONTENT = "its content"  # how `why` begins where no lineage led to a file
PROOF = "proof"  # the folder of a run's artifacts whose texts name the request on purpose
TEXTS = (".html", ".md", ".txt", ".json", ".csv", ".log", ".yaml")
SEARCHED = ("store", "mlartifacts", "mlflow_spool")  # folders in the output that only this program writes


@dataclass(frozen=True, eq=False)
class Purge:
    """What to purge, and where.

    Attributes:
        request: the id of the request.
        dataset, rows: the pictures, (count,) int64 rows of the dataset.
        store, output: of the sweep; `tracking` is the URI of its MLflow.
        folder: where the plan of the purge is written.
        eps: the first radius of the attack, pixel units: the smallest radius of the search by content.
        known, kept, superseded, retire: see `lineage.Trace`.
        names: texts that name the rows in reports and logs, such as the request's file name; searched for in the text
            files of `output`.
    """

    request: str
    dataset: Dataset
    rows: np.ndarray
    store: Store
    output: Path
    tracking: str
    folder: Path
    eps: float
    known: Sequence[np.ndarray] = ()
    kept: frozenset[str] = frozenset()
    superseded: frozenset[str] = frozenset()
    names: Sequence[str] = ()
    retire: bool = False
    _faults: list[str] = field(default_factory=list)  # files that cannot be searched
    _seen: Counter[str] = field(default_factory=Counter)  # files and pictures that were searched

    @property
    def path(self) -> Path:
        """The plan of the purge."""
        return self.folder / f"{self.request}.json"

    @cached_property
    def marks(self) -> Marks:
        """The digests by which everything is recognised: from the plan of an earlier call, or new."""
        try:
            marks = Marks.from_json(json.loads(self.path.read_text())["marks"])
        except FileNotFoundError:
            marks = Marks(self.dataset.digest, [int(row) for row in np.sort(self.rows)])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path}: damaged, no plan of a purge; remove it, and the same command writes a new "
                            "one") from error
        if (marks.dataset, marks.rows) != (self.dataset.digest, [int(row) for row in np.sort(self.rows)]):
            raise UserError(f"{self.path}: is the plan of a purge of other rows, or of another dataset; the "
                            "dataset must be the one of the request")
        marks.radius = max(marks.radius, self.eps)
        return marks

    def listed(self) -> list[Remnant]:
        """Everything that was made from the rows or remembers them; changes nothing.

        Raises:
            UserError: a sweep is running in the store, or MLflow does not answer.
        """
        self._check_quiet()
        self._faults.clear()
        self._seen.clear()
        by_lineage = self._trace().found()
        logged = [*self._logged(), *self._spooled()]
        known = tuple(f"{remnant.name}/" for remnant in by_lineage if remnant.action == DELETE)
        files = [remnant for remnant in self._files() if not f"{remnant.name}/".startswith(known)]
        return [*logged, *decoded.found(self.stores, self._wanted), *files, *by_lineage]

    def run(self) -> dict[str, Any]:
        """Delete the items of `listed`, search again; returns the outcome, as the ledger keeps it.

        Raises:
            UserError: as in `listed`; something cannot be deleted or is still there. The same command continues.
        """
        remnants = self.listed()
        earlier = self._planned()
        self.folder.mkdir(parents=True, exist_ok=True)
        items = list(dict.fromkeys([*earlier, *(remnant for remnant in remnants if remnant.action != NEEDED)]))
        self._write(items)
        for remnant in items:
            self._delete(remnant)
        after = self.listed()
        if left := [remnant for remnant in after if remnant.action != NEEDED]:
            raise UserError(f"purge of {self.request}: {len(left)} of {len(items)} are still there, the first is "
                            f"{left[0].room} {left[0].name} ({left[0].why}); see {self.path}, and give the same "
                            "command again")
        report = self._report(items, after)
        self._write(items, report)
        return report

    def limits(self) -> list[str]:
        """What this purge cannot delete, a sentence each; what could not be searched, once something was `listed`."""
        lines = ["your own data files, and every copy of them, are yours to delete",
                 "backups, snapshots, Git, mails and copies that somebody made are out of reach",
                 "models that were trained on these rows, and the predictions that kept models made of them, stay "
                 "where they are needed to judge later requests; --retire deletes those models",
                 "figures and scores of the sweep count these rows among others, and hold no picture"]
        if (kept := kept_versions(self.store.uri)) is not None:
            lines.append(f"storage {self.store.uri.partition('?')[0]} {kept}")
        if not self._archive.is_hard:
            lines.append(f"the MLflow server {self.tracking} keeps the entries of what is deleted, without files, "
                         "until its operator runs `mlflow gc`")
        if self.dataset.map_path is not None:
            lines.append("decoded pixels are made again by the next sweep or request, as long as your own data files "
                         f"have these pictures; on other nodes, {copies_of_node()} may have some that a killed worker "
                         "left; remove that folder there")
        if os.path.isdir("/tmp/ray"):
            lines.append("Ray's own folder, /tmp/ray, has the logs of past sessions; remove it when no Ray runs")
        return [*lines, *self._faults]

    @cached_property
    def _archive(self) -> "Archive":
        from amun_ray.tracking import Archive  # imports MLflow, which takes seconds

        return Archive(self.tracking)

    @cached_property
    def stores(self) -> list[Store]:
        """The storage, and the folder beside the output where it is another: decoded pixels are there."""
        own = Store(str(self.output / "store"), self.store.owner)
        return [self.store] if own.uri == self.store.uri else [self.store, own]

    def _check_quiet(self) -> None:
        for store in self.stores:
            for owner in store.times("sweeps"):
                if owner != store.owner and is_alive(store, owner):
                    host, process = host_and_process(owner)
                    raise UserError(f"storage {store.uri!r}: a sweep is at work there (host {host}, process {process}"
                                    "); purge when it has ended")

    def _trace(self) -> Trace:
        return Trace(self.store, self.marks, self.known, self.dataset.train_size, self.kept, self.superseded,
                     self.retire)

    def _matches(self, tags: Mapping[str, Any]) -> bool:
        """Whether the tags of a run, a logged model or an event show that it was made from the rows."""
        marks = self.marks
        units = {str(tags.get("lineage.result")), *re.split("[-:]", str(tags.get("amun.key", "")))}
        if units & marks.units or tags.get("weights") in marks.weights:
            return True
        return not units & self._kept_units and any(
            digest in known for name, known in (("adversarial", marks.sets), ("forget", marks.forgets))
            for digest in str(tags.get(f"lineage.{name}", "")).split(", "))

    @cached_property
    def _kept_units(self) -> set[str]:
        return {unit.digest for unit in self._trace().units if unit.weights in self.kept}

    def _logged(self) -> Iterator[Remnant]:
        hard = self._archive.is_hard
        for entry in self._archive.found(self._matches):
            if hard or not entry.deleted or entry.bytes > 0:
                why = "its tags name these rows' sets or models" + (", deleted before" if entry.deleted else "")
                yield Remnant(f"MLflow {entry.kind}", entry.id, entry.bytes, DELETE, why)

    def _spooled(self) -> Iterator[Remnant]:
        from amun_ray.tracking import Spool

        for path in Spool(self.output / "mlflow_spool").waiting():
            with suppress(OSError, ValueError):
                event = json.loads((path / "event.json").read_text())
                if self._matches({"amun.key": event["key"], **event["tags"]}):
                    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
                    yield Remnant("spool", path.name, size, DELETE, "an event that MLflow was not told of yet")

    def _files(self) -> Iterator[Remnant]:
        """What the search by content finds, in the store and in the folders of the output; and texts with names.
        Of a file that belongs to a unit, the unit."""
        wanted = self._wanted
        parts = {f"{unit.folder}/{name}" for unit in self._trace().units for name in unit.content.get("files", ())}
        for name, size in self.store.sizes().items():
            if name.startswith(f"{PIXELS}/") or not name.endswith(copies.ENDINGS):
                continue
            if why := self._copied(wanted, name, self.store.get(name)):
                yield Remnant("store", name.rpartition("/")[0] if name in parts else name, size, DELETE, why)
        for path in self._local_files():
            if path.suffix.lower() in copies.ENDINGS and (why := self._copied(wanted, str(path), path.read_bytes())):
                yield Remnant("file", str(path), path.stat().st_size, DELETE, why)
            if path.suffix in TEXTS and PROOF not in path.parts and (named := self._named(path)):
                yield Remnant("file", str(path), path.stat().st_size, DELETE, f"names {named!r}")

    @property
    def _wanted(self) -> copies.Forgotten:
        return copies.Forgotten(self.dataset, np.array(self.marks.rows, np.int64), self.marks.radius)

    def _local_files(self) -> list[Path]:
        """The files that this program wrote outside the store: its folders, and reports at the top of the output."""
        inner = [self.output / name for name in SEARCHED[1:]]
        return [path for path in [*(self.output / name for name in ("report.html", "table.md", "results.json")),
                                  *(file for folder in inner if folder.is_dir() for file in sorted(folder.rglob("*")))]
                if path.is_file()]

    def _copied(self, wanted: copies.Forgotten, name: str, data: bytes | None) -> str | None:
        if data is None:
            return None
        try:
            count, near = wanted.copies(name, data)
            self._seen.update(files=1, pictures=count)
        except UserError as error:
            self._faults.append(str(error))
            return None
        if not near:
            return None
        nearest = min(near, key=lambda copy: copy.l2)
        return (f"{CONTENT}: {len(near)} pictures within {wanted.radius:.3g} of forgotten ones (row {nearest.row} at "
                f"{nearest.l2:.3g}, {nearest.place})")

    def _named(self, path: Path) -> str | None:
        text = path.read_text(errors="replace")
        return next((name for name in self.names if name in text and re.search(
            rf"(?<![\w.-]){re.escape(name)}(?![\w-])", text)), None)

    def _delete(self, remnant: Remnant) -> None:
        if remnant.room == "store":
            delete_unit(self.store, remnant)
        elif remnant.room == "spool":
            from amun_ray.tracking import Spool

            spool = Spool(self.output / "mlflow_spool")
            for path in spool.waiting():
                if path.name == remnant.name:
                    spool.remove(path)
        elif remnant.room in ("file", decoded.ROOM):
            decoded.delete(remnant)
        else:
            self._archive.delete(remnant.room.removeprefix("MLflow "), remnant.name)

    def _planned(self) -> list[Remnant]:
        """What an interrupted purge still has to delete; empty if there was none."""
        if not self.path.exists():
            return []
        return [Remnant(*item) for item in json.loads(self.path.read_text())["items"]]

    def _write(self, items: Sequence[Remnant], report: Mapping[str, Any] | None = None) -> None:
        plan = {"request": self.request, "marks": self.marks.as_json(), "items": items, "report": report}
        write_whole(self.path, json.dumps(plan, indent=1).encode())

    def _report(self, items: Sequence[Remnant], after: Sequence[Remnant]) -> dict[str, Any]:
        """JSON values: how much of what was deleted, what remembers the rows, what cannot be deleted, the search."""
        rooms: dict[str, dict[str, int]] = {}
        for item in items:
            room = rooms.setdefault(item.room, {"count": 0, "bytes": 0})
            room["count"], room["bytes"] = room["count"] + 1, room["bytes"] + item.bytes
        return {"deleted": rooms, "retired": self.retire, "kept": [[item.name, item.bytes, item.why] for item in after],
                "limits": self.limits(), "search": {"radius": self.marks.radius, "sets": sorted(self.marks.sets),
                                                    **self._seen, "found": 0}}
