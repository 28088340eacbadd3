"""The purge of a real, small sweep: what was made from the rows goes, all else stays, and an interruption changes
nothing of the end."""

import io
import json
import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest
from mlflow import MlflowClient
from sweeping import CONFIG

from amun_ray import data
from amun_ray.base.errors import UserError
from amun_ray.config import file as config_file
from amun_ray.storage.leases import announced
from amun_ray.storage.store import Store, Unit
from amun_ray.tracking import Event, Spool
from amun_ray.work import purge as purging
from amun_ray.work.lineage import DELETE, NEEDED, STRIP, Marks, Trace, delete_unit, held
from amun_ray.work.listing import table
from amun_ray.work.plan import Plan
from amun_ray.work.purge import Purge
from amun_ray.work.reuse import left
from amun_ray.work.units import rows_digest

PLACES = (("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
          ("model_versions", "storage_location"))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def plan():
    sweep = config_file.load(str(CONFIG))
    return Plan(sweep, data.load(sweep.data.name, **sweep.data.settings))


@pytest.fixture(scope="module")
def rows(plan):
    """Rows of the first final set alone."""
    return np.setdiff1d(*plan.sets.final)


def copied(finished, folder):
    """A copy of a finished sweep, its MLflow too."""
    shutil.copytree(finished, folder)
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        for name, column in PLACES:
            database.execute(f"UPDATE {name} SET {column} = replace({column}, ?, ?)", (str(finished), str(folder)))
    return folder


@pytest.fixture
def output(undisturbed, tmp_path):
    return copied(undisturbed[1], tmp_path / "out")


@pytest.fixture
def make(plan, rows, output):
    return lambda **changes: purge_of(plan, output, **({"rows": rows} | changes))


def purge_of(plan, output, **changes) -> Purge:
    return Purge(**{"request": "r1", "dataset": plan.dataset, "store": Store(str(output / "store")),
                    "output": output, "tracking": f"sqlite:///{output}/mlflow.db", "folder": output / "purges",
                    "eps": 0.04, "known": [*plan.sets.final, *plan.sets.held_out]} | changes)


@pytest.fixture(scope="module")
def uninterrupted(undisturbed, plan, rows, tmp_path_factory):
    """The end state of an uninterrupted purge."""
    folder = copied(undisturbed[1], tmp_path_factory.mktemp("uninterrupted") / "out")
    purge_of(plan, folder, rows=rows).run()
    return state(folder)


def runs(output):
    client = MlflowClient(tracking_uri=f"sqlite:///{output}/mlflow.db")
    return [run for experiment in client.search_experiments(view_type=3)
            for run in client.search_runs([experiment.experiment_id], run_view_type=3, max_results=1000)]


def state(output):
    """Every file of the store and of MLflow's folder, and every run, logged model and version there is."""
    files = {str(path.relative_to(output)) for folder in ("store", "mlartifacts")
             for path in (output / folder).rglob("*") if path.is_file()}
    with closing(sqlite3.connect(output / "mlflow.db")) as database:
        return files, {name: sorted(database.execute(f"SELECT {column} FROM {name}").fetchall())
                       for name, column in (("runs", "run_uuid"), ("logged_models", "model_id"))}


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_what_was_made_from_the_rows_is_listed_and_nothing_is_changed_by_listing(make, output, plan):
    before = state(output)
    found = make().listed()
    assert state(output) == before
    gone = {one.name for one in found if one.action == DELETE and one.room == "store"}
    first = rows_digest(plan.sets.final[0])
    expected = {unit.folder for unit in held(Store(str(output / "store")))
                if any(case["forget"] == first for case in unit.cases)
                or (unit.kind == "adversarial_sets" and unit.content["inputs"]["rows"] == first)}
    (shown,) = (name.partition("/")[2] for name in expected if name.startswith("adversarial_sets/"))
    assert len(expected) == 3 * 2 + 1 + 2 * 8  # contenders x runs, their adversarial set, and what was read of 8 models
    expected |= {unit.folder for unit in held(Store(str(output / "store")))
                 if unit.kind == "boundaries" and shown in unit.content["inputs"]["adversarial"]}
    assert len(expected) == 7 + 3 * 8  # each of those models was read thrice, and the original and the retrained one
    assert gone == expected
    kinds = [one.name.partition("/")[0] for one in found if one.action == NEEDED]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "models": 6 + 1, "unlearned": 6, "trials": 9}  # all but the model retrained without the first set
    text = table(found)
    assert f"{len([one for one in found if one.action != NEEDED])} to be deleted" in text
    assert "--retire" in text


def test_after_the_purge_only_the_purged_work_is_left_to_do(make, output, plan, rows):
    sweep_runs = len(runs(output))
    report = make().run()
    todo = left(plan, Store(str(output / "store")))
    assert (list(todo.trainings), todo.attacked, sum(todo.trials.values()), sum(todo.final.values())) == ([], 30, 0, 6)
    first = rows_digest(plan.sets.final[0])
    assert [run for run in runs(output) if run.data.tags.get("lineage.forget") == first] == []
    assert len(runs(output)) == sweep_runs - 7  # six models and the adversarial set
    assert report["search"]["found"] == 0
    assert report["search"]["radius"] >= 0.04
    assert (report["deleted"]["MLflow run"]["count"], report["deleted"]["MLflow model"]["count"]) == (7, 6)
    assert [one for one in make().listed() if one.action != NEEDED] == []
    assert make().run()["search"]["found"] == 0  # a finished purge again is well


