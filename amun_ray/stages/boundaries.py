"""What an attacker reads who knows AMUN: distances to the decision boundary, and answers at adversarial images.

Cost: a piece of work for each final model, each original and each retrained model of each final forget set; about eight
forward and backward passes on at most `audit.samples` forgotten and as many unseen images, and one forward pass on the
adversarial images (for a retrained model, of every original). All are independent. Storage: one number per image.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import ray
import torch

from amun_ray.attacks import AttackSettings, craft
from amun_ray.base.seeds import generator
from amun_ray.base.tensors import shared_tensor, to_unit
from amun_ray.metrics import adversarial_label, moved_boundary, predict
from amun_ray.runtime.bench import SharedWorkspace, bench, load_state
from amun_ray.runtime.queue import make_missing
from amun_ray.stages.cases import OpenCase
from amun_ray.storage.sharing import make_once
from amun_ray.storage.store import Unit
from amun_ray.work.artifacts import numpy_state, read_array, store_array
from amun_ray.work.evidence import Models
from amun_ray.work.units import WEIGHTS, Unlearned, rows_digest

DISTANCES, MARGINS = "distances.npy", "margins.npy"
Scores = dict[str, float]


@dataclass(frozen=True, eq=False)
class Reading:
    """A model to read: where its weights are, and the rows of D_F and of unseen images to read it at, sorted."""

    title: str
    model: Unit
    weights: str  # their digest
    cases: Sequence[OpenCase]  # of one forget set: whose adversarial images it is shown
    forget: np.ndarray  # (F,)
    unseen: np.ndarray  # (U,)

    @property
    def key(self) -> tuple[str | None, str]:
        return self.weights, self.cases[0].name

    def unit(self, workspace: SharedWorkspace) -> Unit:
        return Unit("boundaries", {
            "weights": self.weights, "dataset": workspace.data_digest, "model": workspace.network.identity["model"],
            "forget": rows_digest(self.forget), "unseen": rows_digest(self.unseen),
            "adversarial": [case.lineage["adversarial"] for case in self.cases]})


class Read(NamedTuple):
    """What was read of a model."""

    forget: np.ndarray  # (F,) distances of the forgotten images, pixel units
    unseen: np.ndarray  # (U,)
    margins: dict[int, np.ndarray]  # by original (F,): that of the label at its adversarial image; NaN without one


@dataclass(frozen=True, eq=False)
class Boundaries:
    """The pieces of work of a sweep, and the scores that follow from them. `unlearned`: models that finished."""

    workspace: SharedWorkspace
    models: Models
    unlearned: Sequence[Unlearned]

    @cached_property
    def readings(self) -> list[Reading]:
        """Every model to read, each once."""
        cases: dict[str, dict[int, OpenCase]] = {}
        for one in self.unlearned:
            assert isinstance(one.run.case, OpenCase), "a final model keeps its case"
            cases.setdefault(one.run.case.name, {})[one.run.case.original] = one.run.case
        found = [self._reading(str(one.run.contender), one.run.unit, one.result["weights"], [one.run.case])
                 for one in self.unlearned]
        for name, by_original in cases.items():
            found += [self._reading(one.name, one.unit, one.weights, list(by_original.values()))
                      for one in self.models.retrained[name]]
            found += [self._reading(one.name, one.unit, one.weights, [by_original[k]])
                      for k, one in enumerate(self.models.originals) if k in by_original]
        return found

    def scores(self, weights: str | None, name: str, original: int) -> Scores:
        """Of a model that should have forgotten the set `name`, made from the `original`-th one, in percent.

        A retrained model is compared with the others, or with itself where it is alone. Nothing where it was not read.
        """
        found = self._read.get((weights, name))
        if found is None or original not in found.margins:
            return {}
        never = [self._read[one.weights, name] for one in self.models.retrained[name] if one.weights != weights]
        moved = moved_boundary(found.forget, found.unseen, *(
            np.array([getattr(one, part) for one in never]).reshape(len(never), len(getattr(found, part)))
            for part in ("forget", "unseen")))
        others = np.array([one.margins[original] for one in never or [found]])
        known = np.isfinite(found.margins[original])
        return moved | (adversarial_label(found.margins[original][known], others[:, known]) if known.any() else {})

    @cached_property
    def _read(self) -> dict[tuple[str | None, str], Read]:
        store = self.workspace.store
        found: dict[tuple[str | None, str], Read] = {}
        for one in self.readings:
            unit = one.unit(self.workspace)
            distances, margins = (read_array(store, unit, file) for file in (DISTANCES, MARGINS))
            forget, unseen = np.split(distances, [len(one.forget)])
            known = found[one.key].margins if one.key in found else {}
            found[one.key] = Read(forget, unseen, known | {
                case.original: row for case, row in zip(one.cases, margins, strict=True)})
        return found

    def _reading(self, title: str, model: Unit, weights: str | None, cases: Sequence[Any]) -> Reading:
        assert weights is not None, "only references are stored without weights"
        workspace = self.workspace
        split = workspace.split(cases[0].rows, self.models.evidence.labels)
        return Reading(title, model, weights, cases, *(
            _some(rows, workspace, cases[0].name, part) for part, rows in (("forget", split.forget),
                                                                           ("unseen", split.unseen))))


def _some(rows: np.ndarray, workspace: SharedWorkspace, *purpose: str) -> np.ndarray:
    """At most `audit.samples` of the rows, drawn at random, in ascending order."""
    order = torch.randperm(len(rows), generator=generator(workspace.sweep.seed, "boundary", *purpose)).numpy()
    return np.sort(rows[order[:workspace.sweep.audit.samples]])


def read_boundaries(boundaries: Boundaries, options: dict[str, Any]) -> Iterator[tuple[float, bool]]:
    """Read the models that the store has no reading of, as Ray tasks; the seconds that each piece took, and whether an
    earlier start made it."""
    workspace = boundaries.workspace
    jobs = [(reading, reading.unit(workspace)) for reading in boundaries.readings]
    shared, task = ray.put(workspace), _read.options(max_retries=3, **options)
    new = make_missing(workspace.store, jobs, lambda job: job[1], lambda job: task.remote(shared, *job),
                       shown=("reading boundaries", "models"))
    for unit in {unit.digest: unit for _, unit in jobs}.values():
        yield workspace.store.made(unit)["seconds"], unit.digest not in new


@ray.remote
def _read(workspace: SharedWorkspace, reading: Reading, unit: Unit) -> bool:
    return make_once(workspace.store, unit, lambda: make_reading(workspace, reading, unit))


def make_reading(workspace: SharedWorkspace, reading: Reading, unit: Unit) -> None:
    """Read one model, in a worker."""
    here, started = bench(workspace), time.monotonic()
    model = load_state(workspace.new_model(0), numpy_state(workspace.store, reading.model, WEIGHTS)).to(here.device)
    part = here.part(np.concatenate([reading.forget, reading.unseen]))
    found = craft(model, to_unit(part.own_images), part.labels, settings=AttackSettings())
    margins = np.stack([_margins(model, case, reading.forget) for case in reading.cases])
    store_array(workspace.store, unit, DISTANCES, found.l2.astype(np.float32))
    store_array(workspace.store, unit, MARGINS, margins)
    workspace.store.finish(unit, {"seconds": time.monotonic() - started}, [DISTANCES, MARGINS])


def _margins(model: torch.nn.Module, case: OpenCase, forget: np.ndarray) -> np.ndarray:
    """(F,) by how much the stored label leads at the adversarial images of the rows `forget`; NaN where there is
    none."""
    images, labels, places = ray.get(list(case.adversarial))
    rows = np.sort(case.rows)[places]
    wanted = np.isin(rows, forget)
    margins = np.full(len(forget), np.nan, np.float32)
    if wanted.any():
        logits = predict(model, shared_tensor(images)[torch.from_numpy(wanted)])
        label = torch.from_numpy(labels[wanted])[:, None]
        lead = logits.gather(1, label) - logits.scatter(1, label, -torch.inf).amax(1, keepdim=True)
        margins[np.searchsorted(forget, rows[wanted])] = lead[:, 0].numpy()
    return margins
