"""A model in production in MLflow's registry: versions once each, and an alias that is where it was pointed to."""

import shutil

import pytest

from amun_ray.base.errors import UserError
from amun_ray.models import build, checkpoint
from amun_ray.tracking import Event, Tracker, load_model, saved_model
from amun_ray.tracking.registry import Registry

NETWORK = {"name": "small_cnn", "options": {"width": 8}, "channels": 1, "classes": 10, "size": 8, "mean": [0.5],
           "std": [0.5]}


@pytest.fixture
def tracker(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", "mine", (tmp_path / "artifacts").as_uri(),
                   spool=tmp_path / "spool", say=print)


def logged(tracker, seed):
    """The run of a model with random weights, and their digest."""
    weights = checkpoint.save(made := build(seed=seed, **NETWORK), {})
    parent = tracker.start(Event(key="sweep", name="sweep", status="RUNNING"))
    run = tracker.log(Event(key=f"model {seed}", parent=parent, name="model", status="FINISHED",
                            model=saved_model(NETWORK, weights, (1, 8, 8))))
    return run, checkpoint.digest(made)


def test_the_alias_is_at_the_version_that_was_promoted_and_a_run_is_registered_once(tracker, tmp_path):
    registry = Registry(tracker.uri, "mine", "production")
    assert registry.current() is None
    (first, first_weights), (second, second_weights) = logged(tracker, 1), logged(tracker, 2)
    assert [registry.register(run, {"weights": "w"}) for run in (first, second, first)] == ["1", "2", "1"]
    assert registry.current() is None
    for version, weights in (("1", first_weights), ("2", second_weights), ("1", first_weights)):
        registry.promote(version)
        assert registry.current() == version
        assert checkpoint.digest(load_model(registry.address, uri=tracker.uri)) == weights
    assert Registry(tracker.uri, "mine", "other").current() is None
    assert Registry(tracker.uri, "another", "production").current() is None
    (tmp_path / "proof").mkdir()
    (tmp_path / "proof" / "proof.html").write_text("a proof")
    registry.attach(first, tmp_path / "proof")
    assert [path.read_text() for path in (tmp_path / "artifacts").rglob("proof.html")] == ["a proof"]


def test_a_registry_that_is_away_is_one_line(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match="MLflow's registry at http://127.0.0.1:1 cannot be used") as error:
        Registry("http://127.0.0.1:1", "mine", "production").current()
    assert "\n" not in str(error.value)
