"""What Ctrl-C does to a sweep (once, it ends in order; twice, at once), and a reader of its output that goes away."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from amun_ray.base.log import complain

STOPPED = 130  # of a program that Ctrl-C ended, as shells have it
UNREAD = 141  # of one that lost the reader of its output, in the same way


@contextmanager
def interruptible(arguments: list[str] | None) -> Iterator[None]:
    """Raise KeyboardInterrupt at the first Ctrl-C, end the process there and then at the second; say how to go on.

    Nothing is lost by the second: what is finished is in the store whole, and Ray's processes end after their driver.
    Where Ctrl-C is ignored (`nohup`, a background job), it stays so, and where the process is somebody else's (a
    notebook, a thread of another program) it stays as he has it: the second must not end what is his.

    Args:
        arguments: of the command; None for those that this process was started with, which is then its own.
    """
    again = f"python {shlex.join(sys.argv)}" if arguments is None else "the same call again"
    farewell = f"\nstopped; what is finished is kept. To go on: {again}"

    def once(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGINT, twice)
        complain("\nstopping; Ctrl-C again stops at once")
        raise KeyboardInterrupt

    def twice(_: int, __: FrameType | None) -> None:
        os.write(sys.stderr.fileno(), f"{farewell}\n".encode())  # print may be what was interrupted
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
