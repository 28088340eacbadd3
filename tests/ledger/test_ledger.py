"""The ledger: a chain that reveals every change, one writer at a time, and no entry half-written by a kill."""

import hashlib
import hmac
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy

from amun_ray.base.errors import Damaged, StorageError, UserError
from amun_ray.ledger import Entry, History, Ledger, RowId, database, row_ids
from amun_ray.ledger.anchor import Anchor
from amun_ray.storage import seal

OPENED = {"original": {"weights": "w0", "version": "1"}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path):
    return Ledger(f"sqlite:///{path}", path.with_suffix(".anchor"))


def received(rows=((3, "a"), (5, "b")), **more):
    return {"rows": [list(row) for row in rows], "by": "somebody"} | more


def filled(ledger, requests=3):
    """A ledger with some requests, the first of them promoted."""
    ledger.append("opened", content=OPENED)
    for number in range(1, requests + 1):
        ledger.append("received", [f"r{number}"], received([(number, f"picture {number}")]))
    ledger.append("begun", ["r1"], {"step": 1})
    ledger.append("finished", ["r1"], {"accepted": True})
    ledger.append("promoted", ["r1"], {"model": "w1"})
    return ledger.history


def tampered(path, *statements):
    """Change the file behind the ledger's back, as somebody with a shell would."""
    with sqlite3.connect(path) as connection:
        for change in ("UPDATE", "DELETE"):
            connection.execute(f"DROP TRIGGER amun_ledger_no_{change}")
        for statement in statements:
            connection.execute(*statement if isinstance(statement, tuple) else (statement,))
    connection.close()


def test_a_digest_is_that_of_all_that_an_entry_says_and_of_the_one_before(ledger):
    first = ledger.append("opened", content=OPENED)
    second = ledger.append("received", ["r1"], received())
    assert first.before == "0" * 64
    assert second.before == first.digest
    by_hand = json.dumps({"before": first.digest, "content": {"by": "somebody", "rows": [[3, "a"], [5, "b"]]},
                          "kind": "received", "number": 1, "requests": ["r1"], "time": second.time},
                         sort_keys=True, separators=(",", ":"))
    assert second.digest == hashlib.sha256(by_hand.encode()).hexdigest()
    assert ledger.history.entries == (first, second)


def test_nothing_is_made_before_the_first_entry(ledger, path):
    assert ledger.history == History(())
    assert not path.exists()


def test_a_row_is_known_by_its_picture_and_its_place_in_the_file():
    pixels = np.arange(3 * 1 * 2 * 2, dtype=np.uint8).reshape(3, 1, 2, 2)
    found = row_ids(pixels, np.array([2]), np.array([10, 20, 30]))
    assert found == [RowId(30, hashlib.sha256(b"(1, 2, 2)" + bytes([8, 9, 10, 11])).hexdigest())]


@pytest.mark.parametrize(("statement", "message"), [
    (("UPDATE amun_ledger SET content = replace(content, 'somebody', 'nobody') WHERE number = 2",),
     "entry 2 (received r2) was changed"),
    (("UPDATE amun_ledger SET time = '2020' WHERE number = 1",), "entry 1 (received r1) was changed"),
    (("UPDATE amun_ledger SET kind = 'purged' WHERE number = 1",), "entry 1 (purged r1) was changed"),
    (("UPDATE amun_ledger SET requests = '[\"r7\"]' WHERE number = 1",), "entry 1 (received r7) was changed"),
    (("UPDATE amun_ledger SET content = 'no json' WHERE number = 1",), "entry 1 (received) was changed"),
    (("DELETE FROM amun_ledger WHERE number = 2",), "entry 2 was removed"),
    (("DELETE FROM amun_ledger WHERE number = 0",), "entry 0 was removed"),
    (("DELETE FROM amun_ledger WHERE number > 4",), "entries 5 to 6 at its end were removed"),
    (("DELETE FROM amun_ledger",), "entries 0 to 6 at its end were removed"),
    (("UPDATE amun_ledger SET number = 9 WHERE number = 1", "UPDATE amun_ledger SET number = 1 WHERE number = 2",
      "UPDATE amun_ledger SET number = 2 WHERE number = 9"), "entry 1 (received r2) was changed"),
])
def test_whatever_is_changed_or_removed_is_found(ledger, path, statement, message):
    filled(ledger)
    tampered(path, *statement)
    with pytest.raises(Damaged) as error:
        _ = ledger.history
    assert message in str(error.value)


