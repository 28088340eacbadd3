"""What Ctrl-C does to a sweep: once, it ends in order; twice, at once."""

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 130  # of a program that Ctrl-C ended, as shells have it


@contextmanager
def interruptible(arguments: list[str] | None) -> Iterator[None]:
    """Raise KeyboardInterrupt at the first Ctrl-C, end the process there and then at the second; say how to go on.

    Nothing is lost by the second: what is finished is in the store whole, and Ray's processes end after their driver.
    Where Ctrl-C is ignored (`nohup`, a background job) or somebody else's (a notebook), it stays so.

    Args:
        arguments: of the command; None for those that this process was started with.
    """
    again = shlex.join([sys.argv[0], *(sys.argv[1:] if arguments is None else arguments)])
    farewell = f"\nstopped; what is finished is kept. To go on: python {again}"

    def once(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGINT, twice)
        print("\nstopping; Ctrl-C again stops at once", file=sys.stderr, flush=True)
        raise KeyboardInterrupt

    def twice(_: int, __: FrameType | None) -> None:
        os.write(sys.stderr.fileno(), f"{farewell}\n".encode())  # print may be what was interrupted
        os._exit(EXIT_CODE)

    mine = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if mine:
        signal.signal(signal.SIGINT, once)
    try:
        yield
    except KeyboardInterrupt:
        print(farewell, file=sys.stderr)
        raise
    finally:
        if mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)
