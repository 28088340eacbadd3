"""Finds what MLflow has about deleted work, by the digests in its tags, and deletes it for good: runs, logged models,
versions of registered models, and their files; also entries already marked as deleted, which MLflow keeps.

In a database that this machine opens itself, the entries can be removed. A server deletes the files and only marks the
entries as deleted; its operator can remove them with `mlflow gc`.
Cost: one request per page of 1,000 runs or 100 logged models, over all experiments.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking._tracking_service.utils import _get_store

from amun_ray.base.errors import UserError
from amun_ray.tracking.contact import MLFLOW_ERRORS, default_server, impatient, patient, reason
from amun_ray.tracking.event import write_files
from amun_ray.tracking.places import settle

Matches = Callable[[Mapping[str, str]], bool]  # decides by the tags of a run or a logged model


class Logged(NamedTuple):
    """An entry in MLflow: `run`, `model` or `version`; its id (`NAME/VERSION` for a version); the size of its files in
    bytes, as far as its artifact store tells; and whether it was already deleted."""

    kind: str
    id: str
    bytes: int
    deleted: bool


@dataclass(frozen=True)
class Archive:
    """All experiments of one MLflow database or server.

    Raises:
        UserError: `uri` does not answer, or holds credentials.
    """

    uri: str

    def __post_init__(self) -> None:
        settle(self.uri)  # delete a copy's own files, not those of the folder it was copied from
        try:
            with impatient():
                self._client.search_experiments(max_results=1)
        except MLFLOW_ERRORS as error:
            raise UserError(f"tracking.uri {self.uri!r}: MLflow cannot be used: {reason(error)}") from error

    @property
    def is_hard(self) -> bool:
        """Whether entries can be removed from here, not only marked as deleted."""
        return hasattr(self._store, "_hard_delete_run")

    def found(self, matches: Matches) -> list[Logged]:
        """The runs and logged models whose tags match, and their registered versions; in the order in which they can be
        deleted: versions first, runs last."""
        with patient(), default_server(self.uri):
            experiments = [each.experiment_id for each in self._paged(
                lambda token: self._client.search_experiments(ViewType.ALL, page_token=token))]
            runs = {each.info.run_id: each for each in self._paged(
                lambda token: self._client.search_runs(experiments, run_view_type=ViewType.ALL, page_token=token))
                if matches(each.data.tags)}
            models = {each.model_id: each for each in self._models(experiments)
                      if matches(each.tags) or each.source_run_id in runs}
            versions = [each for each in self._paged(
                lambda token: self._client.search_model_versions("", page_token=token))
                if each.run_id in runs or each.source.removeprefix("models:/") in models]
            gone = self._deleted_models()
            return [*(Logged("version", f"{each.name}/{each.version}", 0, False) for each in versions),
                    *(self._sized("model", name, model.artifact_location, name in gone)
                      for name, model in models.items()),
                    *(self._sized("run", name, each.info.artifact_uri, each.info.lifecycle_stage == "deleted")
                      for name, each in runs.items())]

    def delete(self, kind: str, name: str) -> None:
        """Delete the entry of a kind and id, its files first; missing ones are ignored.

        Raises:
            UserError: MLflow does not answer, or refuses.
        """
        try:
            with patient(), default_server(self.uri), _absent_is_well():
                if kind == "version":
                    self._client.delete_model_version(*name.rsplit("/", 1))
                    return
                files, mark, remove = self._entry(kind, name)
                if files is not None:
                    with _absent_is_well():
                        get_artifact_repository(files).delete_artifacts()
                mark(name)
                if hasattr(self._store, remove):  # servers cannot; for logged models, not every MLflow can
                    getattr(self._store, remove)(name)
        except MLFLOW_ERRORS as error:
            raise UserError(f"tracking.uri {self.uri!r}: {kind} {name} cannot be deleted: {reason(error)}; once it "
                            "can, the same command goes on") from error

    def has_run(self, run: str) -> bool:
        """Whether the run is there, and not deleted.

        Raises:
            UserError: MLflow does not answer.
        """
        try:
            with patient(), _absent_is_well():
                return str(self._client.get_run(run).info.lifecycle_stage) == "active"
        except MLFLOW_ERRORS as error:
            raise UserError(f"tracking.uri {self.uri!r}: MLflow cannot be used: {reason(error)}") from error
        return False

    def add(self, run: str, files: Mapping[str, bytes]) -> None:
        """Log artifacts of a run, path below it -> content; an existing path is replaced.

        Raises:
            UserError: MLflow does not answer, or refuses.
        """
        try:
            with patient(), tempfile.TemporaryDirectory() as folder:
                self._client.log_artifacts(run, str(write_files(Path(folder), files)))
        except MLFLOW_ERRORS as error:
            raise UserError(f"tracking.uri {self.uri!r}: run {run} does not take files: {reason(error)}") from error

    def _entry(self, kind: str, name: str) -> tuple[str | None, Callable[[str], Any], str]:
        """Where the files of a run or logged model are, the call that marks it deleted, and the one that removes it."""
        if kind == "run":
            entry = self._client.get_run(name).info
            is_gone, files = entry.lifecycle_stage == "deleted", entry.artifact_uri
            mark: Callable[[str], Any] = self._client.delete_run
        else:
            is_gone = name in self._deleted_models()
            entry = self._store.get_logged_model(name, **({"allow_deleted": True} if is_gone else {}))
            files, mark = entry.artifact_location, self._client.delete_logged_model
        remove = "_hard_delete_run" if kind == "run" else "_hard_delete_logged_model"
        return files, (lambda _: None) if is_gone else mark, remove

    @property
    def _client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.uri)

    @property
    def _store(self) -> Any:
        return _get_store(self.uri)

    def _logged_models(self, experiments: list[str], token: str | None) -> Any:
        return self._client.search_logged_models(experiments, page_token=token)

    def _models(self, experiments: list[str]) -> Iterator[Any]:
        for start in range(0, len(experiments), 20):
            yield from self._paged(partial(self._logged_models, experiments[start:start + 20]))
        for name in self._deleted_models():
            with _absent_is_well():
                yield self._store.get_logged_model(name, allow_deleted=True)

    def _deleted_models(self) -> list[str]:
        """Logged models already marked as deleted; a server, or an early MLflow 3, lists none."""
        store = self._store
        return store._get_deleted_logged_models() if hasattr(store, "_get_deleted_logged_models") else []

    @staticmethod
    def _paged(ask: Callable[[str | None], Any]) -> Iterator[Any]:
        token = None
        while True:
            page = ask(token)
            yield from page
            if not (token := page.token):
                return

    @staticmethod
    def _sized(kind: str, name: str, files: str | None, deleted: bool) -> Logged:
        size = 0
        if files is not None:
            with suppress(Exception):  # from whatever library the artifact store uses
                size = _bytes(get_artifact_repository(files), None)
        return Logged(kind, name, size, deleted)


def _bytes(repository: Any, folder: str | None) -> int:
    return sum(_bytes(repository, entry.path) if entry.is_dir else entry.file_size or 0
               for entry in repository.list_artifacts(folder))


@contextmanager
def _absent_is_well() -> Iterator[None]:
    """Ignore errors about entries that MLflow no longer has."""
    try:
        yield
    except FileNotFoundError:
        pass
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
