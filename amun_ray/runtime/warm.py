"""Ray's workers on this machine are forks of one warm process, which has imported once what all of them need.

A new worker otherwise spends 2.5 seconds of a core on imports, and Ray starts new ones for every stage: a process that
has run tasks becomes no actor, and each actor has a process of its own. Forks also share the memory of what was
imported. Ray itself is imported by each of them, since it reads its settings, and who its raylet is, at its import.

The warm process does nothing but import, so that it has neither threads of its own nor a device when it forks. It ends
with the program that began it. On a cluster that others started nothing of this happens: its workers outlive a sweep.
"""

import os
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from amun_ray.base.imports import importing

# What Ray, Tune and the work of the stages import, and what does not read who its raylet is.
LOADED = ("pandas", "pyarrow", "sklearn.linear_model", "optuna", "requests", "jsonschema", "google.protobuf.message",
          "amun_ray.attacks", "amun_ray.unlearn", "amun_ray.work.evidence", "amun_ray.work.trainings",
          "amun_ray.work.trials")
LAUNCHER = Path(__file__).with_name("launcher.py")
WAITING = 1024  # launchers that may wait for the end of the imports
SECONDS = 10  # that a launcher has to say what it wants


class Warm(NamedTuple):
    """The warm process of this program, and the command by which a fork of it is started in the place of Python."""

    process: subprocess.Popen[bytes]
    python: str


@cache
def begin() -> Warm | None:
    """Start the warm process, once in a program; None where processes cannot be forked in this way."""
    if not sys.platform.startswith("linux"):
        return None
    folder = tempfile.mkdtemp(prefix="amun_warm_")  # for this user alone
    address = os.path.join(folder, "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(address)
        except OSError:  # the path is too long
            os.rmdir(folder)
            return None
        listener.listen(WAITING)
        code = (f"import sys; sys.path[:] = {sys.path}; from {__name__} import serve; "
                f"serve({listener.fileno()}, {folder!r})")
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=[listener.fileno()], start_new_session=True,  # a Ctrl-C is for the program
            env={"OMP_NUM_THREADS": "1", **os.environ})  # as Ray's workers have it; no library starts threads
    return Warm(process, shlex.join([sys.executable, "-I", "-S", str(LAUNCHER), address]))


class Order(NamedTuple):
    """What a fork is to become, as launcher.py sends it."""

    folder: bytes
    nice: int
    oom_score: bytes
    command: list[str]
    environment: dict[bytes, bytes]
    streams: list[int]

    @classmethod
    def received(cls, connection: socket.socket) -> "Order | None":
        """What a launcher asks for; None where it was ended before it had said so."""
        connection.settimeout(SECONDS)
        with suppress(OSError, ValueError), connection.makefile("rb") as file:
            size, streams, *_ = socket.recv_fds(connection, 4, 3)
            folder, nice, oom_score, count, *rest = file.read(int.from_bytes(size, "little")).split(b"\0")
            command, environment = rest[:int(count)], dict(each.split(b"=", 1) for each in rest[int(count):])
            return cls(folder, int(nice), oom_score, [os.fsdecode(each) for each in command], environment, streams)
        return None

    def become(self) -> None:
        """Make this process what was ordered, all but running the command."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()  # Ray may end the process group of a worker
        for number, stream in enumerate(self.streams):
            os.dup2(stream, number)
            os.close(stream)
        os.environb.clear()
        os.environb.update(self.environment)
        os.chdir(self.folder)
        os.nice(self.nice - os.nice(0))
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_bytes(self.oom_score)
        sys.argv = self.command


def serve(listening: int, folder: str) -> None:
    """Be the warm process: import, then fork for every launcher, until the program that began this has ended."""
    with importing():  # later collections, which write into all that they look at, leave it shared
        for name in LOADED:
            with suppress(ImportError):
                import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    with socket.socket(fileno=listening) as listener:
        order = _forked(listener)
    if order is None:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        runpy.run_path(order.command[0], run_name="__main__")


def _forked(listener: socket.socket) -> Order | None:
    """In a fork: what it has become. In the warm process: None, at its end."""
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        with listener.accept()[0] as connection:
            order = Order.received(connection)
            if order is None:
                continue
            if not os.fork():
                order.become()
                connection.send(b"1")
                return order
            for stream in order.streams:
                os.close(stream)
    return None
