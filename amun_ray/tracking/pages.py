"""The addresses of MLflow's pages."""

import json
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import quote

from mlflow import MlflowClient

from amun_ray.tracking.contact import MLFLOW_ERRORS, impatient
from amun_ray.tracking.event import KEY

MODE = "workflowType=machine_learning"  # on the first visit of a browser MLflow 3 would show its GenAI pages


class Pages:
    """Addresses of one experiment's pages, `#/experiments/1/...`, relative to `root`."""

    def __init__(self, client: MlflowClient, uri: str, experiment: str) -> None:
        self._client, self._experiment = client, experiment
        self.root = uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"  # of `mlflow ui`

    def run(self, run: str, part: str = "") -> str:
        """A run's page, or a part of it, such as `/artifacts/report.html`."""
        return f"#/experiments/{self._experiment}/runs/{run}{part}?{MODE}"

    def comparison(self, runs: Sequence[str]) -> str:
        """The page that shows runs side by side."""
        chosen, experiments = (quote(json.dumps(each)) for each in (list(runs), [self._experiment]))
        return f"#/compare-runs?runs={chosen}&experiments={experiments}&{MODE}"

    def runs_list(self, parent: str, stage: str, columns: Sequence[str]) -> str:
        """The list of the runs of one stage of a sweep, with these columns, sorted by the first, ascending.

        MLflow stores such a view as a tag of the experiment, in the format that its own share button writes.
        """
        name = f"{parent[:12]}-{stage}"
        view = {"searchFilter": f"tags.`{KEY}` LIKE '{parent}:%' and tags.stage = '{stage}'", "orderByKey": columns[0],
                "orderByAsc": True, "startTime": "ALL", "lifecycleFilter": "Active", "modelVersionFilter": "All Runs",
                "datasetsFilter": [], "selectedColumns": list(columns)}
        with suppress(*MLFLOW_ERRORS), impatient():  # without it, the list has other columns
            self._client.set_experiment_tag(self._experiment, f"mlflow.sharedViewState.{name}", json.dumps(view))
        return f"#/experiments/{self._experiment}/runs?viewStateShareKey={name}&{MODE}"