def test_a_chain_that_was_made_anew_is_found(ledger, path, tmp_path):
    filled(ledger)
    filled(Ledger(f"sqlite:///{tmp_path / 'other.db'}", tmp_path / "other.anchor"), requests=4)
    shutil.copy(tmp_path / "other.db", path)
    with pytest.raises(Damaged, match="entry 6 .* is not the one that was written: the chain was made anew"):
        _ = ledger.history


@pytest.fixture
def anchor(ledger):
    return ledger.anchor.path


def test_an_anchor_that_is_gone_or_damaged_is_found_and_a_kept_digest_writes_it_anew(ledger, path, anchor):
    entries = filled(ledger).entries
    for break_it in (anchor.unlink, lambda: anchor.write_text(""), lambda: anchor.write_text("six abc")):
        break_it()
        with pytest.raises(Damaged, match="ledger.anchor: .* `--verify --trust DIGEST` writes it anew") as error:
            _ = ledger.history
        assert "\n" not in str(error.value)
        assert ledger.trust(entries[4].digest) == entries[4]
        assert ledger.history.entries == entries
    tampered(path, "DELETE FROM amun_ledger WHERE number > 3")
    anchor.unlink()
    with pytest.raises(UserError, match="no entry of ledger .* has this digest; .* entries were removed or replaced"):
        ledger.trust(entries[4].digest)
    assert not anchor.exists()


def test_a_changed_ledger_cannot_be_trusted(ledger, path):
    last = filled(ledger).entries[-1]
    tampered(path, "UPDATE amun_ledger SET time = '2020' WHERE number = 1")
    with pytest.raises(Damaged, match="entry 1 .received r1. was changed"):
        ledger.trust(last.digest)


@pytest.mark.parametrize(("first", "kinds"), [(-1, []), (0, ["opened"])])
def test_a_kill_before_the_first_entry_or_its_anchor_is_not_taken_for_a_removal(ledger, monkeypatch, first, kinds):
    """`first`: the number of the first entry that the anchor does not come to remember."""
    whole = Anchor.write

    def write(self, number, digest):
        if number >= first:
            raise KeyboardInterrupt
        whole(self, number, digest)
    monkeypatch.setattr(Anchor, "write", write)
    with pytest.raises(KeyboardInterrupt):
        ledger.append("opened", content=OPENED)
    assert [entry.kind for entry in ledger.history.entries] == kinds
    monkeypatch.undo()
    ledger.append("received", ["r1"], received())
    assert ledger.anchor.read()[0] == len(kinds)


def test_a_machine_that_has_not_written_yet_reads_the_ledger_of_a_team(ledger, tmp_path):
    entries = filled(ledger).entries
    (tmp_path / "mine").mkdir()
    assert Ledger(ledger.uri, tmp_path / "mine" / "ledger.anchor").history.entries == entries


def test_only_the_key_signs_an_anchor(ledger, path, anchor, monkeypatch):
    entries = filled(ledger).entries
    forged = f"{entries[3].number} {entries[3].digest}"
    monkeypatch.setenv(seal.KEY, "a secret")
    with pytest.raises(Damaged, match=f"not signed with this {seal.KEY}; if the key is new, `--verify --trust DIGEST`"):
        _ = ledger.history
    ledger.trust(entries[-1].digest)
    said = anchor.read_text().split()
    assert said[2] == hmac.new(b"a secret", f"amun_ray ledger {said[0]} {said[1]}".encode(), "sha256").hexdigest()
    assert ledger.history.entries == entries
    for forgery in (forged, f"{forged} {said[2]}", f"{forged} {'0' * 64}"):
        anchor.write_text(forgery)
        with pytest.raises(Damaged, match="not signed with this"):
            _ = ledger.history
    ledger.trust(entries[-1].digest)
    monkeypatch.setenv(seal.KEY, "another secret")
    with pytest.raises(Damaged, match="not signed with this"):
        _ = ledger.history


def test_an_entry_of_another_chain_does_not_follow(ledger, path, tmp_path):
    filled(ledger)
    strange = filled(Ledger(f"sqlite:///{tmp_path / 'other.db'}", tmp_path / "other.anchor")).entries[2]
    tampered(path, ("UPDATE amun_ledger SET time = ?, before = ?, digest = ? WHERE number = 2",
                    (strange.time, strange.before, strange.digest)))
    with pytest.raises(Damaged, match="entry 2 .received r2. does not follow entry 1"):
        _ = ledger.history


def test_the_database_itself_refuses_changes(ledger, path):
    filled(ledger)
    with sqlite3.connect(path) as connection:
        for statement in ("UPDATE amun_ledger SET kind = 'x'", "DELETE FROM amun_ledger"):
            with pytest.raises(sqlite3.IntegrityError, match="only added to"):
                connection.execute(statement)


