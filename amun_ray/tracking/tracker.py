"""Logging to MLflow: one run per finished piece of work, nothing twice, and nothing lost while MLflow is unreachable.

The driver sends everything, one run at a time. A run has the digest of its work in the tag `amun.key`, so a repeated
sweep finds what it has already logged. Events that fail are kept in a spool, a folder on this machine, and sent once
MLflow answers again: before the next event, at the end of the sweep, or at the next start.
"""

import logging
import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from amun_ray.base.errors import Damaged, UserError, first_line
from amun_ray.base.files import expanded
from amun_ray.base.flow import in_turn
from amun_ray.tracking.contact import MLFLOW_ERRORS, default_server, impatient, is_refusal, patient, reason
from amun_ray.tracking.entities import EXPERIMENT, LONGEST, NOTE, REGISTERED, WHOLE, dataset, shortened
from amun_ray.tracking.event import KEY, Event, Spool, write_files
from amun_ray.tracking.pages import Pages
from amun_ray.tracking.places import settle, tidy

for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.store.model_registry", "mlflow.pyfunc",
              "mlflow.utils.environment"):
    logging.getLogger(noisy).setLevel(logging.ERROR)  # the user of a sweep does not need the migration log
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "1")  # nor links between the sweep's lines

ALIAS = "best"
REQUEST, OBJECTIVE, SCORE = "request", "search.objective", "search.score"  # tags of registered models
BATCH = {"params": 100, "tags": 100, "metrics": 500}  # per request, accepted by every MLflow server
PAUSE_SECONDS, SHOWN_SECONDS = 60, 5  # until MLflow that did not answer is asked again; between updates of progress
PAGE = 1000  # runs in one answer
FINAL = ("FINISHED", "FAILED")


