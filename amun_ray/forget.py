"""Deletion in production: the model that serves forgets one request after another, and a ledger keeps the record.

    python amun_ray/forget.py                                            the embedded default: three requests on digits
    python amun_ray/forget.py --config mine.yaml --request rows.csv      what a finished sweep found, on today's request
    python amun_ray/forget.py --config mine.yaml --due                   for cron: what is due, and nothing otherwise
    python amun_ray/forget.py --config mine.yaml --status                what waits, what was done, what is due
"""

import argparse
import os
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

if (__name__ == "__main__" and os.path.realpath(sys.path[0]) == os.path.dirname(os.path.realpath(__file__))
        and os.path.exists(os.path.join(sys.path[0], "__init__.py"))):  # as in sweep.py
    del sys.path[0]

from amun_ray import data, sweep
from amun_ray.base.command import ended
from amun_ray.base.errors import UserError
from amun_ray.base.files import write_whole
from amun_ray.base.log import say
from amun_ray.config.file import load as load_config
from amun_ray.config.schema import Sweep
from amun_ray.data.splits import random_forget
from amun_ray.ledger import History, Ledger
from amun_ray.storage.store import Store
from amun_ray.work.plan import Plan
from amun_ray.work.production import (
    Chosen,
    check_project,
    choose,
    ids,
    is_due,
    keep_pictures,
    named_rows,
    project,
    purge_of,
    received,
    same_request,
    table,
)

SHOWN, SHARE = 3, 0.02  # requests of the embedded default, and how much of the training set each of them names


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; a mistake in it ends with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="amun-forget", formatter_class=argparse.RawDescriptionHelpFormatter, description=__doc__,
        epilog="The same command again goes on where it was stopped. docs/deletion.md has the whole. Exit codes: 0 "
               "done, 1 the new model was refused, 2 a mistake in what was given, 130 stopped by Ctrl-C.")
    parser.add_argument("--config", metavar="NAME|PATH", help="the config of a finished sweep (default: default)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", dest="overrides",
                        help="change one setting of the config, as for the sweep; repeatable")
    parser.add_argument("--allow-code", action="append", default=[], metavar="MODULE",
                        help="let the config name code of this module, as for the sweep; repeatable")
    parser.add_argument("--output", type=Path, metavar="DIR", help="the sweep's folder (default: amun_output/NAME)")
    parser.add_argument("--by", default="", metavar="TEXT", help="who asked, for the ledger")
    parser.add_argument("--method", metavar="METHOD[:ACCESS]",
                        help="another row of the sweep's table than the one with the least Avg. Gap")
    parser.add_argument("--promote", action="store_true",
                        help="give an accepted model the alias; without a request, the one that waits for it")
    parser.add_argument("--dry-run", action="store_true", help="with --purge: list what would be deleted, and why")
    parser.add_argument("--retire", action="store_true",
                        help="with --purge: delete also the models that were trained on these rows")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--request", metavar="FILE",
                      help="forget the rows that a file names: row numbers, or a YAML file as the section `forget`")
    what.add_argument("--due", action="store_true", help="do what is due, and nothing otherwise")
    what.add_argument("--status", action="store_true", help="show what waits, what was done, what is due")
    what.add_argument("--purge", metavar="REQUEST",
                      help="delete what was made from the rows of a request that the model in production has forgotten")
    what.add_argument("--verify", action="store_true", help="check that no entry was changed or removed")
    options = parser.parse_args(arguments)
    options.shown = not any((options.request, options.due, options.status, options.verify, options.promote,
                             options.purge))
    if options.shown and options.config is not None:
        parser.error("say what to do: --request FILE, --due, --promote, --status, --verify or --purge REQUEST")
    if (options.dry_run or options.retire) and not options.purge:
        parser.error("--dry-run and --retire belong to --purge REQUEST")
    return options


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = parse(arguments)

    def work() -> int:
        config = load_config(options.config or "default", options.overrides)
        return Desk(config, (options.output or Path("amun_output", config.name)).absolute(), options).serve()

    return ended(work, arguments, options.allow_code)


