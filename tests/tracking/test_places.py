"""A database of MLflow's that was moved or copied with its artifacts; folders whose names mean something in URIs."""

import shutil
import sqlite3
from pathlib import Path

import mlflow
import pytest
import sqlalchemy
from mlflow import MlflowClient
from sweeping import NAMES_QUOTED, ODD

from amun_ray.base import databases
from amun_ray.base.errors import UserError
from amun_ray.tracking import ARTIFACTS, Event, Tracker, contact, database_uri, downloaded, places, settle

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def opened(folder: Path, said: list[str] | None = None, uri: str | None = None) -> Tracker:
    """A tracker of the database in `folder`, as a sweep makes it for its output folder."""
    return Tracker(uri or database_uri(folder / "mlflow.db"), "sweeps", (folder / ARTIFACTS).as_uri(),
                   spool=folder / "spool", say=(said if said is not None else []).append)


def logged(tracker: Tracker, number: int) -> str:
    parent = tracker.start(Event(key="sweep", name="sweep", status="RUNNING"))
    return tracker.log(Event(key=f"work {number}", parent=parent, status="FINISHED", registered="forgetful",
                             model={"weights": f"model {number}".encode()},
                             files={"note.txt": f"note {number}".encode()}))


@pytest.fixture(scope="module")
def made(empty_database, tmp_path_factory) -> tuple[Path, str]:
    """An output folder with a run, a model and a version of it; and the id of the run. To be copied."""
    folder = tmp_path_factory.mktemp("made") / ODD
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    return folder, logged(opened(folder), 0)


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return Path(shutil.copytree(made[0], tmp_path / ("copy?%41" if NAMES_QUOTED else "copy")))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def locations(folder: Path) -> set[str]:
    """The folders that the database speaks of, but for MLflow's own first experiment and the names of models."""
    with sqlite3.connect(folder / "mlflow.db") as database:
        found = {place for table, columns in places.LOCATIONS.items() for column in columns
                 for (place,) in database.execute(f"SELECT {column} FROM {table} WHERE {column} LIKE '%/mlartifacts%'")}
    return {place.partition("/mlartifacts")[0] for place in found}


def read(folder: Path, source: str) -> str:
    """The content of a file that MLflow has."""
    with downloaded(source, database_uri(folder / "mlflow.db")) as found:
        return found.read_text()


@pytest.mark.parametrize("name", ["plain", ODD, "%", "%41", "ü", "a+b&c=d;e", "'\""])
def test_a_database_is_opened_where_it_is_said_to_be(tmp_path, name):
    path = tmp_path / name / "m.db"
    path.parent.mkdir()
    sqlalchemy.create_engine(database_uri(path)).connect().close()
    assert [one.relative_to(tmp_path) for one in tmp_path.rglob("*")] == [Path(name), Path(name, "m.db")]
    assert databases.database(database_uri(path)) == path


def test_a_folder_that_this_sqlalchemy_cannot_name_is_refused(monkeypatch):
    monkeypatch.setattr(databases, "make_url", lambda uri: sqlalchemy.URL.create(
        "sqlite", database=uri.removeprefix("sqlite:///").partition("?")[0]))  # as before 2.1: nothing is unquoted
    assert database_uri(Path("/a%20b/m.db")) == "sqlite:////a%20b/m.db"
    with pytest.raises(UserError, match=r"^/a\?/m.db: SQLAlchemy 2.1 is needed"):
        database_uri(Path("/a?/m.db"))


def test_a_folder_of_an_odd_name_holds_all_and_leaves_nothing_beside(made):
    folder, run = made
    assert [one.name for one in folder.parent.iterdir()] == [ODD]
    assert read(folder, f"runs:/{run}/note.txt") == "note 0"
    assert read(folder, "models:/forgetful/1/weights") == "model 0"
    assert [one.name for one in folder.parent.iterdir()] == [ODD]
    assert settle(database_uri(folder / "mlflow.db")) is None


def test_a_copy_speaks_of_its_own_files_and_leaves_the_old_ones_alone(made, copy):
    before, said = content(made[0]), []
    second = logged(opened(copy, said), 1)
    assert said[0] == (f"MLflow: {copy / 'mlflow.db'} came here from {made[0]}; it now refers to the files in "
                       f"{copy / ARTIFACTS}")
    assert content(made[0]) == before
    assert locations(copy) == {copy.as_uri()}
    for run, number in ((made[1], 0), (second, 1)):
        assert read(copy, f"runs:/{run}/note.txt") == f"note {number}"
    assert {path.name for path in copy.rglob("*") if path.is_dir()} >= {made[1], second}
    said.clear()
    opened(copy, said)
    assert said == []


