"""MLflow is told everything once, whoever tells it at the same time, and whether it is there or not."""

import json
import multiprocessing
import re
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient, pyfunc
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from mlflow.utils.rest_utils import verify_rest_response
from requests import Response

from amun_ray import models
from amun_ray.base.errors import UserError
from amun_ray.metrics import predict
from amun_ray.models import checkpoint
from amun_ray.tracking import Event, Tracker, contact, load_model, registered_name, saved, saved_model

PROCESSES, EACH = 8, 4
ENDED = 1_700_000_090.5  # a time in seconds since 1970
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def child(parent: str, number: int, **more) -> Event:
    """A run with one value of every kind."""
    content = {"tags": {"stage": "trial", "number": number}, "params": {"lr": 0.1}, "status": "FINISHED",
               "metrics": [("gap", float(step), step) for step in range(5)],
               "files": {"notes/number.txt": str(number).encode()}}
    return Event(parent=parent, key=f"work {number}", name=f"run {number}", **content | more)


def runs(uri: str) -> list:
    client = MlflowClient(tracking_uri=uri)
    return client.search_runs([client.get_experiment_by_name("sweeps").experiment_id], max_results=1000)


def check_whole(uri: str, parent: str, numbers: range) -> None:
    """Every run of `child` is there once, finished, with all that belongs to it."""
    client = MlflowClient(tracking_uri=uri)
    found = [run for run in runs(uri) if run.info.run_id != parent]
    assert sorted(int(run.data.tags["number"]) for run in found) == list(numbers)
    for run in found:
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent
        assert run.data.params == {"lr": "0.1"}
        assert [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "gap")] == [
            (step, float(step)) for step in range(5)]
        assert [one.path for one in client.list_artifacts(run.info.run_id, "notes")] == ["notes/number.txt"]


def test_an_event_is_logged_once(database, open_tracker):
    first, parent = open_tracker(database)
    run = first.log(child(parent, 0))
    assert first.log(child(parent, 0)) == run
    second, again = open_tracker(database)
    assert again == parent
    assert second.log(child(parent, 0)) == run
    check_whole(database, parent, range(1))


def test_the_run_of_the_sweep_is_added_to_and_closed(database, open_tracker, tmp_path):
    one, parent = open_tracker(database)
    one.log(Event(key="sweep", metrics=[("seconds", 2.0, 0)], tags={"commit": "abc"}, files={"a.txt": b"a"}))
    one.log(Event(key="sweep", metrics=[("seconds", 3.0, 0)], files={"a.txt": b"b"}))
    (run,) = runs(database)
    assert (run.info.status, run.data.metrics["seconds"], run.data.tags["commit"]) == ("RUNNING", 3.0, "abc")
    one.close("sweep", "KILLED")
    (run,) = runs(database)
    assert (run.info.run_id, run.info.status, run.data.params) == (parent, "KILLED", {"seed": "0"})
    assert next(tmp_path.glob("artifacts/*/artifacts/a.txt")).read_bytes() == b"b"


def test_a_run_lies_below_its_part_and_took_as_long_as_its_work(database, open_tracker):
    one, parent = open_tracker(database)
    part = one.start(Event(key="sweep:search", above=parent, name="search", status="RUNNING"))
    run = MlflowClient(tracking_uri=database).get_run(one.log(child(parent, 0, above=part, ended=ENDED, seconds=90.5)))
    assert MlflowClient(tracking_uri=database).get_run(part).data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["mlflow.parentRunId"] == part
    assert (run.info.start_time, run.info.end_time) == (1_700_000_000_000, 1_700_000_090_500)
    again, _ = open_tracker(database)
    assert again.start(Event(key="sweep:search", above=parent, name="search", status="RUNNING")) == part
    assert again.log(child(parent, 0, above=part)) == run.info.run_id


