"""`amun-forget` as a user runs it: requests on a finished sweep, mistakes in one line, kills that change nothing."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sweeping import CONFIG, Sweep

from amun_ray import data
from amun_ray.forget import main
from amun_ray.ledger import Entry, Ledger, database

LENIENT = ("--set", "requests.limits={test_accuracy_lost: 50, forget_test_auc: 100}", "--set", "requests.recheck=2")
ON_REQUEST = pytest.mark.skipif(not os.environ.get("AMUN_ENDURANCE"), reason="minutes each; set AMUN_ENDURANCE=1")
PASSING = {"time", "seconds", "run", "ledger", "before", "digest", "received"}  # what no two runs have in common


class Forget(Sweep):
    """`python amun_ray/forget.py ...`, with the config of the small sweep unless another is given."""

    script = "forget.py"


def request(folder: Path, *rows: int) -> Path:
    path = folder / f"rows-{'-'.join(map(str, rows))}.csv"
    path.write_text("\n".join(["index", *map(str, rows), ""]))
    return path


def forget(output: Path, *arguments: str | Path) -> Forget:
    return Forget("--config", CONFIG, "--output", output, *LENIENT, *arguments)


@pytest.fixture
def output(undisturbed, tmp_path):
    """The folder of a finished sweep, to be changed."""
    copy = tmp_path / "output"
    shutil.copytree(undisturbed[1], copy)
    return copy


def entries(output: Path) -> list:
    return list(Ledger(f"sqlite:///{output / 'ledger.db'}", output / "ledger.anchor").history.entries)


def told(output: Path) -> list:
    """What the ledger says, without what differs between two runs."""
    def kept(value):
        if isinstance(value, dict):
            return {key: kept(one) for key, one in value.items() if key not in PASSING or isinstance(one, dict)}
        return value
    return [(entry.kind, entry.requests, json.dumps(kept(dict(entry.content)), sort_keys=True))
            for entry in entries(output)]


def alias(output: Path) -> str:
    from mlflow import MlflowClient
    client = MlflowClient(tracking_uri=f"sqlite:///{output / 'mlflow.db'}")
    return str(client.get_model_version_by_alias("small", "production").version)


@ON_REQUEST
def test_two_requests_one_after_another(output, tmp_path):
    """The whole life: received, met, promoted; a second one on the new model, rechecked; a third that is refused."""
    first = forget(output, "--request", request(tmp_path, 3, 5, 8, 9), "--by", "the person", "--promote").finish()
    assert [(entry.kind, entry.requests) for entry in entries(output)] == [
        ("opened", ()), ("received", ("r1",)), ("begun", ("r1",)), ("finished", ("r1",)), ("promoted", ("r1",))]
    opened, received, begun, finished, promoted = (entry.content for entry in entries(output))
    assert [row for row, _ in received["rows"]] == [3, 5, 8, 9]
    assert received["by"] == "the person"
    assert begun["gone"]["count"] == 0
    assert begun["model"] == opened["original"]["weights"]
    assert finished["accepted"]
    assert promoted["model"] == finished["model"]["weights"] != opened["original"]["weights"]
    assert (promoted["before"], promoted["version"]) == ("1", "2") == (finished["current"], alias(output))
    assert "accepted: version 2" in first.text

    from amun_ray.models import checkpoint
    from amun_ray.tracking import load_model
    served = load_model("models:/small@production", uri=f"sqlite:///{output / 'mlflow.db'}")
    assert checkpoint.digest(served) == promoted["model"]

    again = forget(output, "--request", request(tmp_path, 3, 5, 8, 9)).finish(2)
    assert "every row was asked for before: 4 rows as r1 (promoted); there is nothing left to forget" in again.text
    assert len(entries(output)) == 5

    second = forget(output, "--request", request(tmp_path, 9, 20, 21, 22), "--promote").finish()
    assert "1 of 4 rows were asked for before, as r1" in second.text
    begun, finished, promoted = (entry.content for entry in entries(output)[-3:])
    assert (begun["step"], begun["gone"]["count"], begun["rows"]["count"], begun["recheck"]) == (2, 4, 3, True)
    assert begun["model"] == entries(output)[4].content["model"]
    assert finished["evidence"]["average_gap"] >= 0
    assert (promoted["before"], promoted["version"]) == ("2", "3")

    third = forget(output, "--request", request(tmp_path, 40, 41), "--promote",
                   "--set", "requests.limits.forget_test_auc=0").finish(1)
    assert "refused: forget_test_auc is" in third.text
    assert alias(output) == "3"
    status = forget(output, "--status").finish().text
    assert "models:/small@production, version 3" in status
    assert [line.split("|")[5].strip() for line in status.splitlines() if re.match(r"\| r\d", line)] == [
        "promoted", "promoted", "refused"]
    assert "none was changed or removed" in forget(output, "--verify").finish().text


@ON_REQUEST
def test_requests_wait_for_each_other_and_an_accepted_model_for_its_promotion(output, tmp_path):
    batch = ("--set", "requests.batch.rows=5")
    assert "nothing is due" in forget(output, *batch, "--request", request(tmp_path, 3, 5)).finish().text
    assert "nothing is due" in forget(output, *batch, "--due").finish().text
    assert [entry.kind for entry in entries(output)] == ["opened", "received"]
    forget(output, *batch, "--request", request(tmp_path, 8, 9, 10)).finish()
    assert entries(output)[-1].requests == ("r1", "r2")
    assert [entry.kind for entry in entries(output)] == ["opened", "received", "received", "begun", "finished"]
    assert alias(output) == "1"
    forget(output, *batch, "--promote").finish()
    assert entries(output)[-1].kind == "promoted"
    assert alias(output) == "2"


@pytest.mark.parametrize(("arguments", "message"), [
    (["--request", "none.csv"], "none.csv: "),
    (["--request", "{folder}/far.csv"], "beyond the training set"),
    (["--request", "{folder}/near.csv", "--method", "salun"], "--method salun: no row of the sweep's table"),
    (["--request", "{folder}/half.csv"], "more than half of the 300"),
    (["--request", "{folder}/near.csv", "--set", "search.trials=4"], "no finished sweep of this config"),
    (["--request", "{folder}/near.csv", "--set", "requests.ledger=mysql://host/name"], "must be sqlite:///PATH or"),
    (["--purge", "r1"], "--purge r1: no such request; there are none"),
    (["--status"], "no ledger at"),
    (["--verify"], "no ledger at"),
])
def test_a_mistake_is_one_line_and_leaves_nothing(undisturbed, tmp_path, capsys, arguments, message):
    lists(tmp_path)
    check_refused(undisturbed[1], tmp_path, capsys, arguments, message)


def lists(folder: Path) -> None:
    zeros = np.flatnonzero(data.load("digits", train_size=300).labels[:300] == 0)
    for name, rows in (("far", [3, 5000]), ("near", [3]), ("two", [3, 5]), ("half", range(160)), ("zeros", zeros)):
        (folder / f"{name}.csv").write_text("\n".join(["index", *map(str, rows), ""]))


def check_refused(output: Path, folder: Path, capsys, arguments: list[str], message: str) -> None:
    """One line, exit code 2, and no file of the output made or changed."""
    def files():
        return {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    before = files()
    assert main(["--config", str(CONFIG), "--output", str(output), *LENIENT,
                 *(one.format(folder=folder) for one in arguments)]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert files() == before


def overwritten(output: Path, monkeypatch) -> None:
    (output / "ledger.db").write_bytes(b"no database at all" * 100)


def changed(output: Path, monkeypatch) -> None:
    with closing(sqlite3.connect(output / "ledger.db")) as connection:
        connection.execute("DROP TRIGGER amun_ledger_no_UPDATE")
        connection.execute("UPDATE amun_ledger SET content = replace(content, '[[3', '[[4') WHERE number = 1")
        connection.commit()


def without_anchor(output: Path, monkeypatch) -> None:
    (output / "ledger.anchor").unlink()


def without_ledger(output: Path, monkeypatch) -> None:
    (output / "ledger.db").unlink()


def yesterday(output: Path, monkeypatch) -> None:
    class Yesterday(datetime):
        @classmethod
        def now(cls, zone):
            return datetime.now(zone) - timedelta(days=1)
    monkeypatch.setattr(database, "datetime", Yesterday)


def as_it_is(output: Path, monkeypatch) -> None:
    pass


@pytest.mark.parametrize(("happens", "arguments", "message"), [
    (as_it_is, ["--request", "{folder}/near.csv"], "every row was asked for before: 1 row as r1 (received); there is"),
    (as_it_is, ["--request", "{folder}/zeros.csv"], "these are all training images of class 0 that are left; a whole"),
    (as_it_is, ["--request", "{folder}/far.csv", "--set", "data.train_size=299"], "no finished sweep of this config"),
    (as_it_is, ["--due", "--set", "name=other"], "of another project: its name is small, this config has other"),
    (as_it_is, ["--purge", "r1"], "--purge r1: it is received; a request is purged when the model that forgot it"),
    (as_it_is, ["--purge", "r2"], "--purge r2: no such request; there are r1"),
    (as_it_is, ["--verify", "--trust", "abc"], "--trust abc: no entry of ledger "),
    (overwritten, ["--due"], "file is not a database"),
    (changed, ["--due"], "entry 1 (received r1) was changed: its digest is not that of its text"),
    (without_anchor, ["--verify"], "ledger.anchor: is gone; only this file shows whether entries were cut off"),
    (without_ledger, ["--verify"], "entries 0 to 1 at its end were removed"),
    (yesterday, ["--request", "{folder}/far.csv", "--set", "requests.batch.rows=100"], "; set the clock"),
])
def test_a_mistake_with_a_ledger_is_one_line_and_changes_nothing(output, tmp_path, capsys, monkeypatch, happens,
                                                                 arguments, message):
    lists(tmp_path)
    (tmp_path / "far.csv").write_text("index\n7\n8\n")
    assert main(["--config", str(CONFIG), "--output", str(output), "--request", str(tmp_path / "two.csv"),
                 "--set", "requests.batch.rows=100"]) == 0
    assert "nothing is due: waiting: 1 request, 2 rows" in capsys.readouterr().out
    happens(output, monkeypatch)
    check_refused(output, tmp_path, capsys, arguments, message)


def many(output: Path, requests: int) -> Ledger:
    """A ledger of this many requests, each promoted, as production writes them."""
    ledger = Ledger(f"sqlite:///{output / 'ledger.db'}", output / "ledger.anchor")
    last, found = None, []
    for kind, names, content in [("opened", [], {"original": {"weights": "w0", "test_accuracy": 99.0}}), *(
            entry for number in range(1, requests + 1) for entry in life(number))]:
        last = Entry.after(last, kind, names, f"2030-01-01T00:00:{len(found):09.6f}+00:00", content)
        found.append(last)
    ledger.append("opened", content={})  # makes the table; put in its place below
    with sqlite3.connect(output / "ledger.db") as database:
        database.execute("DROP TABLE amun_ledger")
        database.execute("CREATE TABLE amun_ledger (number INTEGER PRIMARY KEY, kind TEXT, requests TEXT, time TEXT, "
                         "content TEXT, before TEXT, digest TEXT)")
        database.executemany("INSERT INTO amun_ledger VALUES (?, ?, ?, ?, ?, ?, ?)", [
            (one.number, one.kind, json.dumps(one.requests), one.time, json.dumps(one.content), one.before, one.digest)
            for one in found])
    (output / "ledger.anchor").write_text(f"{last.number} {last.digest}\n")
    return ledger


def life(number: int) -> list:
    request, evidence = [f"r{number}"], dict.fromkeys(("test_accuracy", "forget_test_auc", "average_gap"), 50.0)
    return [("received", request, {"rows": [[number * 10 + row, f"{row:064x}"] for row in range(10)], "by": "me"}),
            ("begun", request, {"step": number, "model": "w", "settings": {}}),
            ("finished", request, {"accepted": True, "evidence": evidence, "model": {"version": str(number)}}),
            ("promoted", request, {"version": str(number), "model": f"w{number}"})]


TOLD = {"--status": "| r1000 ", "--verify": "4001 entries, from"}
HEAVY = ("torch", "ray", "mlflow", "matplotlib", "optuna", "pyarrow", "numpy", "pandas", "scipy",
         "sqlalchemy")


def ask(output: Path, option: str) -> str:
    code = (f"import sys; from amun_ray.forget import main; code = main(['--output', {str(output)!r}, {option!r}]); "
            f"print('loaded:', set({HEAVY}) & set(sys.modules)); sys.exit(code)")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.parametrize("option", TOLD)
def test_what_a_ledger_says_needs_none_of_the_large_libraries(tmp_path, option):
    """They would take 10 s to import."""
    many(tmp_path, 1000)
    said = ask(tmp_path, option)
    assert TOLD[option] in said
    assert "loaded: set()" in said


@ON_REQUEST
@pytest.mark.parametrize("option", TOLD)
def test_a_thousand_requests_are_told_within_two_seconds(tmp_path, option):
    """Of CPU time, which is wall time on a machine that does nothing else: they wait for nothing. The best of three."""
    many(tmp_path, 1000)
    taken = []
    for _ in range(3):
        before = os.times()
        ask(tmp_path, option)
        taken.append(sum(os.times()[2:4]) - sum(before[2:4]))
    assert min(taken) < 2, taken


def killed(output: Path, moment, *arguments: str | Path) -> None:
    """Kill the driver as soon as `moment(output)` is true."""
    running = forget(output, *arguments).when(lambda: moment(output))
    running._process.kill()
    running._process.wait()
    running._clean()


def has(kind: str):
    return lambda output: any(entry.kind == kind for entry in entries(output))


def unlearned(output: Path) -> bool:
    """Whether the step's own model is there: the sweep has made eight."""
    return len(list((output / "store" / "unlearned").glob("*/unit.json"))) > SWEEPS_OWN


