"""MLflow's records of deleted work are removed for good: entries in a database, files on a server."""

import pytest
from mlflow import MlflowClient

from amun_ray.base.errors import UserError
from amun_ray.tracking import Archive, Event

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def mine(tags):
    return tags.get("lineage.forget") == "mine"


@pytest.fixture(params=["database", "server"])
def place(request, open_tracker, tmp_path):
    """A database or a server with a run and a model of `mine`, and one of another; the folder of its files."""
    uri = request.getfixturevalue(request.param)
    uri = uri if isinstance(uri, str) else uri.uri
    tracker, parent = open_tracker(uri)
    for name in ("mine", "other"):
        tracker.log(Event(key=name, parent=parent, name=name, tags={"lineage.forget": name}, status="FINISHED",
                          files={"x.txt": b"123"}, model={"MLmodel": b"flavors: {}\n", "weights": b"45"},
                          registered=f"model-{name}"))
    return uri, tmp_path / ("served" if request.param == "server" else "artifacts")


def test_what_matches_goes_with_its_files_and_nothing_else(place):
    uri, folder = place
    archive, client = Archive(uri), MlflowClient(tracking_uri=uri)
    found = archive.found(mine)
    assert [entry.kind for entry in found] == ["version", "model", "run"]
    assert found[1].bytes + found[2].bytes == 3 + 2 + len("flavors: {}\n")
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == 2 * ["MLmodel"] + 2 * [
        "weights"] + 2 * ["x.txt"]
    for entry in found:
        archive.delete(entry.kind, entry.id)
        archive.delete(entry.kind, entry.id)  # again is well
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["MLmodel", "weights", "x.txt"]
    left = archive.found(mine)
    assert archive.is_hard == uri.startswith("sqlite")
    assert [(entry.kind, entry.deleted, entry.bytes) for entry in left] == (
        [] if archive.is_hard else [("run", True, 0)])
    assert client.search_model_versions("name = 'model-mine'") == []
    assert len(client.search_model_versions("name = 'model-other'")) == 1
    assert [entry.kind for entry in archive.found(lambda tags: tags.get("lineage.forget") == "other")] == [
        "version", "model", "run"]


def test_files_are_added_to_a_run(place):
    uri, folder = place
    archive = Archive(uri)
    run = archive.found(mine)[2].id
    for content in (b"first", b"second"):
        archive.add(run, {"proof-r1/proof.html": content})
    (written,) = folder.rglob("proof.html")
    assert written.read_bytes() == b"second"
    with pytest.raises(UserError, match="does not take files"):
        archive.add("0" * 32, {"a": b""})


def test_a_server_that_is_away_is_one_line():
    with pytest.raises(UserError, match="MLflow cannot be used"):
        Archive("http://127.0.0.1:9")