def test_datasets_and_descriptions_are_where_mlflow_shows_them(database, open_tracker):
    one, parent = open_tracker(database)
    long = "\n".join(["first line", *["x" * 99] * 100])
    run = MlflowClient(tracking_uri=database).get_run(one.log(child(
        parent, 0, description=long, datasets=[("digits D_F", "d" * 64, 70, "D_F"), ("digits D_R", "e", 630, "D_R")])))
    assert artifact(database, run.info.run_id, "description.md") == long
    note = run.data.tags["mlflow.note.content"]
    assert note.startswith("first line\nxxx")
    assert note.endswith("x\n\n(cut to MLflow's limit; the whole is the artifact description.md)")
    assert 7800 < len(note) <= 8000
    found = {used.dataset.name: (used.dataset.digest, json.loads(used.dataset.profile)["num_rows"], used.tags[0].value)
             for used in run.inputs.dataset_inputs}
    assert found == {"digits D_F": ("d" * 36, 70, "D_F"), "digits D_R": ("e", 630, "D_R")}


def artifact(uri: str, run: str, path: str) -> str:
    return Path(MlflowClient(tracking_uri=uri).download_artifacts(run, path)).read_text()


@pytest.mark.parametrize(("taken", "lines"), [(8000, 79), (5000, 49), (500, 4)])
def test_of_a_description_as_many_lines_as_the_server_takes(database, open_tracker, monkeypatch, taken, lines):
    set_tag = MlflowClient.set_tag

    def strict(client, run, key, value):
        if len(value) > taken:
            raise MlflowException("too long", INVALID_PARAMETER_VALUE)
        set_tag(client, run, key, value)

    monkeypatch.setattr(MlflowClient, "set_tag", strict)
    one, parent = open_tracker(database)
    text = "\n".join(f"{number:99}" for number in range(100))
    one.log(Event(key="sweep", description=text))
    note = MlflowClient(tracking_uri=database).get_run(parent).data.tags["mlflow.note.content"]
    assert note.partition("\n\n(cut")[0] == "\n".join(text.splitlines()[:lines])
    assert artifact(database, parent, "description.md") == text


def test_a_description_that_fits_is_no_artifact(database, open_tracker):
    one, parent = open_tracker(database)
    one.log(Event(key="sweep", description="x" * 8000))
    client = MlflowClient(tracking_uri=database)
    assert client.get_run(parent).data.tags["mlflow.note.content"] == "x" * 8000
    assert client.list_artifacts(parent) == []
    one.log(Event(key="sweep", description="x" * 8001))  # one line that does not fit
    assert client.get_run(parent).data.tags["mlflow.note.content"].startswith("x" * 7900)


def test_an_experiment_is_shown_as_training_and_keeps_what_others_say_of_it(database, open_tracker):
    client = MlflowClient(tracking_uri=database)
    client.create_experiment("sweeps", tags={"mlflow.note.content": "ours"})
    open_tracker(database)
    tags = client.get_experiment_by_name("sweeps").tags
    assert (tags["mlflow.experimentKind"], tags["mlflow.note.content"]) == ("custom_model_development", "ours")


CUT_OFF = MlflowException("the connection was cut off", TEMPORARILY_UNAVAILABLE)


def lost(method, error=CUT_OFF):
    """The method, whose first reply is lost after it has taken effect."""
    calls = []

    def called(*args, **more):
        result = method(*args, **more)
        calls.append(1)
        if len(calls) == 1:
            raise error
        return result
    return called


@pytest.mark.parametrize("step", ["log_batch", "set_terminated", "create_run", "log_artifacts", "log_inputs"])
def test_what_is_sent_again_after_a_lost_reply_counts_once(database, open_tracker, monkeypatch, step):
    one, parent = open_tracker(database)
    monkeypatch.setattr(MlflowClient, step, lost(getattr(MlflowClient, step)))
    assert one.log(child(parent, 0, datasets=[("D_F", "d", 70, "D_F")])) is None
    one.close("sweep", "RUNNING")
    check_whole(database, parent, range(1))
    (run,) = [run for run in runs(database) if run.info.run_id != parent]
    assert [used.dataset.name for used in run.inputs.dataset_inputs] == ["D_F"]


