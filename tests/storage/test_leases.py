"""One name belongs to one living sweep at a time; the traces of dead ones are removed."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from amun_ray.storage.leases import DEAD_SECONDS, announced, beat, claim, is_alive, release, taken_by
from amun_ray.storage.store import Store

NAME = "models/abc"


@pytest.fixture(params=["folder", "folder without links", "s3"])
def uri(request, tmp_path, monkeypatch):
    if request.param == "s3":
        return request.getfixturevalue("bucket")()
    if request.param == "folder without links":
        def refuse(*_):
            raise PermissionError("no symbolic links here")
        monkeypatch.setattr(os, "symlink", refuse)
    return str(tmp_path / "store")


def test_a_claim_belongs_to_one_until_it_is_released(uri):
    first, second = Store(uri), Store(uri)
    with announced(first), announced(second):
        assert claim(first, NAME)
        assert claim(first, NAME)  # again, by another worker of the same sweep
        assert not claim(second, NAME)
        assert claim(second, "models/other")
        assert (taken_by(second, NAME), taken_by(first, NAME)) == (first.owner, None)
        release(first, NAME)
        assert taken_by(second, NAME) is None
        assert claim(second, NAME)
        assert not claim(first, NAME)


def test_what_a_sweep_has_is_free_when_it_ends(uri):
    first, second = Store(uri), Store(uri)
    with announced(second):
        with announced(first):
            claim(first, NAME)
            assert is_alive(second, first.owner)
        assert not is_alive(second, first.owner)
        assert claim(second, NAME)
    assert [first.times(folder) for folder in ("sweeps", "leases", "scratch")] == [{}, {}, {}]


def test_a_process_that_was_killed_is_dead_at_once(uri):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    machine, _, number = Store(uri).owner.rsplit(":", 2)
    killed, second = Store(uri, f"{machine}:{ended.pid}:{number}"), Store(uri)
    with announced(second):
        killed.put(f"sweeps/{killed.owner}", b"")
        assert claim(killed, NAME)
        assert claim(second, NAME)


def test_a_sweep_elsewhere_is_dead_when_its_beat_is_old(tmp_path):
    """By the clock of the storage: of the newest beat, not of this machine."""
    far, second = Store(str(tmp_path), "far:00000000:1:0"), Store(str(tmp_path))
    with announced(second):
        far.put(f"sweeps/{far.owner}", b"")
        claim(far, NAME)
        now = os.stat(tmp_path / "sweeps" / second.owner).st_mtime
        os.utime(tmp_path / "sweeps" / far.owner, (now, now - DEAD_SECONDS + 5))
        assert not claim(second, NAME)
        os.utime(tmp_path / "sweeps" / far.owner, (now, now - DEAD_SECONDS - 5))
        assert claim(second, NAME)
        assert not claim(far, NAME)


def test_a_time_in_the_future_does_not_make_the_living_dead(tmp_path):
    far, second = Store(str(tmp_path), "far:00000000:1:0"), Store(str(tmp_path))
    with announced(second):
        far.put(f"sweeps/{far.owner}", b"")
        for name in (".nfs0123", "other:00000000:1:0"):
            second.put(f"sweeps/{name}", b"")
            os.utime(tmp_path / "sweeps" / name, (2**32, 2**32))
        assert is_alive(second, far.owner)
        assert not claim(second, NAME) if claim(far, NAME) else pytest.fail("nobody had it")


@pytest.mark.parametrize("folder", ["sweeps", "leases", "scratch"])
@pytest.mark.parametrize("name", [".DS_Store", ".nfs000000001", "Thumbs.db", "a:b:c"])
def test_what_no_sweep_has_written_ends_none_and_stays(uri, folder, name):
    store = Store(uri)
    store.put(f"{folder}/{name}", b"\xff\xfe")
    with announced(store), announced(Store(uri)):
        assert claim(store, NAME)
    if folder != "leases" or name.startswith("."):
        assert store.get(f"{folder}/{name}") == b"\xff\xfe"


def test_a_lease_that_was_cut_off_is_nobodys(uri):
    store = Store(uri)
    with announced(store):
        store.put(f"leases/{NAME.replace('/', '-')}", b"")
        assert taken_by(store, NAME) is None
        assert claim(store, NAME)


def test_a_new_store_is_for_its_owner_alone_and_one_of_a_group_stays_as_it_is(tmp_path):
    for folder, mode in ((tmp_path / "new", 0o700), (tmp_path / "group", 0o770)):
        if mode == 0o770:
            folder.mkdir()
            folder.chmod(mode)
        with announced(Store(str(folder))):
            assert folder.stat().st_mode & 0o777 == mode


def test_a_storage_that_keeps_no_times_is_asked_for_the_file_alone(tmp_path, monkeypatch):
    far, second = Store(str(tmp_path), "far:00000000:1:0"), Store(str(tmp_path))
    far.put(f"sweeps/{far.owner}", b"")
    second.put(f"sweeps/{second.owner}", b"")
    kept = far.times
    for timeless in ({far.owner}, {far.owner, second.owner}):
        monkeypatch.setattr(second, "times", lambda folder, timeless=timeless: {
            owner: None if owner in timeless else time for owner, time in kept(folder).items()})
        assert is_alive(second, far.owner)
    far.remove(f"sweeps/{far.owner}")
    assert not is_alive(second, far.owner)


def test_what_the_dead_leave_is_removed_and_what_the_living_need_is_kept(uri):
    dead, living, third = Store(uri, "far:00000000:1:0"), Store(uri), Store(uri)
    with announced(living):
        for store, name in ((dead, "models/dead"), (living, "models/living")):
            store.put(f"scratch/{store.owner}/x.partial", b"half")
            claim(store, name)
        with announced(third):
            assert third.get(f"scratch/{dead.owner}/x.partial") is None
            assert third.get(f"scratch/{living.owner}/x.partial") == b"half"
            assert not claim(third, "models/living")
            assert claim(third, "models/dead")


def test_one_of_many_that_claim_at_once_gets_the_name(tmp_path):
    stores = [Store(str(tmp_path)) for _ in range(16)]
    for store in stores:
        store.put(f"sweeps/{store.owner}", b"")
    with ThreadPoolExecutor(len(stores)) as pool:
        for number in range(20):
            assert sum(pool.map(lambda store, name=f"models/{number}": claim(store, name), stores)) == 1


def test_a_beat_needs_no_room(tmp_path):
    store = Store(str(tmp_path / "store"))
    with announced(store):
        path = store.locate(f"sweeps/{store.owner}")
        before = os.stat(path)
        os.utime(path, (1, 1))
        beat(store)
        assert os.stat(path).st_ino == before.st_ino  # no new file was written
        assert os.stat(path).st_mtime >= before.st_mtime


def test_a_storage_that_is_away_at_the_end_keeps_nobody(tmp_path, monkeypatch):
    def away(*_):
        raise OSError("the server is away")

    store = Store(str(tmp_path / "store"))
    with announced(store):
        monkeypatch.setattr(Store, "remove", away)
    assert store.times("sweeps").keys() == {store.owner}  # it is dead as soon as this process is