def test_a_moved_folder_is_read_and_written_where_it_is(made, copy, tmp_path):
    moved = tmp_path / "elsewhere" / "new"
    opened(copy)
    moved.parent.mkdir()
    copy.rename(moved)
    before = content(moved)
    assert read(moved, f"runs:/{made[1]}/note.txt") == "note 0"
    assert read(moved, "models:/forgetful@best/weights") == "model 0"
    assert content(moved) == before  # whoever reads may see the folder under another path than its sweep does
    second = logged(opened(moved), 1)
    assert read(moved, f"runs:/{second}/note.txt") == "note 1"
    assert locations(moved) == {moved.as_uri()}
    assert not copy.exists()
    assert mlflow.MlflowClient(tracking_uri=database_uri(moved / "mlflow.db")).get_run(made[1]).info.artifact_uri == (
        f"{moved.as_uri()}/{ARTIFACTS}/{made[1]}/artifacts")


def test_what_was_read_of_a_moved_folder_is_read_again_where_it_has_changed(made, copy):
    assert read(copy, "models:/forgetful@best/weights") == "model 0"
    MlflowClient(tracking_uri=database_uri(copy / "mlflow.db")).delete_registered_model("forgetful")
    with pytest.raises(UserError, match=f"^models:/forgetful@best/weights: not found at .*{copy.parent.name}"):
        read(copy, "models:/forgetful@best/weights")


def test_a_copy_without_its_files_is_refused_before_anything_is_written(made, copy):
    shutil.rmtree(copy / ARTIFACTS)
    before = content(copy)
    with pytest.raises(UserError) as raised:
        opened(copy)
    assert str(raised.value) == (
        f"{copy / 'mlflow.db'}: a copy without its files, which are in {made[0] / ARTIFACTS}: there is no "
        f"{copy / ARTIFACTS}. Copy them here too, or remove mlflow.db: the sweep's command then logs everything again "
        "from the store")
    assert content(copy) == before
    assert read(copy, f"runs:/{made[1]}/note.txt") == "note 0"  # it still knows them


def test_a_folder_under_another_name_has_not_moved(made, tmp_path):
    (tmp_path / "link").symlink_to(made[0])
    before = content(made[0])
    assert settle(database_uri(tmp_path / "link" / "mlflow.db")) is None
    assert content(made[0]) == before


def test_a_database_that_speaks_of_other_places_stays_as_it_is(empty_database, tmp_path):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    uri = database_uri(tmp_path / "mlflow.db")
    (tmp_path / ARTIFACTS).mkdir()
    (tmp_path / "kept").mkdir()
    client = MlflowClient(tracking_uri=uri)
    for number, place in enumerate(["s3://bucket/mlartifacts", (tmp_path / "kept").as_uri()]):
        client.create_experiment(f"theirs {number}", place)
    before = content(tmp_path)
    assert settle(uri) is None
    assert content(tmp_path) == before


def test_a_damaged_database_is_named(tmp_path):
    (tmp_path / "mlflow.db").write_bytes(b"SQLite format 3\0" + b"nothing of the kind" * 99)
    with pytest.raises(UserError, match=f"^tracking.uri 'sqlite:///{tmp_path / 'mlflow.db'}': MLflow cannot be used: "):
        settle(database_uri(tmp_path / "mlflow.db"))


def test_a_tilde_in_a_tracking_uri_is_the_home_folder(made, copy, monkeypatch):
    monkeypatch.setenv("HOME", str(copy))
    monkeypatch.chdir(copy.parent)
    with downloaded(f"runs:/{made[1]}/note.txt", "sqlite:///~/mlflow.db") as found:
        assert found.read_text() == "note 0"
    assert logged(opened(copy, uri="sqlite:///~/mlflow.db"), 1)
    assert {one.name for one in copy.parent.iterdir()} - {"mlruns"} == {copy.name}  # made by the oldest MLflow


def test_an_artifact_store_that_returns_nothing_is_named(made, monkeypatch):
    monkeypatch.setattr(contact.mlflow.artifacts, "download_artifacts", lambda **_: None)
    with pytest.raises(UserError, match="^runs:/x: not found at tracking.uri 'sqlite:"):
        read(made[0], "runs:/x")
