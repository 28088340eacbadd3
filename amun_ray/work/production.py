"""What a request in production is: its rows, whether and with which settings it can be met, and how the resulting
model is judged. No Ray, no MLflow.

Cost: the digest of every requested picture.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from amun_ray.base.errors import UserError
from amun_ray.base.log import counted
from amun_ray.config.file import load_request
from amun_ray.config.production import Limits
from amun_ray.data.dataset import Dataset
from amun_ray.data.requests import class_title
from amun_ray.ledger import Asked, History, Ledger, RowId, row_ids
from amun_ray.storage.store import COMPLETE, Store, Unit
from amun_ray.unlearn import Contender
from amun_ray.work.changes import flat
from amun_ray.work.pictures import lacking
from amun_ray.work.plan import Plan
from amun_ray.work.purge import Purge
from amun_ray.work.units import Hyperparameters

PURGES = "purges"  # folder in the sweep's output with the plans of purges
ANYWHERE = ("train", "test", "path", "root")  # settings of `data`: what is there counts, not what it is called


@dataclass(frozen=True)
class Chosen:
    """A row of the sweep's table: the method for a request, and how near it came to retrained models in the sweep."""

    contender: Contender
    settings: Hyperparameters
    gap: Mapping[str, float]  # mean, std, n

    def as_json(self) -> dict[str, Any]:
        return {**self.contender._asdict(), **self.settings._asdict()}


def table(plan: Plan, store: Store, history: History) -> list[dict[str, Any]] | None:
    """The rows of the finished sweep of this config, as in results.json; None if there is none.

    An original named by a registry alias is the one that the ledger began with, whatever has the alias now. Files of
    the same content may have other names than in the sweep.
    """
    if not store.exists():
        return None
    wanted = plan.identity | ({} if history.opened is None else history.opened.content["loaded"])
    kept = store.result(Unit("tables", wanted))
    if kept is None:
        kept = next((result for inputs, result in _tables(store) if _placeless(inputs) == _placeless(wanted)), None)
    return None if kept is None else kept["rows"]


