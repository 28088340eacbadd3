"""What MLflow is told of a model in production: a run of its own below the sweep's, with the model in it."""

from collections.abc import Mapping
from typing import Any

from amun_ray.base.errors import UserError
from amun_ray.reporting.record import Record
from amun_ray.storage.store import Unit
from amun_ray.tracking import Event, saved_model
from amun_ray.work.units import WEIGHTS


def log_model(record: Record, *, key: str, name: str, unit: Unit, tags: Mapping[str, str], params: Mapping[str, Any],
              metrics: Mapping[str, float]) -> str:
    """Log the model of `unit`, once; returns the id of its run.

    Raises:
        UserError: MLflow does not take it now. What it is to be told waits, but a registry does not.
    """
    workspace = record.workspace
    weights = workspace.store.read(unit, WEIGHTS).to_pybytes()
    run = record.tracker.log(Event(
        key=key, parent=record.parent, name=name, tags=tags, params=params, status="FINISHED",
        metrics=[(term, value, 0) for term, value in metrics.items()],
        model=saved_model(workspace.network.saved, weights, workspace.shape)))
    if run is None:
        raise UserError("MLflow does not answer, and no model can be registered; once it does, the same command goes "
                        "on")
    return run