def gateway_timeout() -> MlflowException:
    """What MLflow makes of the page by which a proxy ends a request that took longer than its limit."""
    response = Response()
    response.status_code, response._content = 504, b"<html><h1>504 Gateway Time-out</h1></html>"
    with pytest.raises(MlflowException) as error:
        verify_rest_response(response, "/api/2.0/mlflow/runs/log-batch")
    return error.value


@pytest.mark.parametrize("step", ["log_batch", "log_artifacts"])
def test_a_proxy_that_gives_up_loses_nothing(database, open_tracker, monkeypatch, step):
    """The server goes on with what it was asked, and the event waits in the spool and is sent again."""
    assert not contact.is_refusal(gateway_timeout())
    tracker, parent = open_tracker(database)
    monkeypatch.setattr(MlflowClient, step, lost(getattr(MlflowClient, step), gateway_timeout()))
    assert tracker.log(child(parent, 0)) is None
    assert len([*tracker._spool.waiting()]) == 1
    tracker.close("sweep", "RUNNING")
    assert not [*tracker._spool.waiting()]
    check_whole(database, parent, range(1))


def test_metrics_of_the_sweep_that_are_sent_again_are_there_once(database, open_tracker, monkeypatch):
    one, parent = open_tracker(database)
    monkeypatch.setattr(MlflowClient, "log_batch", lost(MlflowClient.log_batch))
    assert one.log(Event(key="sweep", metrics=[("gap", 1.0, step) for step in range(400)])) is None
    one.close("sweep", "FINISHED")
    assert len(MlflowClient(tracking_uri=database).get_metric_history(parent, "gap")) == 400


@pytest.mark.parametrize("step", ["log_batch", "log_inputs"])
def test_a_sweep_whose_start_was_cut_off_gets_its_parameters_and_datasets(database, open_tracker, monkeypatch, step):
    one, _ = open_tracker(database)
    event = Event(key="cut", name="cut", params={"seed": 0}, datasets=[("D", "d", 9, "D"), ("D_T", "t", 3, "D_T")])
    monkeypatch.setattr(MlflowClient, step, away)
    with pytest.raises(UserError):
        one.start(event)
    monkeypatch.undo()
    for _ in range(2):
        run = MlflowClient(tracking_uri=database).get_run(one.start(event))
        assert run.data.params == {"seed": "0"}
        assert sorted(used.dataset.name for used in run.inputs.dataset_inputs) == ["D", "D_T"]


def test_what_is_logged_is_asked_for_once(database, open_tracker, monkeypatch):
    """However many runs there are: each question takes a moment, and a sweep may have thousands."""
    one, parent = open_tracker(database)
    ids = [one.log(child(parent, number)) for number in range(4)]
    again, _ = open_tracker(database)
    asked, ask = [], MlflowClient.search_runs
    monkeypatch.setattr("amun_ray.tracking.tracker.PAGE", 3)
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *args, **more: asked.append(1) or ask(*args, **more))
    assert [again.log(child(parent, number)) for number in range(4)] == ids
    assert len(asked) == 2  # two pages


def test_what_counts_for_the_moment_is_shown_at_times_and_never_waits(database, open_tracker, monkeypatch, tmp_path):
    one, parent = open_tracker(database)
    for text in ("1 of 9", "2 of 9"):
        one.show(Event(key="sweep", description=text))
    client = MlflowClient(tracking_uri=database)
    assert client.get_run(parent).data.tags["mlflow.note.content"] == "1 of 9"
    one._shown -= 10
    one.show(Event(key="sweep", description="3 of 9"))
    assert client.get_run(parent).data.tags["mlflow.note.content"] == "3 of 9"
    one._shown -= 10
    monkeypatch.setattr(MlflowClient, "log_batch", away)
    one.show(Event(key="sweep", description="4 of 9"))
    assert not (tmp_path / "spool").exists()