def test_near_copies_that_no_lineage_leads_to_are_found_and_deleted(make, output, plan, rows):
    picture = plan.dataset.pixels[rows[0]].astype(np.float32) / 255
    unit = next(iter((output / "store" / "models").iterdir()))
    planted = [output / "store" / "cache" / "decoded.npy", unit / "left.npy", output / "mlartifacts" / "x" / "y.npy"]
    for path in planted:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(npy(np.clip(picture + 0.01, 0, 1)))
    (output / "store" / "other.npy").write_bytes(npy(plan.dataset.pixels[plan.sets.final[1]]))
    found = [one for one in make().listed() if one.why.startswith(purging.CONTENT)]
    assert {one.name for one in found} == {f"models/{unit.name}/left.npy", "cache/decoded.npy", str(planted[2])}
    make().run()
    assert not any(path.exists() for path in planted)
    assert (output / "store" / "other.npy").exists()
    assert left(plan, Store(str(output / "store"))).trainings == ()


def test_what_mlflow_has_deleted_before_and_what_it_was_not_told_yet_goes_too(make, output, plan):
    uri, first = f"sqlite:///{output}/mlflow.db", rows_digest(plan.sets.final[0])
    client = MlflowClient(tracking_uri=uri)
    mine = [run for run in runs(output) if run.data.tags.get("lineage.forget") == first]
    other = next(run for run in runs(output) if run.data.tags.get("lineage.forget") == rows_digest(plan.sets.final[1]))
    for run in mine[:2]:
        client.delete_run(run.info.run_id)
    (model,) = client.search_logged_models([mine[1].info.experiment_id],
                                           filter_string=f"source_run_id = '{mine[1].info.run_id}'")
    client.delete_logged_model(model.model_id)
    spool = Spool(output / "mlflow_spool")
    spool.add(Event(key="a", parent="p", tags={"lineage.forget": first}, files={"x": b"1"}))
    spool.add(Event(key="b", parent="p", tags=dict(other.data.tags)))
    found = make().listed()
    assert sum("deleted before" in one.why for one in found) == 3
    assert [one.name for one in found if one.room == "spool"] == ["00000001"]
    make().run()
    assert {run.info.run_id for run in mine}.isdisjoint(run.info.run_id for run in runs(output))
    assert [path.name for path in spool.waiting()] == ["00000002"]
    with closing(sqlite3.connect(output / "mlflow.db")) as database:
        assert database.execute("SELECT count(*) FROM logged_models").fetchone() == (6,)
    assert not any((output / "mlartifacts" / "models" / model.model_id).rglob("*.json"))


def test_a_version_of_a_deleted_model_goes_and_that_of_a_kept_one_stays(make, output, plan):
    client = MlflowClient(tracking_uri=f"sqlite:///{output}/mlflow.db")
    units = [unit for unit in held(Store(str(output / "store"))) if unit.kind == "unlearned"
             and unit.cases[0]["forget"] == rows_digest(plan.sets.final[0])]
    chosen = {}
    for name, unit in zip(("gone", "stays"), units, strict=False):
        run = next(run for run in runs(output) if run.data.tags.get("lineage.result") == unit.digest)
        client.create_registered_model(name)
        client.create_model_version(name, f"runs:/{run.info.run_id}/model", run.info.run_id)
        chosen[name] = unit
    make(kept=frozenset([chosen["stays"].weights])).run()
    assert client.search_model_versions("name = 'gone'") == []
    assert len(client.search_model_versions("name = 'stays'")) == 1
    store = Store(str(output / "store"))
    assert store.is_sound(Unit("unlearned", chosen["stays"].content["inputs"]))
    assert not store.has(Unit("unlearned", chosen["gone"].content["inputs"]))


def test_a_search_on_the_rows_keeps_its_numbers_and_loses_its_weights(make, output, plan):
    held_out = plan.sets.held_out[0]
    make(rows=held_out[:5]).run()
    store = Store(str(output / "store"))
    trials = [unit for unit in held(store) if unit.kind == "trials"]
    assert len(trials) == 9
    assert all(list(unit.files) == ["unit.json"] for unit in trials)
    assert all(store.result(Unit("trials", unit.content["inputs"]))["weights"] == [] for unit in trials)
    todo = left(plan, store)
    assert (list(todo.trainings), sum(todo.trials.values()), sum(todo.final.values())) == ([], 0, 0)
    assert not [run for run in runs(output) if run.data.tags.get("stage") == "trial"]
    assert STRIP not in {one.action for one in make(rows=held_out[:5]).listed()}