@dataclass
class Desk:
    """Where requests come in: one config, its output folder and its ledger."""

    config: Sweep
    output: Path
    options: argparse.Namespace

    def serve(self) -> int:
        """Do what the command line says; returns the exit code."""
        options = self.options
        if options.status or options.verify:
            return self._tell()
        if options.shown and table(self.plan, self.store, History(())) is None:
            sweep.run(self.config, self.output)  # the default alone: its settings take two minutes to find
        check_project(self.plan, self.ledger.history, self.store, self.ledger)
        if options.shown:
            return max(self._show())
        if options.purge:
            return self._purge(options.purge)
        wanted = [] if options.request is None else [self._receive(options.request)]
        return self._work(wanted)

    @cached_property
    def plan(self) -> Plan:
        return sweep.planned(self.config, data.load, self.output)

    @property
    def store(self) -> Store:
        return self.plan.store(self.output)

    @cached_property
    def ledger(self) -> Ledger:
        uri = self.config.requests.ledger or f"sqlite:///{self.output / 'ledger.db'}"
        return Ledger(uri, self.output / "ledger.anchor")

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

    def _tell(self) -> int:
        from amun_ray.reporting.standing import standing

        history = self.ledger.history
        if not history.entries:
            raise UserError(f"no ledger at {self.ledger.uri}; it begins with the first --request")
        if self.options.verify:
            first, last = history.entries[0], history.entries[-1]
            say(f"{len(history.entries)} entries, from {first.time} to {last.time}: none was changed or removed. The "
                f"last digest: {last.digest}")
        else:
            address = f"models:/{self._name}@{self.config.requests.alias}"
            say("\n".join(standing(history, self.config.requests.batch, address)))
        return 0

    def _receive(self, path: str) -> str:
        """Write a request into the ledger; returns its id, also of one that is there already and under way."""
        self._chosen  # noqa: B018  before anything is written: a request that cannot be met is not taken
        rows = named_rows(self.plan, path)
        while True:
            history = self.ledger.history
            same = same_request(history, ids(self.plan.dataset, rows))
            if same is not None:
                say(f"{path}: these rows are {same.id} already, which goes on ({same.state})")
                return same.id
            content = received(self.plan, history, rows, path, self.options.by)
            self._begin(history)
            entry = self.ledger.append("received", [history.next_id], content, expected=len(history.entries) or 1)
            if entry is not None:
                break
        (request,) = entry.requests
        if content["earlier"]:
            say(f"{path}: {len(content['earlier'])} of {len(rows)} rows were asked for before, as "
                f"{', '.join(dict.fromkeys(asked for _, asked in content['earlier']))}")
        say(f"{request}: {len(content['rows'])} rows of {path}")
        return request

    def _begin(self, history: History) -> None:
        """The first entry of a ledger, where there is none."""
        if history.opened is None:
            from amun_ray.stages.production import original_of

            self.output.mkdir(parents=True, exist_ok=True)
            keep_pictures(self.plan, self.store)
            loaded = {key: value for key, value in self.plan.identity.items() if key == "checkpoints"}
            self.ledger.append("opened", (), {
                "project": project(self.plan), "loaded": loaded, "registry": self._name,
                "original": original_of(self.plan, self.output)}, expected=0)

    def _work(self, requests: list[str]) -> int:
        """Do what is due, one step after another; then promote what was asked to be. Returns the exit code."""
        wants, promote = self.config.requests, self.options.promote or self.config.requests.promote == "auto"
        history = self.ledger.history
        due = history.begun is not None or is_due(history.of("received"), wants.batch)
        if not due and not (promote and history.of("accepted")):
            later = history.of("received")
            say(f"nothing is due: {len(later)} requests with {sum(len(one.rows) for one in later)} rows wait")
            return 0
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
        if wants.purge == "auto":
            for asked in self.ledger.history.of("promoted"):
                self._purge(asked.id)
        return code

    def _purge(self, request: str) -> int:
        """Delete what was made from the rows of a request, and note it; or only list it."""
        from amun_ray.reporting.proof import write_proof
        from amun_ray.stages.production import PROOFS
        from amun_ray.work.purge import table as listing

        with self.ledger.working():
            history = self.ledger.history
            purge = purge_of(self.plan, self.output, self._tracking, history, request, retire=self.options.retire)
            found = purge.listed()
            say(f"{request}: {listing(found)}")
            if self.options.dry_run:
                return 0
            self.ledger.append("purged", [request], purge.run())
            write_proof(self.ledger.history, request, self.output / PROOFS, {})
        say("\n".join([f"{request} is purged: a second search finds nothing more", *purge.limits()]))
        return 0

    @property
    def _tracking(self) -> str:
        return (self.config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")
                or f"sqlite:///{self.output / 'mlflow.db'}")

    def _due(self) -> list[str] | None:
        """The requests of the next step; None where nothing is due."""
        history = self.ledger.history
        if history.begun is not None:
            return []
        waiting = history.of("received")
        return [asked.id for asked in waiting] if is_due(waiting, self.config.requests.batch) else None

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
                codes.append(self._work([self._receive(str(path))]))
            except UserError as error:
                say(str(error))
                codes.append(0)
        return codes


if __name__ == "__main__":
    sys.exit(main())