class Tracker:
    """One experiment on one MLflow server or database, and the spool for events while it is unreachable."""

    def __init__(self, uri: str, experiment: str, artifacts: str | None, *, spool: Path,
                 say: Callable[[str], None]) -> None:
        """Connect, and create the experiment if it does not exist.

        Args:
            uri: of a server or a database; a database that was moved or copied is corrected first (see `places`).
            artifacts: the folder for the files of a local database, as a URI; a server has its own.
            spool: the folder for unsent events; created with the first one.
            say: called with one line when MLflow stops answering and when it answers again.

        Raises:
            UserError: `uri` does not answer, it refuses, or it contains credentials, which would end up in logs.
        """
        self.uri, self.experiment, self._spool, self._say = expanded(uri), experiment, Spool(spool), say
        self._away, self._ask_again, self._shown = False, 0.0, 0.0
        self._children: dict[str, dict[str, tuple[str, str]]] = {}  # sweep's run -> tag of a child -> its id and status
        if moved := settle(self.uri):
            say(moved)
        try:
            with impatient(), tidy(self.uri):
                self._client = MlflowClient(tracking_uri=self.uri)
                known = self._client.get_experiment_by_name(experiment)
                self._id = known.experiment_id if known else self._client.create_experiment(experiment, artifacts)
                for key in EXPERIMENT.keys() - (known.tags if known else {}):
                    self._client.set_experiment_tag(self._id, key, EXPERIMENT[key])
        except MLFLOW_ERRORS as error:
            raise UserError(f"tracking.uri {uri!r}: MLflow cannot be used: {reason(error)}") from error
        self.pages = Pages(self._client, self.uri, self._id)

    @property
    def how_to_open(self) -> str:
        """How a person views the runs: the server's address, or the command for a local database."""
        return self.uri if self.uri.startswith("http") else f"mlflow ui --backend-store-uri {shlex.quote(self.uri)}"

    def start(self, event: Event) -> str:
        """The id of the run of a sweep, or of a part of it, which later events name as `parent` or `above`; the run of
        an earlier start is resumed.

        Sends events that earlier starts could not send.

        Raises:
            UserError: MLflow does not answer. A sweep does not begin if nobody could look at it.
        """
        try:
            run = self._send(event)
        except MLFLOW_ERRORS as error:
            raise UserError(f"tracking.uri {self.uri!r}: MLflow cannot be used: {reason(error)}") from error
        self._away = bool(self._spool.waiting())
        self._catch_up()
        return run

    @in_turn
    def log(self, event: Event) -> str | None:
        """Send an event; returns the id of its run, or None if the event is waiting in the spool."""
        if time.monotonic() >= self._ask_again and self._catch_up():
            try:
                with patient():
                    return self._send(event)
            except Exception as error:  # an artifact store raises its own library's errors
                self._failed(error)
        self._spool.add(event)
        return None

    @in_turn
    def show(self, event: Event) -> None:
        """Send an event that matters only now: not too often, and never from the spool."""
        if not self._away and time.monotonic() >= self._shown + SHOWN_SECONDS:
            try:
                with impatient():
                    self._send(event)
            except Exception as error:  # as in `log`; what matters only now is not kept
                self._failed(error)
            self._shown = time.monotonic()

    def close(self, key: str, status: str) -> None:
        """End the run of the sweep as `FINISHED`, `FAILED` or `KILLED`; reports events that are still waiting."""
        self._ask_again = 0.0
        self.log(Event(key=key, status=status))
        if left := self._spool.waiting():
            self._say(f"MLflow: {len(left)} events wait in {self._spool.folder}; the same command again sends them")

    def _catch_up(self) -> bool:
        """Send the waiting events, in order; returns whether MLflow answers. Refused events stay in the spool."""
        if not self._away:
            return True
        sent = 0
        try:
            with impatient():
                self._client.get_experiment(self._id)
            for path in self._spool.waiting():
                try:
                    event = self._spool.read(path)
                    with patient():
                        self._send(event)
                except Damaged as error:
                    self._spool.set_aside(path)
                    self._say(f"MLflow: {first_line(error)}; set aside, its work is logged again from the store")
                except Exception as error:  # as in `log`; the event stays in the spool
                    if not is_refusal(error):
                        raise
                    self._say(f"MLflow refuses {path}: {reason(error)}")
                else:
                    self._spool.remove(path)
                    sent += 1
            self._away = False
        except Exception as error:  # as in `log`; nothing has left the spool that was not sent
            self._failed(error)
        if sent:
            self._say(f"MLflow: {sent} waiting events have been sent")
        return not self._away

    def _failed(self, error: Exception) -> None:
        """Report the failure; pause if MLflow did not answer, but not after a refusal."""
        if is_refusal(error):
            self._say(f"MLflow refuses an event, which is kept in {self._spool.folder}: {reason(error)}")
            return
        if not self._away:
            self._say(f"MLflow does not answer; events will wait in {self._spool.folder}: {reason(error)}")
        self._away, self._ask_again = True, time.monotonic() + PAUSE_SECONDS

    def _send(self, event: Event) -> str:
        try:
            run = self._find(event)
            if run is None or event.parent is None:
                new = run is None or bool(event.params and not self._client.get_run(run).data.params)  # was cut off
                run = self._create(event) if run is None else run
                self._fill(run, event, new=new)
            if event.parent is not None:
                self._children[event.parent][_tag(event)] = run, event.status or ""
        except BaseException:
            self._children.clear()  # a request that was cut off, or whose answer was lost, may have created a run
            raise
        if event.registered is not None:
            with tidy(self.uri):
                self._register(run, event, event.registered)
        return run

    def _find(self, event: Event) -> str | None:
        """The finished run with this key, or the sweep's; an unfinished child was cut off and is deleted."""
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
        """(run, status, tag) of every run whose tag meets a condition; finished ones come last."""
        page: str | None = ""
        while page is not None:
            runs = self._client.search_runs([self._id], f"tags.`{KEY}` {condition}", max_results=PAGE,
                                            order_by=["attributes.status DESC"], page_token=page or None)
            yield from ((run.info.run_id, run.info.status, run.data.tags[KEY]) for run in runs)
            page = runs.token

    def _create(self, event: Event) -> str:
        tags = {KEY: _tag(event)} | ({"mlflow.parentRunId": above} if (above := event.above or event.parent) else {})
        return self._client.create_run(self._id, run_name=event.name, tags=tags,
                                       start_time=round(1000 * (event.ended - event.seconds))).info.run_id

    def _fill(self, run: str, event: Event, *, new: bool) -> None:
        """Log everything but the registration; the status last, so that a finished child is complete."""
        model = self._log_model(run, event) if event.model else None
        ended, last = round(1000 * event.ended), dict(sorted((name, step) for name, _, step in event.metrics))
        content: dict[str, Any] = {
            "params": [Param(key, str(value)) for key, value in event.params.items()] if new else [],
            "tags": [RunTag(key, str(value)) for key, value in event.tags.items()],
            "metrics": [Metric(name, float(value), ended, step, model_id=model if step == last[name] else None)
                        for name, value, step in event.metrics]}
        for kind, entries in content.items():
            for start in range(0, len(entries), BATCH[kind]):
                self._client.log_batch(run, **{kind: entries[start:start + BATCH[kind]]})
        if event.datasets:
            self._client.log_inputs(run, datasets=[dataset(*each) for each in event.datasets])
        files = {**event.files, **self._describe(run, event.description or "")}
        if files:
            with tempfile.TemporaryDirectory() as folder:
                self._client.log_artifacts(run, str(write_files(Path(folder), files)))
        if event.status == "RUNNING":
            self._client.update_run(run, status=event.status)
        elif event.status is not None:
            self._client.set_terminated(run, event.status, ended)

    def _describe(self, run: str, text: str) -> dict[str, bytes]:
        """Set a description, as much of it as MLflow takes; returns the whole as an artifact if it was cut."""
        for longest in LONGEST if text else ():
            try:
                self._client.set_tag(run, NOTE, shortened(text, longest))
                return {WHOLE: text.encode()} if len(text) > longest else {}
            except MlflowException as error:
                if longest == LONGEST[-1] or not is_refusal(error):
                    raise
        return {}

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
        """Register the model of `run` as a version of `name`, unless it is one, and set `best` and `best-REQUEST`.

        An alias that points to another model moves only if, by their tags, the search gave this one a lower score, with
        the same objective and for the same request.
        """
        try:
            self._client.create_registered_model(name, description=REGISTERED)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = [*self._client.search_model_versions(f"name = '{name}' and run_id = '{run}'")]
        if not versions:
            (model,) = self._models(run)
            with default_server(self.uri):  # the registry of a local database looks the model up there
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
        return [model.model_id for model in self._client.search_logged_models(
            [self._id], filter_string=f"source_run_id = '{run}'")]


def _why_stay(held: Mapping[str, str], new: Mapping[str, str]) -> str | None:
    """Why an alias stays at a version with tags `held` instead of moving to one with tags `new`; None if it moves."""
    if REQUEST not in new or new[REQUEST] != held.get(REQUEST):
        return "which is for another request"
    if new[OBJECTIVE] != held[OBJECTIVE]:
        return "which was searched with another objective"
    return None if float(new[SCORE]) < float(held[SCORE]) else "whose search score is no higher"


def _tag(event: Event) -> str:
    """The value of the tag `amun.key`: two sweeps in one experiment may share a piece of work, but not its run."""
    return event.key if event.parent is None else f"{event.parent}:{event.key}"