def _tables(store: Store) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The inputs and the result of each table in `store`."""
    for name in store.sizes("tables"):
        if name.endswith(f"/{COMPLETE}"):
            with suppress(ValueError, KeyError):
                inputs = json.loads(store.get(name) or b"{}")["inputs"]
                if (result := store.result(Unit("tables", inputs))) is not None:
                    yield inputs, result


def _placeless(inputs: Mapping[str, Any]) -> Any:
    """The inputs of a table as JSON has them, without what files are called."""
    sweep = inputs["sweep"]
    return json.loads(json.dumps({**inputs, "sweep": {**sweep, "data": {
        key: value for key, value in sweep["data"].items() if key not in ANYWHERE}}}))


def choose(rows: Sequence[Mapping[str, Any]], wanted: str | None) -> Chosen:
    """The row with the smallest Avg. Gap, or that of `wanted`: METHOD or METHOD:ACCESS (`retain` or `forget_only`).

    Raises:
        UserError: the sweep has no such row, or none of its settings worked.
    """
    known = {f"{row['method']}:{row['access']}": row for row in rows if row["access"] and "failed" not in row}
    method, _, access = (wanted or "").partition(":")
    fitting = [row for row in known.values() if not wanted or (row["method"] == method
                                                               and access in ("", row["access"]))]
    if not fitting:
        raise UserError(f"--method {wanted}: no row of the sweep's table; its rows: {', '.join(known)}")
    best = min(fitting, key=lambda row: row["average_gap"]["mean"])
    return Chosen(Contender(best["method"], best["access"]),
                  Hyperparameters(best["lr"], best["schedule"], best["epochs"], best["settings"]), best["average_gap"])


def named_rows(plan: Plan, path: str) -> np.ndarray:
    """(count,) int64, ascending: the rows of the plan's dataset that the file `path` names.

    Raises:
        UserError: as in `load_request` and `Plan.request`.
    """
    forget = load_request(path)
    request = replace(plan, sweep=plan.sweep.model_copy(update={"forget": forget})).request
    assert request is not None, "a file names rows"
    return np.searchsorted(plan.dataset.file_numbers[:plan.dataset.train_size], request.rows)


def ids(dataset: Dataset, rows: np.ndarray) -> list[RowId]:
    """The stable ids of dataset rows."""
    return row_ids(dataset.pixels, rows, dataset.file_numbers)


def dataset_rows(dataset: Dataset, named: Sequence[RowId]) -> np.ndarray:
    """(count,) int64, ascending: the dataset rows of stable ids."""
    numbers = np.sort(np.array([row for row, _ in named], np.int64))
    return np.searchsorted(dataset.file_numbers[:dataset.train_size], numbers)


def received(plan: Plan, history: History, rows: np.ndarray, source: str, by: str, *,
             added: Sequence[RowId] = ()) -> dict[str, Any]:
    """The content of a `received` entry for those of the dataset rows `rows` that were not requested before; `added`
    are the ids of named rows that came to the files after the ledger began.

    Raises:
        UserError: all were requested before, they are all that is left of a class, or more than half of D_R.
    """
    named = dict(zip(ids(plan.dataset, rows), rows, strict=True))
    earlier = {row: request for row, request in history.asked.items()
               if row in named and history.requests[request].state != "refused"}
    new = np.array([place for row, place in named.items() if row not in earlier], np.int64)
    if not len(new):
        before = ", ".join(f"{counted(count, 'row')} as {request} ({history.requests[request].state})"
                           for request, count in Counter(earlier.values()).items())
        raise UserError(f"{source}: every row was asked for before: {before}; there is nothing left to forget")
    gone = dataset_rows(plan.dataset, list(history.asked))
    _check_room(plan.dataset, new, gone, source)
    counts = Counter(plan.dataset.labels[new].tolist())
    return {"rows": [list(row) for row in ids(plan.dataset, new)], "by": by, "source": source,
            "labels": {class_title(plan.dataset, label): count for label, count in sorted(counts.items())},
            "earlier": [[row.row, request] for row, request in earlier.items()],
            **({"added": [list(row) for row in added]} if added else {})}


def _check_room(dataset: Dataset, new: np.ndarray, gone: np.ndarray, source: str) -> None:
    left = np.setdiff1d(dataset.train_rows, gone)
    if 2 * len(new) > len(left):
        raise UserError(f"{source}: {len(new)} rows are more than half of the {len(left)} that are left to train on; "
                        "train a new model without them")
    kept = np.bincount(dataset.labels[np.setdiff1d(left, new)], minlength=dataset.classes)
    for label in np.unique(dataset.labels[new]):
        if not kept[label]:
            raise UserError(f"{source}: these are all training images of class {class_title(dataset, label)} that are "
                            "left; a whole class is forgotten by a sweep of its own, which judges it otherwise")


def same_request(history: History, rows: Sequence[RowId]) -> Asked | None:
    """The pending request that names exactly these rows, those of earlier requests among them: the same command
    continues it."""
    named = {row.row for row in rows}
    return next((asked for asked in history.of("received", "begun", "accepted")
                 if {row.row for row in asked.rows} | {row for row, _ in asked.received.content.get("earlier", ())}
                 == named), None)


def check_new_try(history: History, rows: Sequence[RowId], begun: Mapping[str, Any], source: str) -> None:
    """Check that rows are not asked for again just as they were refused, which would come to the same.

    Args:
        begun: what a step for them would begin with: some of the content of a `begun` entry.

    Raises:
        UserError: they are.
    """
    for asked in history.of("refused"):
        last = asked.begun
        if (last is not None and last.requests == (asked.id,) and set(asked.rows) == set(rows)
                and all(last.content.get(key) == value for key, value in begun.items())):
            raise UserError(f"{source}: {asked.id} asked for these rows, and its model was refused: "
                            f"{'; '.join(asked.outcome.content['reasons'])}; ask with another --method, or other "
                            "requests.limits")


def judged(evidence: Mapping[str, float], limits: Limits) -> list[str]:
    """Why a model is refused, one line for each limit that it breaks; empty if it is accepted."""
    verdicts = []
    for name, limit in limits.model_dump().items():
        if limit is not None and name in evidence and evidence[name] > limit:
            verdicts.append(f"{name} is {evidence[name]:.2f}, above the limit of {limit:g}")
    return verdicts


def check_project(plan: Plan, history: History, store: Store, ledger: Ledger) -> None:
    """Check that the ledger belongs to this project: its name, network and data.

    Raises:
        UserError: it belongs to another project; or the files no longer have the data, and what is gone.
    """
    if history.opened is None:
        return
    place = f"ledger {ledger.uri}"
    theirs, mine = history.opened.content["project"], project(plan)
    before, after = (flat({key: facts[key] for key in ("name", "model")}) for facts in (theirs, mine))
    for key in dict.fromkeys([*before, *after]):
        if (before.get(key) or None) != (after.get(key) or None):
            raise UserError(f"{place}: of another project: its {key} is {before.get(key, 'not set')}, this config has "
                            f"{after.get(key, 'none')}")
    if theirs["dataset"] != mine["dataset"]:
        raise UserError(f"{place}: the data are not those that it began with: "
                        f"{lacking(plan.dataset, history, store)}. Bring back the files as they were, or "
                        f"search anew on these, without what was asked for: the sweep with --set "
                        f"'requests.forgotten=[\"{ledger.uri}\"]' and another --output")


def project(plan: Plan) -> dict[str, Any]:
    """What a ledger is bound to."""
    return {"name": plan.sweep.name, "model": plan.sweep.model.model_dump(), "dataset": plan.dataset.digest}


def purge_of(plan: Plan, output: Path, tracking: str, history: History, request: str, *, retire: bool) -> Purge:
    """The purge of a request that the model in production has forgotten: lists or deletes what was made from its rows.

    Args:
        tracking: the URI of MLflow.
        retire: as in `Purge`.

    Raises:
        UserError: there is no such request, or no model in production has forgotten it.
    """
    asked = history.requests.get(request)
    if asked is None:
        raise UserError(f"--purge {request}: no such request; there are {', '.join(history.requests) or 'none'}")
    if asked.promoted is None:
        raise UserError(f"--purge {request}: it is {asked.state}; a request is purged when the model that forgot it is "
                        "in production")
    original = history.original["weights"]
    earlier = [entry.content["model"] for entry in history.entries[:asked.promoted.number] if entry.kind == "promoted"]
    kept = {history.weights, *(each.outcome.content["model"]["weights"] for each in history.of("accepted")),
            *(() if plan.sweep.requests.adaptive else (original,))}
    steps = [dataset_rows(plan.dataset, [row for each in history.requests.values() for row in each.rows
                                         if each.received.number < entry.number])
             for entry in history.entries if entry.kind == "begun"]
    single = [dataset_rows(plan.dataset, each.rows) for each in history.requests.values()]
    return Purge(request, plan.dataset, dataset_rows(plan.dataset, asked.rows), plan.store(output), output, tracking,
                 output / PURGES, float(plan.sweep.attack.search.values.get("eps_init") or 0.0),
                 known=[*plan.sets.final, *plan.sets.held_out, *single, *steps], kept=frozenset(kept),
                 superseded=frozenset([original, *earlier]) - kept, names=_names(plan.dataset, asked), retire=retire)


def _names(dataset: Dataset, asked: Asked) -> list[str]:
    """What texts may call the rows of a request: the file that listed them, and the files of the pictures."""
    paths = dataset.paths
    return [asked.received.content["source"],
            *(() if paths is None else (paths[row] for row in dataset_rows(dataset, asked.rows)))]
