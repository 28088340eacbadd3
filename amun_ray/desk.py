"""Where deletion requests come in: what each option of `amun-forget` does with a config, its output and its ledger."""

import argparse
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from amun_ray import data, sweep
from amun_ray.base.databases import database_uri
from amun_ray.base.errors import UserError
from amun_ray.base.files import expanded, make_private, write_whole
from amun_ray.base.log import counted, say
from amun_ray.config.schema import Sweep
from amun_ray.data.dataset import Dataset
from amun_ray.data.keep import Keep
from amun_ray.data.splits import random_forget
from amun_ray.ledger import History, Ledger, RowId, is_due
from amun_ray.reporting.proof import PROOFS, unproved
from amun_ray.storage.store import Store
from amun_ray.work.pictures import Begun, as_begun, keep_pictures
from amun_ray.work.plan import Plan
from amun_ray.work.production import (
    Chosen,
    check_new_try,
    check_project,
    choose,
    ids,
    named_rows,
    project,
    received,
    same_request,
    table,
)
from amun_ray.work.trainings import settled

SHOWN, SHARE = 3, 0.02  # requests of the embedded default, and how much of the training set each of them names


def load_passing(name: str, *, keep: Keep, **settings: Any) -> Dataset:
    """`data.load`, except that no decoded pixels are left behind: a purge must not make what it is to delete."""
    return data.load(name, keep=keep.passing(), **settings)


