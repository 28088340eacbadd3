"""How MLflow is told: one run for one finished piece of work, nothing twice, and nothing lost while it is away.

Everything is sent from the driver, a run at a time. A run carries the digest of its work in the tag `amun.key`, so a
sweep that is run again finds what it has logged. What MLflow does not take is kept in a spool, a folder on this
machine, and sent when it answers again: before the next event, at the end of the sweep, or at the next start.
"""

import logging
import os
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from amun_ray.base.errors import UserError
from amun_ray.base.files import expanded
from amun_ray.tracking.contact import MLFLOW_ERRORS, default_server, impatient, is_refusal, patient, reason
from amun_ray.tracking.entities import EXPERIMENT, REGISTERED, dataset, described
from amun_ray.tracking.event import KEY, Event, Spool, write_files
from amun_ray.tracking.pages import Pages
from amun_ray.tracking.places import settle, tidy

for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.store.model_registry", "mlflow.pyfunc",
              "mlflow.utils.environment"):
    logging.getLogger(noisy).setLevel(logging.ERROR)  # a migration log is not for the user of a sweep
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "1")  # nor are links between its lines

ALIAS = "best"
REQUEST, OBJECTIVE, SCORE = "request", "search.objective", "search.score"  # tags of what is registered
BATCH = {"params": 100, "tags": 100, "metrics": 500}  # per request that every MLflow server takes
PAUSE_SECONDS = 60  # how long MLflow is left alone after it did not answer
SHOWN_SECONDS = 5  # how often, at most, a page says how far a sweep is
PAGE = 1000  # runs in one answer
FINAL = ("FINISHED", "FAILED")