def test_a_model_that_came_from_a_deleted_one_is_still_known_to_have_forgotten_the_rows(tmp_path):
    """w0 -> w1, which forgot the rows, is no longer in production and deleted -> w2, which forgot others."""
    store, rows, others = Store(str(tmp_path)), np.array([1, 2]), np.array([5])
    units = []
    for before, after, gone in (("w0", "w1", rows), ("w1", "w2", others)):
        units.append(Unit("unlearned", {"dataset": "d", "cases": [{"original": before, "forget": rows_digest(gone)}]}))
        store.write(units[-1], "model", b"weights")
        store.finish(units[-1], {"weights": after}, ["model"])
    marks = Marks("d", [1, 2])
    (found,) = Trace(store, marks, [rows, others], 10).found()
    assert (found.name, found.action) == (units[0].folder, DELETE)
    delete_unit(store, found)
    again = Marks.from_json(json.loads(json.dumps(marks.as_json())))
    assert Trace(store, again, [rows, others], 10, retire=True).found() == []


def test_retired_models_go_but_for_those_that_later_requests_start_from(make, output):
    store = Store(str(output / "store"))
    original = next(unit for unit in held(store) if (unit.content.get("result") or {}).get("name") == "original 0")
    make(retire=True, kept=frozenset([original.weights])).run()
    names = [unit.content["result"]["name"] for unit in held(store) if unit.kind == "models"]
    assert sorted(names) == ["original 0", "retrained without final 0, 0"]
    assert not [unit for unit in held(store) if unit.kind == "unlearned"]


@pytest.mark.parametrize("retire", [False, True])
def test_a_model_that_was_in_production_goes_but_an_original_only_where_it_is_retired(make, output, retire):
    store = Store(str(output / "store"))
    original = next(unit for unit in held(store) if (unit.content.get("result") or {}).get("name") == "original 0")
    earlier = next(one for one in make().listed() if one.action == NEEDED and one.name.startswith("unlearned/"))
    weights = next(unit.weights for unit in held(store) if unit.folder == earlier.name)
    make(superseded=frozenset([original.weights, weights]), retire=retire).run()
    left = {unit.folder for unit in held(store)}
    assert earlier.name not in left
    assert (original.folder in left) != retire


@pytest.mark.parametrize("after", [0, 3, 9, 14, 18])
def test_an_interrupted_purge_is_finished_by_the_next_and_comes_to_the_same(make, output, monkeypatch, after,
                                                                           uninterrupted):
    calls, original = [], Purge._delete

    class Killed(BaseException):
        pass

    def delete(self, one):
        calls.append(one)
        if len(calls) > after:
            if one.room == "store":  # in the middle of a unit: the first of its files is gone
                sorted((output / "store" / one.name).iterdir())[0].unlink()
            raise Killed
        original(self, one)

    with monkeypatch.context() as patch:
        patch.setattr(Purge, "_delete", delete)
        with pytest.raises(Killed):
            make().run()
    assert state(output) != uninterrupted
    make().run()
    assert state(output) == uninterrupted


def test_a_sweep_at_work_in_the_store_is_not_disturbed(make, output):
    other = Store(str(output / "store"), owner=f"{'elsewhere'}:12345678:1:abcdef01")
    with announced(other), pytest.raises(UserError, match="a sweep is at work there .host elsewhere, process 1"):
        make().run()


def to_delete(purge: Purge) -> list[str]:
    return sorted(one.name for one in purge.listed() if one.action == DELETE and one.room == "store")


def test_a_bucket_that_keeps_versions_is_purged_and_said_to_keep_them(make, output, bucket):
    boto3, uri = pytest.importorskip("boto3"), bucket()
    name, _, address = uri.removeprefix("s3://").partition("?scheme=http&endpoint_override=")
    client = boto3.client("s3", endpoint_url=f"http://{address}")
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    for path in (output / "store").rglob("*"):
        if path.is_file():
            client.put_object(Bucket=name, Key=str(path.relative_to(output / "store")), Body=path.read_bytes())
    in_folder = to_delete(make())
    shutil.rmtree(output / "store")
    remote = make(store=Store(uri))
    gone = to_delete(remote)
    assert gone == in_folder
    report = remote.run()
    assert (report["deleted"]["store"]["count"], report["search"]["found"]) == (len(gone), 0)
    (said,) = [limit for limit in report["limits"] if limit.startswith(f"storage s3://{name} ")]
    assert "keeps older versions of deleted objects (versioning: Enabled)" in said
    kept = client.list_object_versions(Bucket=name)  # what is said is true
    assert {one["Key"].rpartition("/")[0] for one in kept["DeleteMarkers"]} >= set(gone)
    assert {one["Key"].rpartition("/")[0] for one in kept["Versions"]} >= set(gone)


def test_the_plan_of_another_purge_is_refused(make, rows):
    make().run()
    with pytest.raises(UserError, match="of other rows"):
        make(rows=rows[1:]).listed()


def test_reports_that_name_the_request_go(make, output):
    (output / "report.html").write_text("forget 30 rows of request-of-anna.csv")
    (output / "table.md").write_text("nothing of it")
    make(names=["request-of-anna.csv"]).run()
    assert not (output / "report.html").exists()
    assert (output / "table.md").exists()