@dataclass
class Desk:
    """One config, its output folder (absolute), its ledger, and the command line."""

    config: Sweep
    output: Path
    ledger: Ledger
    options: argparse.Namespace

    def serve(self) -> int:
        """Do what the command line says; returns the exit code."""
        options = self.options
        if options.shown and table(self.plan, self.store, History(())) is None:
            sweep.run(self.config, self.output)  # the default alone: its settings take two minutes to find
        check_project(self.plan, self.ledger.history, self.store, self.ledger)
        self._prove()
        if options.shown:
            return max(self._show())
        if options.purge:
            self._purge(options.purge)
            return 0
        self._purge_promoted()  # before a request that is refused
        if options.request is not None:
            self._receive(options.request)
        return self._work()

    @cached_property
    def files(self) -> Plan:
        """The plan of the data as the user's files are now."""
        return sweep.planned(self.config, load_passing if self.options.purge else data.load, self.output)

    @cached_property
    def begun(self) -> Begun | None:
        """The data of the ledger, where the files have changed since it began and still have all of them."""
        begun = as_begun(self.files.dataset, self.ledger.history, self.store)
        if begun is not None:
            say(f"the data are other ones than when the ledger began, and still have all of its pictures: "
                f"{begun.said(self.files.dataset)}. Models, scores and D_R stay those of the pictures of then")
        return begun

    @cached_property
    def plan(self) -> Plan:
        """The plan of the data of the ledger."""
        if self.begun is None:
            return self.files
        return settled(replace(self.files, dataset=self.begun.dataset, memorised=None), self.store)

    @property
    def store(self) -> Store:
        return self.files.store(self.output)

    @property
    def _name(self) -> str:
        return self.config.requests.model or self.config.name

    @property
    def _chosen(self) -> Chosen:
        rows = table(self.plan, self.store, self.ledger.history)
        if rows is None:
            raise UserError(f"no finished sweep of this config in {self.store.uri}: its settings are what a request is "
                            f"met with. First: python amun_ray/sweep.py --config {self.options.config or 'default'} "
                            f"--output {self.output}")
        return choose(rows, self.options.method)

    def _receive(self, path: str) -> None:
        """Write a request into the ledger, unless it is there already and under way."""
        chosen = self._chosen  # before anything is written: a request that cannot be met is not taken
        (rows, added), section = self._named(path), self.config.requests
        named = ids(self.plan.dataset, rows)
        while True:
            history = self.ledger.history
            same = same_request(history, named)
            if same is not None:
                say(f"{path}: these rows are {same.id} already, which goes on ({same.state})")
                return
            if history.opened is not None:
                check_new_try(history, named, {"settings": chosen.as_json(), "limits": section.limits.model_dump(),
                                               "adaptive": section.adaptive, "model": history.weights}, path)
            content = received(self.plan, history, rows, path, self.options.by, added=added)
            self._begin(history)
            entry = self.ledger.append("received", [history.next_id], content, expected=len(history.entries) or 1)
            if entry is not None:
                break
        (request,) = entry.requests
        if content["earlier"]:
            say(f"{path}: {len(content['earlier'])} of {len(rows)} rows were asked for before, as "
                f"{', '.join(dict.fromkeys(asked for _, asked in content['earlier']))}")
        if added:
            say(f"{path}: not counted: {counted(len(added), 'row')} that came after the ledger began. No model was "
                "trained on them, nor will a later sweep be with this ledger in requests.forgotten")
        say(f"{request}: {counted(len(content['rows']), 'row')} of {path}")

    def _named(self, path: str) -> tuple[np.ndarray, list[RowId]]:
        """The rows that a file names, and the ids of those that came to the user's files after the ledger began.

        Raises:
            UserError: as `named_rows`; or all came later.
        """
        rows = named_rows(self.files, path)
        if self.begun is None:
            return rows, []
        trained, added = self.begun.rows_of(rows)
        if not len(trained):
            raise UserError(f"{path}: names {counted(len(rows), 'row')}, none of them older than the ledger; no model "
                            "was trained on them, and there is nothing to forget: delete them from your files")
        return trained, ids(self.files.dataset, added)

    def _begin(self, history: History) -> None:
        """The first entry of a ledger, where there is none."""
        if history.opened is None:
            from amun_ray.stages.production import original_of

            make_private(self.output)
            keep_pictures(self.plan.dataset, self.store)
            loaded = {key: value for key, value in self.plan.identity.items() if key == "checkpoints"}
            self.ledger.append("opened", (), {
                "project": project(self.plan), "loaded": loaded, "registry": self._name,
                "original": original_of(self.plan, self.output)}, expected=0)

    def _work(self) -> int:
        """Do what is due, then promote and purge what was asked to be. Returns the exit code."""
        promote = self.options.promote or self.config.requests.promote == "auto"
        history, code = self.ledger.history, 0
        if self._due() is not None or (promote and history.of("accepted")):
            code = self._step(promote)
        else:
            later = history.of("received")
            say("nothing is due: " + (f"waiting: {counted(len(later), 'request')}, "
                                      f"{counted(sum(len(asked.rows) for asked in later), 'row')}" if later else
                                      "no request waits"))
        self._purge_promoted()
        return code

    def _step(self, promote: bool) -> int:
        """Do what is due, one step after another, each one promoted where that is asked for. Returns the exit code."""
        chosen = self._chosen
        from amun_ray.reporting.standing import outcome
        from amun_ray.stages.production import opened_production

        code, problem = 0, None
        with self.ledger.working(), opened_production(self.plan, self.output, self.ledger, self._name) as production:
            try:
                if promote:
                    production.promote()
                while (waiting := self._due()) is not None:
                    finished = production.run(chosen, waiting, promote=promote)
                    say("\n".join(outcome(finished)))
                    code = max(code, int(not finished.content["accepted"]))
            except UserError as error:  # it is said below: the sweep, in whose run this is logged, has not failed
                problem = error
        if problem is not None:
            raise problem
        return code

    def _prove(self) -> None:
        """Write the proofs again that a kill left behind the ledger."""
        last = unproved(self.ledger.history, self.output / PROOFS)
        if last is not None:
            from amun_ray.stages.purges import prove

            with self.ledger.working():
                prove(self.ledger.history, last, self.output, self._tracking)

    @property
    def _tracking(self) -> str:
        """The URI of MLflow."""
        given = self.config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
        return expanded(given) if given else database_uri(self.output / "mlflow.db")

    def _purge_promoted(self) -> None:
        """With `purge: auto`, purge what was promoted; also what a kill left of it."""
        if self.config.requests.purge == "auto":
            for asked in self.ledger.history.of("promoted"):
                self._purge(asked.id)

    def _purge(self, request: str) -> None:
        """Delete what was made from the rows of a request, and note it; or only list it."""
        from amun_ray.stages.purges import purge

        purge(self.plan, self.output, self.ledger, self._tracking, request, retire=self.options.retire,
              dry_run=self.options.dry_run)

    def _due(self) -> list[str] | None:
        """The requests of the next step; None where nothing is due."""
        history = self.ledger.history
        if history.begun is not None:
            return []
        return [asked.id for asked in history.of("received")] if self._is_due(history) else None

    def _is_due(self, history: History) -> bool:
        batch = self.config.requests.batch
        return is_due(history.of("received"), batch.rows, batch.days)

    def _show(self) -> list[int]:
        """The requests of the embedded default, as files that a user could have written, one after another."""
        folder, dataset = self.output / "requests", self.plan.dataset
        folder.mkdir(exist_ok=True)
        drawn = random_forget(dataset.train_size, SHOWN * int(SHARE * dataset.train_size), self.config.seed, "shown",
                              exclude=dataset.train_rows[:0])
        codes = []
        for number, rows in enumerate([drawn[place::SHOWN] for place in range(SHOWN)], 1):
            path = folder / f"request-{number}.csv"
            lines = ["index", *map(str, dataset.file_numbers[rows])]
            write_whole(path, "\n".join([*lines, ""]).encode())
            try:
                self._receive(str(path))
                codes.append(self._work())
            except UserError as error:
                say(str(error))
                codes.append(0)
        return codes