def test_a_clock_that_runs_backwards_is_refused(ledger, monkeypatch):
    ledger.append("opened", content=OPENED)

    class Yesterday(datetime):
        @classmethod
        def now(cls, zone):
            return datetime.now(UTC) - timedelta(days=1)
    monkeypatch.setattr(database, "datetime", Yesterday)
    with pytest.raises(UserError, match="set the clock"):
        ledger.append("received", ["r1"], received())
    assert len(ledger.history.entries) == 1


@pytest.mark.parametrize(("content", "reason"), [(b"no database at all" * 100, "file is not a database"),
                                                 (None, "disk image is malformed")])
def test_a_damaged_file_is_one_line(ledger, path, content, reason):
    filled(ledger)
    whole = path.read_bytes()
    path.write_bytes(content if content is not None else whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(UserError) as error:
        _ = ledger.history
    assert reason in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_full_disk_is_one_line_and_leaves_nothing(ledger, path):
    before, full = filled(ledger), Ledger(ledger.uri, path.with_suffix(".anchor"))
    pages = path.stat().st_size // 4096
    sqlalchemy.event.listen(full._engine, "connect", lambda raw, _: raw.execute(f"PRAGMA max_page_count = {pages}"))
    with pytest.raises(StorageError, match="database or disk is full"):
        full.append("received", ["r4"], received([(n, "p" * 64) for n in range(1000)]))
    assert ledger.history == before


def test_a_ledger_in_a_folder_that_is_not_there_is_one_line(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path}/none/ledger.db", tmp_path / "anchor")
    with pytest.raises(StorageError, match="unable to open database file"):
        ledger.append("opened", content=OPENED)


@pytest.mark.parametrize("uri", ["mysql://host/name", "ledger.db", "nonsense://"])
def test_another_kind_of_uri_is_refused(uri, tmp_path):
    with pytest.raises(UserError, match="ledger"):
        Ledger(uri, tmp_path / "anchor")


@pytest.mark.parametrize(("driver", "package"), [("psycopg2", "amun_ray[postgresql]"), ("psycopg", "psycopg[binary]")])
def test_a_driver_that_is_not_installed_is_named_with_its_package(tmp_path, monkeypatch, driver, package):
    monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(UserError) as error:
        Ledger(f"postgresql+{driver}://somebody:secret@host/name", tmp_path / "anchor")
    assert str(error.value) == (f"ledger postgresql+{driver}://***@host/name: its driver {driver} is not "
                                f"installed; pip install '{package}'")


def test_a_number_that_another_process_took_is_not_given_again(ledger):
    seen = len(filled(ledger).entries)
    assert ledger.append("received", ["r4"], received(), expected=seen).number == seen
    assert ledger.append("received", ["r4"], received(), expected=seen) is None
    assert len(ledger.history.entries) == seen + 1


WRITER = """
import sys
from pathlib import Path
from amun_ray.ledger import Ledger
uri, anchor, name = sys.argv[1:]
ledger = Ledger(uri, Path(anchor))
for number in range(20):
    ledger.append("received", [f"{name}-{number}"], {"rows": [[number, name]]})
    print(number, flush=True)
"""


def write_together(uri: str, folder: Path) -> list:
    (folder / "elsewhere").mkdir(exist_ok=True)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, uri, str(folder / "elsewhere" / name), name],
                                stdout=subprocess.DEVNULL) for name in "abc"]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    return list(Ledger(uri, folder / "elsewhere" / "anchor").history.requests)


def check_together(ids: list) -> None:
    """All of three writers' entries are there, those of each in its order."""
    assert len(ids) == 60
    for name in "abc":
        assert [one for one in ids if one.startswith(name)] == [f"{name}-{number}" for number in range(20)]


def test_several_processes_write_one_chain(path, tmp_path):
    check_together(write_together(f"sqlite:///{path}", tmp_path))


def test_a_writer_that_is_killed_leaves_a_whole_chain(ledger, path, tmp_path):
    uri = f"sqlite:///{path}"
    for moment in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, uri, str(path.with_suffix(".anchor")), f"w{moment}"],
                                  stdout=subprocess.PIPE, text=True)
        for _ in range(3 + moment):
            said = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        found = [one for one in ledger.history.requests if one.startswith(f"w{moment}-")]
        assert found == [f"w{moment}-{number}" for number in range(len(found))]
        assert len(found) > said
        ledger.append("received", [f"after {moment}"], received())


HOLDER = """
import sys, time
from pathlib import Path
from amun_ray.base.log import speaking
from amun_ray.ledger import Ledger
uri, anchor = sys.argv[1:]
with speaking(), Ledger(uri, Path(anchor)).working():
    print("has it", flush=True)
    time.sleep(60)
"""


