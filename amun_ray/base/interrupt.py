"""What ends a sweep early: Ctrl-C (once in order, twice at once), or a reader of its output that goes away."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from amun_ray.base.log import complain

STOPPED = 130  # the exit code that shells give a program ended by Ctrl-C (128 + SIGINT)
UNREAD = 141  # and one that lost the reader of its output (128 + SIGPIPE)


@contextmanager
def interruptible(arguments: list[str] | None) -> Iterator[None]:
    """Raise KeyboardInterrupt at the first Ctrl-C, end the process at once at the second; say how to go on.

    The second loses nothing: finished work is whole in the store, and Ray's processes end after their driver.
    Where Ctrl-C is ignored (`nohup`, a background job) it stays ignored. Where the process belongs to another program
    (a notebook, a thread), its handler stays: a second Ctrl-C must not end that program.

    Args:
        arguments: of the command; None for those of this process, which the command then owns.
    """
    again = f"python {shlex.join(sys.argv)}" if arguments is None else "the same call again"
    farewell = f"\nstopped; what is finished is kept. To go on: {again}"

    def once(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGINT, twice)
        complain("\nstopping; Ctrl-C again stops at once")
        raise KeyboardInterrupt

    def twice(_: int, __: FrameType | None) -> None:
        os.write(sys.stderr.fileno(), f"{farewell}\n".encode())  # not print: it may be what was interrupted
        os._exit(STOPPED)

    mine = (arguments is None and threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    if mine:
        signal.signal(signal.SIGINT, once)
    try:
        yield
    except KeyboardInterrupt:
        complain(farewell)
        raise
    finally:
        if mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)
