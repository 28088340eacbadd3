"""Strangers on this machine: whose cluster is joined, who reads the token and the pixels."""

import os

import psutil
import pytest

from amun_ray.base.errors import UserError
from amun_ray.runtime import cluster, mapped, own_machine
from amun_ray.runtime.mapped import Mapped


@pytest.fixture
def record(tmp_path, monkeypatch):
    """The file that `ray start` writes."""
    path = tmp_path / "ray_current_cluster"
    monkeypatch.setattr(own_machine, "get_ray_address_file", lambda _: str(path))
    return path


def test_the_cluster_that_this_user_has_started_is_found(record):
    assert own_machine.recorded_address() == (record, None)
    record.write_text("10.0.0.1:6379\n")
    assert own_machine.recorded_address() == (record, "10.0.0.1:6379")


def test_that_of_another_user_is_not_followed_and_said(record, monkeypatch, capsys):
    record.write_text("10.6.6.6:6379")
    monkeypatch.setattr(own_machine.os, "getuid", lambda: record.stat().st_uid + 1)
    assert own_machine.recorded_address() == (record, None)
    assert "is not this user's file" in capsys.readouterr().out


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("/etc/hostname"), lambda path: path.mkdir(), os.mkfifo])
def test_nor_is_what_is_no_file(record, make, capsys):
    make(record)
    assert own_machine.recorded_address() == (record, None)
    assert "not followed" in capsys.readouterr().out


@pytest.fixture
def token(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", *own_machine.TOKEN_ELSEWHERE):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".ray" / "auth_token"


def test_a_token_is_made_for_its_owner_alone(token, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    own_machine.keep_token_private()
    made = token.read_text()
    assert len(bytes.fromhex(made)) == 32
    assert (token.stat().st_mode & 0o777, token.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    token.chmod(0o644)  # as Ray writes it
    own_machine.keep_token_private()
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text() == made


@pytest.mark.parametrize(("name", "value"), [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "x"),
                                             ("RAY_AUTH_TOKEN_PATH", "/elsewhere")])
def test_no_token_is_made_where_none_is_asked_for_or_another_is_named(token, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    own_machine.keep_token_private()
    assert not token.parent.exists()


def test_a_local_ray_listens_on_the_loopback_address_alone(local_ray):
    processes = [process for process in psutil.Process().children(recursive=True)
                 if any(name in process.name() for name in ("gcs_server", "raylet"))]
    listening = {one.laddr.ip.removeprefix("::ffff:") for process in processes
                 for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN}
    assert len(processes) >= 2
    assert listening == {"127.0.0.1"}


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o700])
def test_copies_of_pixels_lie_in_a_folder_that_only_this_user_can_enter(tmp_path, monkeypatch, mode):
    folder = tmp_path / "copies"
    folder.mkdir()
    folder.chmod(mode)
    monkeypatch.setattr(mapped, "copies_of_node", lambda: folder)
    monkeypatch.setattr(Mapped, "_fetch", lambda self, path: path.write_bytes(b"\1" * 12))
    pixels = Mapped(str(tmp_path / "gone"), (1, 3, 2, 2), "digest", "node")
    if mode == 0o700:
        assert pixels.array().tolist() == [[[[1, 1], [1, 1]]] * 3]
        return
    with pytest.raises(UserError, match="only this user can enter"):
        pixels.array()
    assert not any(folder.iterdir())


def test_nor_in_one_that_a_stranger_has_put_there(tmp_path, monkeypatch):
    victim, link = tmp_path / "victim", tmp_path / "copies"
    victim.mkdir(mode=0o700)
    link.symlink_to(victim)
    monkeypatch.setattr(mapped, "copies_of_node", lambda: link)
    with pytest.raises(UserError, match="only this user can enter"):
        Mapped(str(tmp_path / "gone"), (1, 3, 2, 2), "digest", "node").array()
    assert not any(victim.iterdir())


@pytest.mark.parametrize(("name", "given", "used"), [
    (cluster.NICENESS, None, "0"), (cluster.NICENESS, "7", "7"), (cluster.IDLE_MS[0], None, "60000"),
    (cluster.IDLE_MS[0], "7", "7")])
def test_its_workers_are_as_nice_and_stay_idle_as_long_as_told_or_as_suits_a_sweep(
        tmp_path, monkeypatch, name, given, used):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name) if given is None else monkeypatch.setenv(name, given)
    started = []
    monkeypatch.setattr(cluster.ray, "init", lambda **_: started.append(os.environ[name]))
    cluster.start_here()
    assert started == [used]