def take_turns(uri: str, folder: Path) -> str:
    """What a second process says when the first one is killed. Until then it waits and says so, and entries may be
    added."""
    def start():
        return subprocess.Popen([sys.executable, "-c", HOLDER, uri, str(folder / "anchor")], stdout=subprocess.PIPE,
                                text=True)
    first = start()
    assert first.stdout.readline() == "has it\n"
    second = start()
    assert "another process works on the requests" in second.stdout.readline()
    Ledger(uri, folder / "anchor").append("received", ["r1"], received())
    time.sleep(0.5)
    assert second.poll() is None
    first.kill()
    first.wait()
    said = second.stdout.readline()
    second.kill()
    second.wait()
    return said


def test_one_process_works_at_a_time(path, tmp_path):
    assert take_turns(f"sqlite:///{path}", tmp_path) == "has it\n"


@pytest.fixture
def postgres(tmp_path):
    """The URI of a PostgreSQL server of this test alone."""
    pytest.importorskip("psycopg2")
    if shutil.which("initdb") is None and not Path("/usr/lib/postgresql").exists():
        pytest.skip("no PostgreSQL on this machine")
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    where = binaries[-1] if binaries else Path(shutil.which("initdb")).parent
    as_user = {} if os.geteuid() else {"user": "nobody"}  # it refuses to run as root
    folder = Path(f"/tmp/amun-postgres-{os.getpid()}")
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    subprocess.run([where / "initdb", "-D", folder / "data", "-U", "amun", "-A", "trust"], check=True, cwd=folder,
                   stdout=subprocess.DEVNULL, **as_user)
    server = subprocess.Popen([where / "postgres", "-D", folder / "data", "-k", folder, "-h", ""], cwd=folder,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user)
    while subprocess.run([where / "pg_isready", "-h", folder], stdout=subprocess.DEVNULL).returncode:
        assert server.poll() is None
        time.sleep(0.1)
    yield f"postgresql+psycopg2://amun@/postgres?host={folder}"
    server.send_signal(signal.SIGINT)
    server.wait(30)
    shutil.rmtree(folder)


def test_postgresql_does_the_same(postgres, tmp_path):
    assert Ledger(postgres, tmp_path / "first").history == History(())
    check_together(write_together(postgres, tmp_path))
    assert take_turns(postgres, tmp_path) == "has it\n"
    ledger = Ledger(postgres, tmp_path / "anchor")
    assert len(ledger.history.entries) == 61
    with ledger._engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM amun_ledger WHERE number = 5")
    with pytest.raises(Damaged, match="entry 5 was removed"):
        _ = ledger.history


def test_postgresql_by_its_newer_driver_is_the_same_ledger(postgres, tmp_path):
    pytest.importorskip("psycopg")
    filled(Ledger(postgres, tmp_path / "anchor"))
    newer = Ledger(postgres.replace("+psycopg2", "+psycopg"), tmp_path / "anchor")
    with newer.working():
        assert newer.append("purged", ["r1"], {}).number == 7
    assert Ledger(postgres, tmp_path / "anchor").history == newer.history


def test_postgresql_that_is_away_is_one_line(tmp_path):
    pytest.importorskip("psycopg2")
    with pytest.raises(StorageError) as error:
        _ = Ledger("postgresql+psycopg2://user:secret@127.0.0.1:1/none", tmp_path / "anchor").history
    assert "cannot be read" in str(error.value)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_thousand_requests_are_read_and_verified_within_two_seconds(ledger, path):
    entries = [ledger.append("opened", content=OPENED)]
    said = [("received", received([(number, "p" * 64) for number in range(10)])),
            ("begun", {"step": 1, "settings": {"lr": 0.01}}), ("promoted", {"model": "w", "version": "2"}),
            ("finished", {"accepted": True, "evidence": {"test_accuracy": 98.0}})]
    for number in range(1, 1001):
        for kind, content in said:
            entries.append(Entry.after(entries[-1], kind, [f"r{number}"], entries[0].time, content))
    with sqlite3.connect(path) as connection:
        connection.executemany("INSERT INTO amun_ledger VALUES (?, ?, ?, ?, ?, ?, ?)", [
            (one.number, one.kind, json.dumps(one.requests), one.time, json.dumps(one.content), one.before, one.digest)
            for one in entries[1:]])
    started = time.process_time()
    history = ledger.history
    assert len(history.of("promoted")) == 1000
    assert len(history.forgotten) == 10
    assert time.process_time() - started < 2
