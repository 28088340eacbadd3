"""How MLflow is reached: MLflow's own state is restored afterwards."""

import os

import mlflow
import pytest

from amun_ray.tracking.contact import SERVER, default_server


@pytest.mark.parametrize("called", [None, "sqlite:////nowhere/called.db"])
@pytest.mark.parametrize("variable", [None, "sqlite:////nowhere/variable.db"])
def test_the_default_server_is_put_back_wherever_it_came_from(monkeypatch, called, variable):
    monkeypatch.delenv(SERVER, raising=False)
    mlflow.set_tracking_uri(called)
    monkeypatch.delenv(SERVER, raising=False)  # which that call has set
    if variable:
        monkeypatch.setenv(SERVER, variable)
    try:
        for _ in range(2):
            with default_server("sqlite:////nowhere/else.db"):
                assert mlflow.get_tracking_uri() == "sqlite:////nowhere/else.db"
            assert os.environ.get(SERVER) == variable
            monkeypatch.delenv(SERVER, raising=False)
            assert (mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None) == called
            if variable:
                monkeypatch.setenv(SERVER, variable)
    finally:
        mlflow.set_tracking_uri(None)
