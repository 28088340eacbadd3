"""The one room that knows MLflow: one function per event, and no run without all that belongs to it.

Everything is logged from the driver, in one batch per run. A run carries the digest of its work in the tag `amun.key`,
so a sweep that is run again finds what it has logged and logs nothing twice.
"""

import json
import logging
import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError
from torch import nn

from amun_ray import models
from amun_ray.errors import UserError
from amun_ray.models import checkpoint

for noisy in ("alembic", "mlflow.store.db.utils"):  # a migration log is not for the user of a sweep
    logging.getLogger(noisy).setLevel(logging.ERROR)

KEY = "amun.key"
BATCH = 100  # parameters per request that every MLflow server takes
FIRST_CONTACT_SECONDS = 10
MODEL, WEIGHTS = "model.json", "weights.safetensors"


class Tracker:
    """One experiment of one MLflow server or database."""

    def __init__(self, uri: str, experiment: str, artifacts: str | None) -> None:
        """Connect, and create the experiment where there is none; `artifacts` is the folder for a local database.

        Raises:
            UserError: nothing answers at `uri`, it refuses, or it holds a password, which would end up in the logs.
        """
        if urlsplit(uri).password and not uri.startswith("sqlite"):
            raise UserError("tracking.uri holds a password; give MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD "
                            "in the environment instead")
        self.uri, self.experiment = uri, experiment
        try:
            with _impatient():
                self._client = MlflowClient(tracking_uri=uri)
                found = self._client.get_experiment_by_name(experiment)
                self._id = found.experiment_id if found else self._client.create_experiment(experiment, artifacts)
        except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:  # ImportError: no driver for it
            reason = str(error).strip().splitlines()[0][:300]
            raise UserError(f"tracking.uri {uri!r}: MLflow cannot be used: {reason}") from error

    @property
    def how_to_open(self) -> str:
        """What a person does to look at the runs: the server's address, or the command for a local database."""
        return self.uri if self.uri.startswith("http") else f"mlflow ui --backend-store-uri {shlex.quote(self.uri)}"

    def sweep(self, key: str, name: str, params: Mapping[str, Any]) -> str:
        """The id of the parent run of a sweep; the run of an earlier start is taken up again."""
        known = self._find(key)
        if known is not None:
            self._client.update_run(known, status="RUNNING")
            return known
        return self._create(key, name, {"stage": "sweep"}, params, [], {})

    def child(self, parent: str, key: str, name: str, *, tags: Mapping[str, Any], params: Mapping[str, Any],
              metrics: Sequence[tuple[str, float, int]], files: Mapping[str, bytes], failed: bool = False) -> str:
        """Log one finished piece of work below `parent`; returns its run id, the old one if it was logged before.

        `metrics` are (name, value, step); `files` are artifacts, path below the run -> content.
        """
        known = self._find(f"{parent}:{key}")
        if known is not None:
            return known
        tags = {"mlflow.parentRunId": parent} | dict(tags)
        run = self._create(f"{parent}:{key}", name, tags, params, metrics, files)
        self._client.set_terminated(run, "FAILED" if failed else "FINISHED")
        return run

    def files(self, run: str, files: Mapping[str, bytes]) -> None:
        """Add artifacts to a run; one of the same name is replaced."""
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            if files:
                self._client.log_artifacts(run, folder)

    def metrics(self, run: str, metrics: Mapping[str, float]) -> None:
        """Add metrics to a run, all at step 0."""
        self._client.log_batch(run, metrics=_metrics([(name, value, 0) for name, value in metrics.items()]))

    def close(self, run: str, status: str) -> None:
        """End the parent run: `FINISHED`, `FAILED` or `KILLED`."""
        self._client.set_terminated(run, status)

    def _find(self, key: str) -> str | None:
        """The finished run of this key, or the unfinished parent; an unfinished child was cut off and is removed."""
        for run in self._client.search_runs([self._id], filter_string=f"tags.`{KEY}` = '{key}'"):
            if ":" not in key or run.info.status in ("FINISHED", "FAILED"):
                return run.info.run_id
            self._client.delete_run(run.info.run_id)
        return None

    def _create(self, key: str, name: str, tags: Mapping[str, Any], params: Mapping[str, Any],
                metrics: Sequence[tuple[str, float, int]], files: Mapping[str, bytes]) -> str:
        tags = {KEY: key} | {tag: str(value) for tag, value in tags.items()}
        run = self._client.create_run(self._id, run_name=name, tags=tags).info.run_id
        pairs = [Param(param, str(value)) for param, value in params.items()]
        for start in range(0, max(len(pairs), 1), BATCH):
            self._client.log_batch(run, params=pairs[start:start + BATCH], metrics=[] if start else _metrics(metrics))
        self.files(run, files)
        return run


def _metrics(metrics: Sequence[tuple[str, float, int]]) -> list[Metric]:
    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step) for name, value, step in metrics]


@contextmanager
def _impatient() -> Iterator[None]:
    """The first contact must fail within seconds; later requests keep MLflow's patient retries."""
    settings = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(FIRST_CONTACT_SECONDS)}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def model_files(description: Mapping[str, Any], weights: Mapping[str, bytes]) -> dict[str, bytes]:
    """The artifacts of unlearned models: how the network is built, and the weights of each by file name."""
    return {f"model/{MODEL}": json.dumps(description, indent=1).encode()} | {
        f"model/{name}": content for name, content in weights.items()}


def load_model(run_id: str, *, uri: str | None = None, weights: str = WEIGHTS) -> nn.Module:
    """The unlearned model of an MLflow run, in eval mode: (N, C, H, W) float32 in [0, 1] -> logits.

    Args:
        run_id: a trial or a final run of a sweep.
        uri: the tracking URI; MLflow's own default where None.
        weights: a trial has one file per held-out case, `weights-0.safetensors` and on.

    Raises:
        UserError: the run has no such model.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            local = mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="model", dst_path=folder,
                                                        tracking_uri=uri)
            description = json.loads(Path(local, MODEL).read_text())
            model = models.build(description.pop("name"), seed=0, **description)
            checkpoint.load_into(model, str(Path(local, weights)))
    except (MlflowException, OSError) as error:
        raise UserError(f"run {run_id}: no model {weights!r} can be loaded: {str(error).splitlines()[0]}") from error
    return model.eval()
