"""Leases: when several sweeps share a store, each announces the work it begins, and the others leave that work alone.

A running sweep rewrites the file `sweeps/OWNER` every `BEAT_SECONDS`. Each piece of work it has begun has a file
`leases/NAME` that names the owner. A lease holds while its owner is alive. An owner is dead if its own file is gone (a
sweep removes it when it ends), if its process is gone, as far as this machine can tell, or if its file is
`DEAD_SECONDS` older than that of the sweep that asks, or than the newest one where a command asks that announces
nothing. Both times come from the storage's clock, so machines need not agree on it. Files that no sweep has written
(`.DS_Store`, `.nfs...`) are left alone.

What is guaranteed, and where:
- local folder, NFS: if several sweeps claim one name at once, exactly one gets it (creating a symbolic link is atomic,
  on NFS too);
- object store, and a folder without symbolic links: a claimant looks, writes, and looks again. Two that do so within
  the same few milliseconds may both get the name;
- everywhere: a sweep that was paused for `DEAD_SECONDS` (a closed laptop, an unreachable storage) may be taken for dead
  and come back; and two that find the same dead owner within the same milliseconds may both take over from it.
If two sweeps get the same name, the unit is made twice. It is still whole: each file of a unit appears whole,
`unit.json` after the others, and a worker that finds its unit finished does not write.
"""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from amun_ray.storage.files import Files, here

BEAT_SECONDS = 10
OWNER = re.compile(r".+:\d+:[0-9a-f]+", re.DOTALL)  # see `Files`
DEAD_SECONDS = 120  # several beats, plus the minute for which NFS may show an old time


def claim(store: Files, name: str) -> bool:
    """Claim `name` for the owner of `store`; False if another living owner has it."""
    for _ in range(2):
        if _take(store, name):
            return True
        holder = _holder(store, name)
        if holder == store.owner:
            return True
        if holder is not None:
            if is_alive(store, holder):
                return False
            store.remove(_file(name))
    return False


def release(store: Files, name: str) -> None:
    """Give up a claim of the owner of `store`."""
    store.remove(_file(name))


def taken_by(store: Files, name: str) -> str | None:
    """The other living owner that has `name`, or None."""
    holder = _holder(store, name)
    return holder if holder not in (None, store.owner) and is_alive(store, holder) else None


def is_alive(store: Files, owner: str) -> bool:
    """Whether the sweep of `owner` is alive, as far as can be seen; where files have no times, its file is enough."""
    beats = {name: time for name, time in store.times("sweeps").items() if OWNER.fullmatch(name)}
    if owner not in beats or not _may_run(owner):
        return False
    last = beats[owner]
    now = beats.get(store.owner) or max((time for time in beats.values() if time is not None), default=None)
    return last is None or now is None or (now - last).total_seconds() <= DEAD_SECONDS


@contextmanager
def announced(store: Files) -> Iterator[None]:
    """Inside this context the owner of `store` is alive: its claims hold, and its scratch is left alone.

    On entry the leftovers of dead owners are removed; on exit, its own.
    """
    store.put(_beat(store), b"")
    _sweep_out(store)
    ended = threading.Event()
    threading.Thread(target=_keep_beating, args=(store, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        with suppress(OSError):  # do not wait for an unreachable storage; the next sweep finds this one dead
            store.remove(_beat(store))
            _sweep_out(store)


def _keep_beating(store: Files, ended: threading.Event) -> None:
    while not ended.wait(BEAT_SECONDS):
        with suppress(OSError):  # the storage is unreachable and may come back
            beat(store)


def beat(store: Files) -> None:
    """Record that the owner of `store` is still alive. Needs no space, so that it works on a full disk."""
    if store.local:
        with suppress(FileNotFoundError):
            os.utime(store.locate(_beat(store)))
            return
    store.put(_beat(store), b"")


def _sweep_out(store: Files) -> None:
    """Remove the announcements, claims and scratch of all dead owners."""
    dead = {owner for folder in ("sweeps", "scratch") for owner in store.times(folder)
            if OWNER.fullmatch(owner) and not is_alive(store, owner)}
    for name in _leases(store):
        holder = _holder(store, name)
        if holder is not None and not is_alive(store, holder):
            release(store, name)
    for owner in dead:
        store.remove_folder(f"scratch/{owner}")
        store.remove(f"sweeps/{owner}")


def _leases(store: Files) -> list[str]:
    if not store.local:
        return [name for name in store.times("leases") if not name.startswith(".")]
    with suppress(FileNotFoundError):
        return [name for name in os.listdir(store.locate("leases")) if not name.startswith(".")]
    return []


def _beat(store: Files) -> str:
    return f"sweeps/{store.owner}"


def _file(name: str) -> str:
    return f"leases/{name.replace('/', '-')}"


def _take(store: Files, name: str) -> bool:
    """Write the lease unless there is one."""
    if store.local:
        path = store.locate(_file(name))
        store.make_root()
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            os.symlink(store.owner, path)
        except FileExistsError:
            return False
        except OSError:
            pass  # no symbolic links here, or no space for one, which the write below reports better
        else:
            return True
    if _holder(store, name) is not None:
        return False
    store.put(_file(name), store.owner.encode())
    return _holder(store, name) == store.owner


def _holder(store: Files, name: str) -> str | None:
    if store.local:
        with suppress(OSError):  # nothing there, or not a symbolic link
            return os.readlink(store.locate(_file(name)))
    content = store.get(_file(name))
    return None if content is None else content.decode(errors="replace")


def host_and_process(owner: str) -> tuple[str, str]:
    """Where a sweep runs, for messages."""
    machine, process, _ = owner.rsplit(":", 2)
    return machine.partition(":")[0], process


def _may_run(owner: str) -> bool:
    """False if `owner` is a process of this machine that no longer exists."""
    machine, process, _ = owner.rsplit(":", 2)
    if machine != here():
        return True
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