def test_more_metrics_than_one_request_takes(database, open_tracker):
    one, parent = open_tracker(database)
    run = one.log(child(parent, 0, metrics=[("gap", 1.0, step) for step in range(1201)],
                        params={f"p{number}": number for number in range(205)}))
    client = MlflowClient(tracking_uri=database)
    assert len(client.get_metric_history(run, "gap")) == 1201
    assert len(client.get_run(run).data.params) == 205


def test_a_run_that_was_cut_off_is_made_again(database, open_tracker, monkeypatch):
    one, parent = open_tracker(database)
    monkeypatch.setattr(MlflowClient, "set_terminated", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        one.log(child(parent, 0))
    monkeypatch.undo()
    assert [run.info.status for run in runs(database) if run.info.run_id != parent] == ["RUNNING"]
    one.log(child(parent, 0))
    check_whole(database, parent, range(1))


def write_runs(uri: str, folder: str, parent: str, process: int) -> int:
    """In a process of its own: log `EACH` runs; returns how many MLflow took at once."""
    mine = Tracker(uri, "sweeps", None, spool=Path(folder, str(process)), say=print)
    return sum(mine.log(child(parent, EACH * process + number)) is not None for number in range(EACH))


def test_eight_processes_at_once_lose_nothing(database, open_tracker, tmp_path):
    _, parent = open_tracker(database)
    context = multiprocessing.get_context("forkserver")  # which imports MLflow once for all of them
    context.set_forkserver_preload([__name__])
    with context.Pool(PROCESSES) as pool:
        taken = pool.map(partial(write_runs, database, str(tmp_path / "spools"), parent), range(PROCESSES), 1)
    assert taken == [EACH] * PROCESSES
    check_whole(database, parent, range(PROCESSES * EACH))


@pytest.mark.parametrize("how", ["killed", "hangs"])
def test_a_server_that_goes_away_loses_nothing(how, server, open_tracker, said, tmp_path, monkeypatch):
    """It is told a run while it is there, one while it is not, and one when it is back; nobody is started anew."""
    for name, value in (("FIRST_CONTACT_SECONDS", 5), ("PATIENCE_SECONDS", 5), ("RETRIES", 0)):
        monkeypatch.setattr(contact, name, value)
    one, parent = open_tracker(server.uri)
    assert one.log(child(parent, 0)) is not None
    if how == "killed":
        server.kill()
    else:
        server.signal(signal.SIGSTOP)
    assert one.log(child(parent, 1)) is None
    assert one.log(child(parent, 2)) is None  # without asking again so soon
    assert len(said) == 1
    assert said[0].startswith(f"MLflow does not answer; events will wait in {tmp_path / 'spool'}: ")
    if how == "killed":
        server.start()
    else:
        server.signal(signal.SIGCONT)
    monkeypatch.setattr(contact, "FIRST_CONTACT_SECONDS", 60)
    monkeypatch.setattr(contact, "PATIENCE_SECONDS", 60)
    one._ask_again = 0.0
    assert one.log(child(parent, 3)) is not None
    assert said[1:] == ["MLflow: 2 waiting events have been sent"]
    assert not (tmp_path / "spool").exists()
    check_whole(server.uri, parent, range(4))


def away(*_, **__):
    raise MlflowException("API request failed: connection refused")


def test_what_the_end_of_a_sweep_could_not_send_is_sent_by_the_next_start(database, open_tracker, said, tmp_path,
                                                                          monkeypatch):
    one, parent = open_tracker(database)
    monkeypatch.setattr(MlflowClient, "log_batch", away)
    assert one.log(child(parent, 0)) is None
    one.close("sweep", "FINISHED")
    assert said[-1] == f"MLflow: 2 events wait in {tmp_path / 'spool'}; the same command again sends them"
    monkeypatch.undo()
    again, _ = open_tracker(database)
    assert said[-1] == "MLflow: 2 waiting events have been sent"
    again.close("sweep", "FINISHED")
    check_whole(database, parent, range(1))
    assert not (tmp_path / "spool").exists()


def test_a_damaged_event_is_set_aside_and_holds_up_no_other(database, open_tracker, said, tmp_path, monkeypatch):
    one, parent = open_tracker(database)
    monkeypatch.setattr(MlflowClient, "log_batch", away)
    one.log(child(parent, 0))
    one.log(child(parent, 1))
    monkeypatch.undo()
    event = tmp_path / "spool" / "00000001" / "event.json"
    event.write_text(event.read_text()[:40])
    said.clear()
    open_tracker(database)
    assert said[0].startswith(f"MLflow: {event.parent}: not an event that was kept whole: ")
    assert said[0].endswith("; set aside, its work is logged again from the store")
    assert said[1] == "MLflow: 1 waiting events have been sent"
    assert [path.name[:16] for path in (tmp_path / "spool").iterdir()] == ["damaged-00000001"]
    again, _ = open_tracker(database)
    assert again.log(child(parent, 0)) is not None  # as its sweep does, from the store
    check_whole(database, parent, range(2))


def test_an_event_that_mlflow_refuses_is_kept_and_holds_up_no_other(database, open_tracker, said, tmp_path):
    one, parent = open_tracker(database)
    assert one.log(child(parent, 0, metrics=[("not/@allowed!", 1.0, 0)])) is None
    assert said[0].startswith(f"MLflow refuses an event, which is kept in {tmp_path / 'spool'}: ")
    assert one.log(child(parent, 1)) is not None
    one.close("sweep", "FINISHED")
    assert said[-1].startswith("MLflow: 1 events wait")
    again, _ = open_tracker(database)
    assert said[-1].startswith(f"MLflow refuses {tmp_path / 'spool' / '00000001'}: ")
    assert again.log(child(parent, 2)) is not None


def test_a_sweep_does_not_begin_without_mlflow(database, open_tracker, monkeypatch):
    monkeypatch.setattr(MlflowClient, "create_run", away)
    with pytest.raises(UserError, match="MLflow cannot be used: API request failed"):
        open_tracker(database)


NAMES = [str(3 * number) for number in range(10)]  # labels with gaps: the classes are called by them


@pytest.fixture
def network():
    return models.build("small_cnn", channels=1, classes=10, size=8, mean=[0.3], std=[0.3], seed=0)


@pytest.fixture
def folder(network):
    description = {"name": "small_cnn", "options": {}, "channels": 1, "classes": 10, "size": 8, "mean": [0.3],
                   "std": [0.3], "class_names": NAMES}
    return saved_model(description, checkpoint.save(network, {}), (1, 8, 8))


def test_a_registered_model_predicts_the_same_bit_for_bit(database, open_tracker, network, folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    one, parent = open_tracker(database)
    run = one.log(child(parent, 0, model=folder, registered="forgetful", description="what it is"))
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    wanted = predict(network, images)
    for source in (run, "models:/forgetful@best", "models:/forgetful/1"):
        assert torch.equal(predict(load_model(source, uri=database), images), wanted)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    served = pyfunc.load_model("models:/forgetful@best")
    np.testing.assert_array_equal(served.predict(images.numpy()), wanted.numpy())
    assert served.metadata.signature.inputs.to_dict()[0]["tensor-spec"] == {"dtype": "float32", "shape": (-1, 1, 8, 8)}
    assert served.input_example.shape == (1, 1, 8, 8)
    assert served.metadata.metadata == {"class_names": NAMES}
    assert served.get_raw_model().class_names == load_model(run, uri=database).class_names == tuple(NAMES)
    with pytest.raises(MlflowException, match="shape"):
        served.predict(images.numpy()[:, :, 1:])
    (logged,) = MlflowClient(tracking_uri=database).search_logged_models(
        [MlflowClient(tracking_uri=database).get_run(run).info.experiment_id])
    assert logged.source_run_id == run
    assert [(metric.key, metric.step, metric.value) for metric in logged.metrics] == [("gap", 4, 4.0)]  # the last
    version = MlflowClient(tracking_uri=database).get_model_version("forgetful", "1")
    assert (version.description, version.tags) == ("what it is", {"stage": "trial", "number": "0"})


def test_what_was_recorded_of_one_model_is_never_said_of_other_weights(database, open_tracker, folder, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    one, parent = open_tracker(database)
    other = checkpoint.save(models.build("small_cnn", channels=1, classes=10, size=8, mean=[0.3], std=[0.3], seed=1),
                            {})
    flipped = bytearray(folder["weights.safetensors"])
    flipped[-1] ^= 1
    for number, weights in enumerate((other, bytes(flipped), flipped[:-4], b"")):
        run = one.log(child(parent, number, model=folder | {"weights.safetensors": bytes(weights)},
                            registered="forgetful"))
        for source, address in ((run, f"runs:/{run}/model"), ("models:/forgetful@best",) * 2):
            with pytest.raises(UserError, match=f"^{address}: weights.safetensors: damaged, or of another model: "):
                load_model(source, uri=database)
        with pytest.raises(UserError, match="damaged, or of another model"):
            pyfunc.load_model("models:/forgetful@best")


def test_a_model_that_was_logged_without_checksums_is_checked_by_its_digest(database, open_tracker, network, folder):
    one, parent = open_tracker(database)
    described = json.loads(folder["model.json"])
    del described["sha256"]
    weights = bytearray(checkpoint.save(network, {"digest": checkpoint.digest(network)}))
    earlier = folder | {"model.json": json.dumps(described).encode(), "weights.safetensors": bytes(weights)}
    assert load_model(one.log(child(parent, 0, model=earlier)), uri=database)
    weights[-1] ^= 1
    run = one.log(child(parent, 1, model=earlier | {"weights.safetensors": bytes(weights)}))
    with pytest.raises(UserError, match=f"^runs:/{run}/model: weights.safetensors: damaged: its tensors have"):
        load_model(run, uri=database)


def test_a_model_is_registered_once_and_best_moves_to_a_lower_search_score_of_the_same_request_alone(
        database, open_tracker, folder, said):
    one, parent = open_tracker(database)
    client = MlflowClient(tracking_uri=database)
    stays = "MLflow: models:/forgetful@{} stays version {}, {}; the model of this sweep is models:/forgetful/{}".format
    other, worse, differs = ("which is for another request", "whose search score is no higher",
                             "which was searched with another objective")
    for number, request, objective, score, best, lines in (
            (0, "a1", "average_gap", 3.0, {"best": 1, "best-a1": 1}, []),
            (0, "a1", "average_gap", 3.0, {"best": 1, "best-a1": 1}, []),
            (1, "a1", "average_gap", 2.5, {"best": 2, "best-a1": 2}, []),
            (0, "a1", "average_gap", 3.0, {"best": 2, "best-a1": 2},
             [stays("best", 2, worse, 1), stays("best-a1", 2, worse, 1)]),
            (2, "b2", "average_gap", 0.1, {"best": 2, "best-a1": 2, "best-b2": 3}, [stays("best", 2, other, 3)]),
            (3, "a1", "proxy", 0.1, {"best": 2, "best-a1": 2, "best-b2": 3},
             [stays("best", 2, differs, 4), stays("best-a1", 2, differs, 4)])):
        tags = {"request": request, "search.objective": objective, "search.score": repr(score)}
        one.log(child(parent, number, model=folder, registered="forgetful", tags=tags))
        aliases = client.get_registered_model("forgetful").aliases
        assert {alias: int(version) for alias, version in aliases.items()} == best
        assert said == lines
        said.clear()
    assert len(client.search_model_versions("name = 'forgetful'")) == 4


def test_best_stays_at_a_model_whose_request_nobody_knows(database, open_tracker, folder, said):
    """As versions before this one have registered it."""
    one, parent = open_tracker(database)
    one.log(child(parent, 0, model=folder, registered="forgetful"))
    tags = {"request": "a1", "search.objective": "proxy", "search.score": "0.0"}
    one.log(child(parent, 1, model=folder, registered="forgetful", tags=tags))
    aliases = MlflowClient(tracking_uri=database).get_registered_model("forgetful").aliases
    assert {alias: int(version) for alias, version in aliases.items()} == {"best": 1, "best-a1": 2}
    assert "stays version 1, which is for another request" in said[0]


def test_names_that_a_registry_takes():
    assert registered_name("my sweep/1", "mine.code:METHOD", "retain") == "my-sweep-1-mine.code-METHOD-retain"


def test_a_model_that_is_not_there_is_named(database, open_tracker):
    one, parent = open_tracker(database)
    run = one.log(child(parent, 0))
    for source in (run, "0" * 32, "models:/nobody@best", "models:/nobody/1"):
        with pytest.raises(UserError, match=f"{source}.*: not found at tracking.uri"):
            load_model(source, uri=database)


def test_weights_that_are_not_there_are_named_beside_those_that_are(database, open_tracker, folder):
    one, parent = open_tracker(database)
    run = one.log(child(parent, 0, model=folder))
    with pytest.raises(UserError, match=f"runs:/{run}/model: no weights-7 there, but .*weights.safetensors"):
        load_model(run, uri=database, weights="weights-7")


@pytest.fixture
def disguised(network, tmp_path, monkeypatch):
    """A model whose `model.json` names code that leaves a file behind: its files, and that file."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("AMUN_ALLOW_CODE", raising=False)
    monkeypatch.delitem(sys.modules, "disguised", raising=False)
    (tmp_path / "disguised.py").write_text("from pathlib import Path\nfrom amun_ray.models import SmallCNN\n"
                                           "Path(__file__).with_name('was here').touch()\n")
    description = SOUND | {"name": "disguised:SmallCNN"}
    return saved_model(description, checkpoint.save(network, {}), (1, 8, 8)), tmp_path / "was here"


def test_code_that_a_registry_names_runs_only_where_the_caller_names_it(database, open_tracker, disguised, network,
                                                                        monkeypatch):
    files, trace = disguised
    one, parent = open_tracker(database)
    one.log(child(parent, 0, model=files, registered="forgetful"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    source, wanted = "models:/forgetful@best", predict(network, torch.zeros(1, 1, 8, 8))
    for load in (partial(load_model, source), partial(load_model, source, own=("disguised:Other", "torch.hub")),
                 partial(pyfunc.load_model, source)):
        with pytest.raises(UserError, match=re.escape(
                "model.json names code, 'disguised:SmallCNN', which is not run unless you allow it. If you trust it: "
                "load_model(..., own=('disguised:SmallCNN',))")):
            load()
        assert not trace.exists()
    with pytest.raises((TypeError, UserError)):  # a file could bring the same
        pyfunc.load_model(source, model_config={"own": "disguised"})
    assert not trace.exists()
    for own in ("disguised:SmallCNN", ("disguised",)):
        assert torch.equal(predict(load_model(source, own=own), torch.zeros(1, 1, 8, 8)), wanted)
    assert trace.exists()
    monkeypatch.setenv("AMUN_ALLOW_CODE", "disguised:SmallCNN")
    np.testing.assert_array_equal(pyfunc.load_model(source).predict(np.zeros((1, 1, 8, 8), np.float32)), wanted.numpy())


SOUND = {"name": "small_cnn", "options": {}, "channels": 1, "classes": 10, "size": 8, "mean": [0.3], "std": [0.3]}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "[" * 10**5, *(json.dumps(SOUND | wrong) for wrong in (
    {"name": 3}, {"mean": ["0"]}, {"mean": 0.3}, {"seed": 1}, {"size": None}, {"options": []}, {"class_names": "cat"},
    {"class_names": ["cat"]}, {"class_names": [*range(10)]}))])
def test_a_description_of_something_else_is_one_line(network, tmp_path, text):
    (tmp_path / "model.json").write_text(text)
    (tmp_path / "weights.safetensors").write_bytes(checkpoint.save(network, {}))
    with pytest.raises(UserError, match=f"^{tmp_path}: model.json does not describe a model as this package does"):
        saved._load_pyfunc(str(tmp_path))
    (tmp_path / "model.json").write_text(json.dumps(SOUND))
    assert saved._load_pyfunc(str(tmp_path)).model.class_names == ()  # logged before there were names
