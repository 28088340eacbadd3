"""How MLflow is reached: timeouts, errors, and downloads."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from amun_ray.base.databases import database
from amun_ray.base.errors import UserError, first_line
from amun_ray.base.files import expanded
from amun_ray.tracking.places import readable, tidy

FIRST_CONTACT_SECONDS, PATIENCE_SECONDS, RETRIES = 10, 30, 2
MLFLOW_ERRORS = (MlflowException, SQLAlchemyError, ImportError, OSError)  # ImportError: no driver for a database
OPEN_TO_RETRY = (401, 403, 408, 429)  # HTTP refusals that a person, or time, can fix
SERVER = "MLFLOW_TRACKING_URI"
SECONDS, TRIES = "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


def impatient() -> AbstractContextManager[None]:
    """For the first contact, which must fail within seconds."""
    return environment({SECONDS: str(FIRST_CONTACT_SECONDS), TRIES: "1"})


def patient() -> AbstractContextManager[None]:
    """For later requests, which wait longer and retry; the user's environment variables take precedence."""
    wanted = {SECONDS: str(PATIENCE_SECONDS), TRIES: str(RETRIES)}
    return environment({name: value for name, value in wanted.items() if name not in os.environ})


@contextmanager
def environment(settings: dict[str, str]) -> Iterator[None]:
    """Temporarily set environment variables."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def is_refusal(error: Exception) -> bool:
    """Whether MLflow answered and will never accept this."""
    if not isinstance(error, MlflowException):
        return False
    status = error.get_http_status_code()
    return 400 <= status < 500 and status not in OPEN_TO_RETRY


def reason(error: Exception) -> str:
    """The first line of MLflow's message."""
    return first_line(error)[:300]


@contextmanager
def downloaded(source: str, uri: str) -> Iterator[Path]:
    """Download the file or folder at `source` (`runs:/`, `models:/`, `mlflow-artifacts:/`) until the context ends.

    Raises:
        UserError: the tracking URI `uri` does not answer, or has nothing at `source`.
    """
    path = database(expanded(uri))
    if path is not None and not path.is_file():  # MLflow would create an empty one
        raise UserError(f"{source}: tracking.uri {uri!r}: no such database")
    with (readable(expanded(uri)) as place, tempfile.TemporaryDirectory() as folder, default_server(place),
          tidy(place), environment({"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"})):
        try:
            with impatient():
                MlflowClient(tracking_uri=place).search_experiments(max_results=1)
        except MLFLOW_ERRORS as error:
            raise UserError(f"{source}: tracking.uri {uri!r}: MLflow cannot be used: {reason(error)}") from error
        try:
            local = mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=folder, tracking_uri=place)
        except MLFLOW_ERRORS as error:
            raise UserError(f"{source}: not found at tracking.uri {uri!r}: {reason(error)}") from error
        if local is None:  # an artifact store that does not have it
            raise UserError(f"{source}: not found at tracking.uri {uri!r}")
        yield Path(local)


@contextmanager
def default_server(uri: str) -> Iterator[None]:
    """Make `uri` MLflow's default: for registered models MLflow asks only that, whatever a call's arguments say."""
    with environment({SERVER: uri}):  # MLflow also changes the variable; this restores it
        del os.environ[SERVER]
        before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None  # set by a call
        mlflow.set_tracking_uri(uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)  # type: ignore[arg-type]  # None, as before any call, is well with it