SWEEPS_OWN = 2 * 2 * 3  # final sets, runs, methods with their accesses
MOMENTS = {"received": has("received"), "begun": has("begun"), "unlearned": unlearned, "finished": has("finished"),
           "alias": lambda output: has("finished")(output) and alias(output) == "2", "promoted": has("promoted")}


@pytest.fixture(scope="module")
def met(undisturbed, tmp_path_factory):
    """The folder of a sweep whose production met a request and purged it, undisturbed; and the two commands."""
    folder = tmp_path_factory.mktemp("met")
    commands = (("--request", request(folder, 3, 5, 8, 9), "--promote", "--set", "requests.recheck=1"),
                ("--purge", "r1"))
    shutil.copytree(undisturbed[1], folder / "output")
    for command in commands:
        forget(folder / "output", *command).finish()
    return folder / "output", *commands


def left(output: Path) -> set[str]:
    """The units in the store."""
    return {str(path.parent.relative_to(output)) for path in (output / "store").rglob("unit.json")}


@ON_REQUEST
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_at_any_moment_ends_in_the_same_ledger_and_model(met, output, moment):
    wanted, command, _ = met
    killed(output, MOMENTS[moment], *command)
    forget(output, *command).finish(2 if has("promoted")(output) else 0)  # by then there is nothing left to forget
    assert told(output) == told(wanted)[:-1]
    assert alias(output) == alias(wanted) == "2"


@ON_REQUEST
def test_workers_killed_at_their_work_and_a_purge_in_the_middle_end_in_the_same_ledger_and_model(met, output):
    """SIGKILL to who trains, who attacks and who unlearns; then to the purge, when it has a plan, and at work on it."""
    wanted, command, purge = met
    running = forget(output, *command)
    for title in ("ray::_train", "ray::Crafter.work", "ray::_unlearn"):
        os.kill(running.worker(title), signal.SIGKILL)
    running.finish()
    assert told(output) == told(wanted)[:-1]
    assert alias(output) == alias(wanted) == "2"
    sets = len(list((output / "store" / "adversarial_sets").iterdir()))
    for moment in (lambda output: (output / "purges" / "r1.json").exists(),
                   lambda output: len(list((output / "store" / "adversarial_sets").iterdir())) < sets):
        killed(output, moment, *purge)
    forget(output, *purge).finish()
    assert told(output)[:-1] == told(wanted)[:-1]
    assert [said[:2] for said in told(output)] == [said[:2] for said in told(wanted)]  # of the last, sizes differ
    assert left(output) == left(wanted)
