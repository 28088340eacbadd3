"""A model in production in MLflow's registry: versions of one name, and the alias of the version that serves.

These calls never wait in a spool: whatever a ledger says about the registry has really happened.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from amun_ray.base.errors import UserError
from amun_ray.tracking.contact import MLFLOW_ERRORS, default_server, patient, reason

PROOF = "proof"  # the folder of a run's artifacts


@dataclass(frozen=True)
class Registry:
    """The registered model `name` at the tracking URI `uri`, with the alias of its version in production."""

    uri: str
    name: str
    alias: str

    @property
    def address(self) -> str:
        """The address that a server loads: `models:/NAME@ALIAS`."""
        return f"models:/{self.name}@{self.alias}"

    def current(self) -> str | None:
        """The version that has the alias, or None.

        Raises:
            UserError: nothing answers.
        """
        with self._talking() as client:
            try:
                return str(client.get_model_version_by_alias(self.name, self.alias).version)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return None
                raise

    def register(self, run: str, tags: Mapping[str, str]) -> str:
        """The version of the model logged in `run`; created unless it exists."""
        with self._talking() as client:
            try:
                client.create_registered_model(self.name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            versions = client.search_model_versions(f"name = '{self.name}' and run_id = '{run}'")
            if versions:
                return str(versions[0].version)
            experiment = client.get_run(run).info.experiment_id
            (model,) = client.search_logged_models([experiment], filter_string=f"source_run_id = '{run}'")
            return str(client.create_model_version(self.name, f"models:/{model.model_id}", run, tags=dict(tags),
                                                   model_id=model.model_id).version)

    def promote(self, version: str) -> None:
        """Point the alias to `version`."""
        with self._talking() as client:
            client.set_registered_model_alias(self.name, self.alias, version)

    def attach(self, run: str, folder: Path) -> None:
        """Add the files of `folder` to the artifacts of `run`, or replace them."""
        with self._talking() as client:
            client.log_artifacts(run, str(folder), PROOF)

    @contextmanager
    def _talking(self) -> Iterator[MlflowClient]:
        try:
            with default_server(self.uri), patient():  # the registry of a local database looks models up there
                yield MlflowClient(tracking_uri=self.uri)
        except MLFLOW_ERRORS as error:
            raise UserError(f"MLflow's registry at {self.uri} cannot be used: {reason(error)}. Once it can, the same "
                            "command goes on") from error