class Tracker:
    """One experiment of one MLflow server or database, and the spool for the time in which it is away."""

    def __init__(self, uri: str, experiment: str, artifacts: str | None, *, spool: Path,
                 say: Callable[[str], None]) -> None:
        """Connect, and create the experiment where there is none.

        Args:
            uri: of a server or a database; one that was moved or copied is settled first (see `places`).
            artifacts: the folder for the files of a local database, as URI; a server has its own.
            spool: the folder for events that MLflow does not take; made when there is one.
            say: is told, in one line, when MLflow goes away and when it is back.

        Raises:
            UserError: nothing answers at `uri`, it refuses, or it holds a password, which would end up in the logs.
        """
        if urlsplit(uri).password and not uri.startswith("sqlite"):
            raise UserError("tracking.uri holds a password; give MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD "
                            "in the environment instead")
        self.uri, self.experiment, self._spool, self._say = expanded(uri), experiment, Spool(spool), say
        self._away, self._ask_again, self._shown = False, 0.0, 0.0
        self._children: dict[str, dict[str, tuple[str, str]]] = {}  # sweep's run -> tag of a child -> its id and status
        if (moved := settle(self.uri)) is not None:
            say(moved)
        try:
            with impatient(), tidy(self.uri):
                self._client = MlflowClient(tracking_uri=self.uri)
                found = self._client.get_experiment_by_name(experiment)
                self._id = found.experiment_id if found else self._client.create_experiment(
                    experiment, artifacts, tags=EXPERIMENT)
        except MLFLOW_ERRORS as error:
            raise UserError(f"tracking.uri {uri!r}: MLflow cannot be used: {reason(error)}") from error
        self.pages = Pages(self._client, self.uri, self._id)

    @property
    def how_to_open(self) -> str:
        """What a person does to look at the runs: the server's address, or the command for a local database."""
        return self.uri if self.uri.startswith("http") else f"mlflow ui --backend-store-uri {shlex.quote(self.uri)}"

    def start(self, event: Event) -> str:
        """The id of the run of a sweep, or of a part of it below that, which its events name as parent or above; the
        run of an earlier start is taken up again.

        What earlier starts could not send is sent now.

        Raises:
            UserError: MLflow does not answer. A sweep that nobody could look at does not begin.
        """
        try:
            run = self._send(event)
        except MLFLOW_ERRORS as error:
            raise UserError(f"tracking.uri {self.uri!r}: MLflow cannot be used: {reason(error)}") from error
        self._away = bool(self._spool.waiting())
        self._catch_up()
        return run

    def log(self, event: Event) -> str | None:
        """Tell MLflow; returns the id of the run, or None where the event has to wait in the spool."""
        if time.monotonic() >= self._ask_again and self._catch_up():
            try:
                with patient():
                    return self._send(event)
            except Exception as error:  # an artifact store raises what its own library does
                self._failed(error)
        self._spool.add(event)
        return None

    def show(self, event: Event) -> None:
        """Tell MLflow what counts for the moment alone: not too often, and never later."""
        if not self._away and time.monotonic() >= self._shown + SHOWN_SECONDS:
            try:
                with impatient():
                    self._send(event)
            except Exception as error:
                self._failed(error)
            self._shown = time.monotonic()

    def close(self, key: str, status: str) -> None:
        """End the run of the sweep: `FINISHED`, `FAILED` or `KILLED`; says so where something still waits."""
        self._ask_again = 0.0
        self.log(Event(key=key, status=status))
        if left := self._spool.waiting():
            self._say(f"MLflow: {len(left)} events wait in {self._spool.folder}; the same command again sends them")

    def _catch_up(self) -> bool:
        """Send what waits, in order; whether MLflow answers. What it refuses stays where it is."""
        if not self._away:
            return True
        sent = 0
        try:
            with impatient():
                self._client.get_experiment(self._id)
            for path in self._spool.waiting():
                try:
                    with patient():
                        self._send(self._spool.read(path))
                except Exception as error:
                    if not is_refusal(error):
                        raise
                    self._say(f"MLflow refuses {path}: {reason(error)}")
                else:
                    self._spool.remove(path)
                    sent += 1
            self._away = False
        except Exception as error:
            self._failed(error)
        if sent:
            self._say(f"MLflow: {sent} events that had to wait are sent")
        return not self._away

    def _failed(self, error: Exception) -> None:
        """Leave MLflow alone for a while after it did not answer; a refusal is no reason to."""
        if is_refusal(error):
            self._say(f"MLflow refuses an event, which is kept in {self._spool.folder}: {reason(error)}")
            return
        if not self._away:
            self._say(f"MLflow does not answer; what it is to be told waits in {self._spool.folder}: {reason(error)}")
        self._away, self._ask_again = True, time.monotonic() + PAUSE_SECONDS

    def _send(self, event: Event) -> str:
        try:
            run = self._find(event)
            if run is None or event.parent is None:
                made = run is None
                run = self._create(event) if run is None else run
                self._fill(run, event, made=made)
            if event.parent is not None:
                self._children[event.parent][_tag(event)] = run, event.status or ""
        except BaseException:
            self._children.clear()  # what was cut off, or whose answer was lost, may have made a run
            raise
        if event.registered is not None:
            with tidy(self.uri):
                self._register(run, event, event.registered)
        return run

    def _find(self, event: Event) -> str | None:
        """The finished run of this key, or the one of the sweep; a child that is not finished was cut off and goes."""
        if event.parent is None:
            return next(iter(self._search(f"= '{_tag(event)}'")), (None,))[0]
        if event.parent not in self._children:
            self._children[event.parent] = {tag: (run, status) for run, status, tag in self._search(
                f"LIKE '{event.parent}:%'")}
        run, status = self._children[event.parent].get(_tag(event), (None, ""))
        if run is None or status in FINAL:
            return run
        for model in self._models(run):
            self._client.delete_logged_model(model)
        self._client.delete_run(run)
        return None

    def _search(self, condition: str) -> Iterator[tuple[str, str, str]]:
        """(run, status, tag) of every run whose tag fulfils a condition; those that are finished come last."""
        page: str | None = ""
        while page is not None:
            found = self._client.search_runs([self._id], f"tags.`{KEY}` {condition}", max_results=PAGE,
                                             order_by=["attributes.status DESC"], page_token=page or None)
            yield from ((run.info.run_id, run.info.status, run.data.tags[KEY]) for run in found)
            page = found.token

    def _create(self, event: Event) -> str:
        above = event.above or event.parent
        return self._client.create_run(
            self._id, run_name=event.name, start_time=_milliseconds() - round(1000 * event.seconds),
            tags={KEY: _tag(event)} | ({} if above is None else {"mlflow.parentRunId": above})).info.run_id

    def _fill(self, run: str, event: Event, *, made: bool) -> None:
        """Everything but the registration; the status last, so that a finished child is whole."""
        model = self._log_model(run, event) if event.model else None
        now, last = _milliseconds(), {name: step for name, _, step in sorted(event.metrics, key=itemgetter(2))}
        content: dict[str, Any] = {
            "params": [Param(key, str(value)) for key, value in event.params.items()] if made else [],
            "tags": [RunTag(key, str(value)) for key, value in {**event.tags, **described(event)}.items()],
            "metrics": [Metric(name, float(value), now, step, model_id=model if step == last[name] else None)
                        for name, value, step in event.metrics]}
        for kind, entries in content.items():
            for start in range(0, len(entries), BATCH[kind]):
                self._client.log_batch(run, **{kind: entries[start:start + BATCH[kind]]})
        if event.datasets and made:
            self._client.log_inputs(run, datasets=[dataset(*each) for each in event.datasets])
        if event.files:
            with tempfile.TemporaryDirectory() as folder:
                self._client.log_artifacts(run, str(write_files(Path(folder), event.files)))
        if event.status == "RUNNING":
            self._client.update_run(run, status=event.status)
        elif event.status is not None:
            self._client.set_terminated(run, event.status)

    def _log_model(self, run: str, event: Event) -> str:
        model = self._client.create_logged_model(
            self._id, name="model", source_run_id=run, tags=dict(event.tags),
            params={key: str(value) for key, value in event.params.items()})
        with tempfile.TemporaryDirectory() as folder:
            self._client.log_model_artifacts(model.model_id, str(write_files(Path(folder), event.model)))
        self._client.finalize_logged_model(model.model_id, "READY")
        self._client.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])
        return model.model_id

    def _register(self, run: str, event: Event, name: str) -> None:
        """The model of `run` as a version of `name`, if it is none yet, and the aliases `best` and `best-REQUEST`.

        An alias that points to another model moves only where its tags say that the search gave this one a
        lower score, by the same objective, for the same request.
        """
        try:
            self._client.create_registered_model(name, description=REGISTERED)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = [*self._client.search_model_versions(f"name = '{name}' and run_id = '{run}'")]
        if not versions:
            (model,) = self._models(run)
            with default_server(self.uri):  # where the registry of a local database looks the model up
                versions = [self._client.create_model_version(
                    name, f"models:/{model}", run, model_id=model, description=event.description,
                    tags={key: str(value) for key, value in event.tags.items() if not key.startswith("mlflow.")})]
        mine, held = versions[0], self._client.get_registered_model(name).aliases
        for alias in (ALIAS, *([f"{ALIAS}-{mine.tags[REQUEST]}"] if REQUEST in mine.tags else [])):
            other = self._client.get_model_version(name, held[alias]) if alias in held else None
            stays = other and _why_stay(other.tags, mine.tags)
            if other is None or not stays:
                self._client.set_registered_model_alias(name, alias, mine.version)
            elif other.version != mine.version:
                self._say(f"MLflow: models:/{name}@{alias} stays version {other.version}, {stays}; the model of this "
                          f"sweep is models:/{name}/{mine.version}")

    def _models(self, run: str) -> list[str]:
        found = self._client.search_logged_models([self._id], filter_string=f"source_run_id = '{run}'")
        return [model.model_id for model in found]


def _why_stay(held: Mapping[str, str], new: Mapping[str, str]) -> str | None:
    """Why an alias stays at a version with the tags `held` beside one with the tags `new`; None where it moves."""
    if REQUEST not in new or new[REQUEST] != held.get(REQUEST):
        return "which is of another request"
    if new[OBJECTIVE] != held[OBJECTIVE]:
        return "which was searched by another objective"
    return None if float(new[SCORE]) < float(held[SCORE]) else "whose search score is no higher"


def _tag(event: Event) -> str:
    """The value of the tag `amun.key`: two sweeps of one experiment may share a piece of work, but not its run."""
    return event.key if event.parent is None else f"{event.parent}:{event.key}"


def _milliseconds() -> int:
    return int(time.time() * 1000)


def registered_name(*parts: str) -> str:
    """A name that the model registry takes: the parts with `-` between them and for every unusual character."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", "-".join(parts))
