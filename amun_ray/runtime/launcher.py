"""What Ray runs in the place of Python for a worker on this machine: it asks the warm process (see warm.py) for a fork.

A script, `python -I -S launcher.py SOCKET SCRIPT ARGUMENT ...`, with no import that costs time. Where the warm process
does not answer, it becomes the Python that Ray wanted.
"""

import os
import socket
import sys


def main(address: str, *command: str) -> None:
    """Have `command`, a script and its arguments, run in a fork with this process's streams, folder, environment and
    priorities; or run it here."""
    with open("/proc/self/oom_score_adj", "rb") as file:
        fields = [os.getcwdb(), b"%d" % os.nice(0), file.read().strip(), b"%d" % len(command)]
    fields += [*map(os.fsencode, command), *(name + b"=" + value for name, value in os.environb.items())]
    message = b"\0".join(fields)
    try:
        with socket.socket(socket.AF_UNIX) as warm:
            warm.connect(address)
            socket.send_fds(warm, [len(message).to_bytes(4, "little")], [0, 1, 2])
            warm.sendall(message)
            if warm.recv(1):  # it runs
                return
    except OSError:
        pass
    os.execv(sys.executable, [sys.executable, *command])


if __name__ == "__main__":
    main(*sys.argv[1:])
