"""MLflow as a database and as a server, and a tracker of either."""

import shutil

import pytest
from serving import Server

from amun_ray.tracking import Event, Tracker


@pytest.fixture
def database(empty_database, tmp_path) -> str:
    """The URI of a database of its own."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def server(database, tmp_path):
    made = Server(database, tmp_path / "served")
    yield made.start()
    made.kill()


@pytest.fixture
def said() -> list[str]:
    """What a tracker said."""
    return []


@pytest.fixture
def open_tracker(tmp_path, said):
    """Make a tracker with the run `sweep` begun; returns both."""
    def make(uri: str) -> tuple[Tracker, str]:
        tracker = Tracker(uri, "sweeps", None if uri.startswith("http") else (tmp_path / "artifacts").as_uri(),
                          spool=tmp_path / "spool", say=said.append)
        return tracker, tracker.start(Event(key="sweep", name="sweep", tags={"stage": "sweep"}, params={"seed": 0},
                                            status="RUNNING"))
    return make
