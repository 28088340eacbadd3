"""The attacks of the report that run finished models again, as pieces of work of their own; PROBES has them all.

Cost: for each probe a piece of work for each final model, each original and each retrained model of each final forget
set, see the probes for each; all are independent, so time falls with the number of workers.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import ray

from amun_ray.runtime.bench import SharedWorkspace
from amun_ray.runtime.queue import make_missing
from amun_ray.stages.boundary import APOLLO, BOUNDARY
from amun_ray.stages.cases import OpenCase
from amun_ray.stages.inspection import CONNECTIVITY, DISTANCE, LINEAR_PROBE, RELEARNING
from amun_ray.stages.robustness import AUTOATTACK
from amun_ray.stages.subject import Measured, Probe, Read, Scores, Spent, Subject, drawn, some
from amun_ray.storage.sharing import make_once
from amun_ray.storage.store import Unit
from amun_ray.work.artifacts import read_array, store_array
from amun_ray.work.evidence import Models
from amun_ray.work.units import Trained, Unlearned

PROBES: dict[str, Probe] = {"boundary": BOUNDARY, "apollo": APOLLO, "linear_probe": LINEAR_PROBE,
                            "distance": DISTANCE, "connectivity": CONNECTIVITY, "relearning": RELEARNING,
                            "autoattack": AUTOATTACK}
Key = tuple[str | None, str, int]  # weights, forget set, original


class ProbeJob(NamedTuple):
    """A piece of work."""

    probe: str
    subject: Subject
    unit: Unit


@dataclass(frozen=True, eq=False)
class Probes:
    """The pieces of work of a sweep, and the scores that follow from them.

    `unlearned`: models that finished; `chosen`: the names of the probes.
    """

    workspace: SharedWorkspace
    models: Models
    unlearned: Sequence[Unlearned]
    chosen: Collection[str]

    @cached_property
    def subjects(self) -> list[Subject]:
        """Every model to read, each once: the unlearned ones, then by forget set the retrained ones and originals."""
        cases: dict[str, dict[int, OpenCase]] = {}
        for each in self.unlearned:
            assert isinstance(each.run.case, OpenCase), "a final model keeps its case"
            cases.setdefault(each.run.case.name, {})[each.run.case.original] = each.run.case
        subjects = [self._subject(Trained(str(each.run.contender), each.run.unit, each.result["weights"], 0.0),
                                  [each.run.case], each.run.case.original) for each in self.unlearned]
        for name, by_original in cases.items():
            subjects += [self._subject(model, list(by_original.values()), k)
                         for k, model in enumerate(self.models.retrained[name])]
            subjects += [self._subject(model, [by_original[k]], k)
                         for k, model in enumerate(self.models.originals) if k in by_original]
        return subjects

    @cached_property
    def jobs(self) -> list[ProbeJob]:
        """What is to be read of which model."""
        return [ProbeJob(name, piece, unit) for name, probe in PROBES.items() if name in self.chosen
                for subject in self.subjects for piece in probe.pieces(subject)
                if (unit := probe.unit(self.workspace, piece)) is not None]

    def make(self, options: dict[str, Any], spent: Spent) -> None:
        """Read what the store has no reading of, as Ray tasks."""
        if not self.jobs:
            return
        shared, task = ray.put(self.workspace), _read.options(max_retries=3, **options)
        new = make_missing(self.workspace.store, self.jobs, lambda job: job.unit, lambda job: task.remote(shared, job),
                           shown=("probing", "readings"))
        for job in {job.unit.digest: job for job in self.jobs}.values():
            spent(job.probe, self.workspace.store.made(job.unit)["seconds"], job.unit.digest not in new)

    def scores(self, weights: str | None, name: str, original: int) -> Scores:
        """Of a model that should have forgotten the set `name`, made from the `original`-th one; nothing where it was
        not read. It is held against the other models that never saw the set."""
        scores: Scores = {}
        for probe, read in self._read.items():
            if (model := read.get((weights, name, original))) is not None:
                never = [read[each.weights, name, original] for each in self.models.retrained[name]
                         if each.weights != weights]
                scores |= PROBES[probe].scores(model, never, original)
        return scores

    @cached_property
    def _read(self) -> dict[str, dict[Key, Read]]:
        """Of each probe."""
        store, pieces = self.workspace.store, {name: dict[Key, dict[str, Read]]() for name in PROBES
                                               if name in self.chosen}
        for name, subject, unit in self.jobs:
            arrays = {file: read_array(store, unit, file) for file in PROBES[name].files}
            read = Read(subject, Measured(store.made(unit).get("numbers", {}), arrays))
            for case in subject.cases:
                pieces[name].setdefault((subject.weights, case.name, case.original), {})[unit.digest] = read
        return {name: {key: Read(next(iter(parts.values())).subject,
                                 Measured.joined(part.reading for part in parts.values()))
                       for key, parts in models.items()} for name, models in pieces.items()}

    def _subject(self, model: Trained, cases: Sequence[Any], number: int) -> Subject:
        assert model.weights is not None, "only references are stored without weights"
        name, workspace = cases[0].name, self.workspace
        split = workspace.split(cases[0].rows, self.models.evidence.labels)
        retrained = self.models.retrained[name]
        others = [each for each in (*retrained[number:], *retrained[:number]) if each.weights != model.weights]
        forget, unseen, retain = (some(getattr(split, part), workspace, name, part)
                                  for part in ("forget", "unseen", "retain"))
        attack = workspace.sweep.audit.autoattack
        tested = drawn(split.test, attack.samples if attack else 0, workspace, "autoattack")
        return Subject(model.name, model.unit, model.weights, cases, forget, unseen, retain, tested,
                       self.models.originals[number], others)


@ray.remote
def _read(workspace: SharedWorkspace, job: ProbeJob) -> bool:
    return make_once(workspace.store, job.unit, lambda: make_reading(workspace, job))


def make_reading(workspace: SharedWorkspace, job: ProbeJob) -> None:
    """Read one model, in a worker."""
    store, started = workspace.store, time.monotonic()
    reading = PROBES[job.probe].read(workspace, job.subject)
    for file, array in reading.arrays.items():
        store_array(store, job.unit, file, array)
    seconds = time.monotonic() - started
    store.finish(job.unit, {"numbers": dict(reading.numbers), "seconds": seconds}, list(reading.arrays))
