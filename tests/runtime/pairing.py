"""Which pairs of head and worker find together, with and without a file with the token: `ray start`, by hand.

    python tests/runtime/pairing.py FOLDER      prints {"MODE: head WITH, worker WITHOUT": what came of it}
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PATIENT = {"RAY_raylet_start_wait_time_s": "300", "RAY_agent_register_timeout_ms": "300000"}  # a busy machine is slow


def started(home: Path, *arguments: str, mode: str) -> tuple[subprocess.Popen[str], str]:
    """`ray start ARGUMENTS` by a user with that home, until it runs or has ended; the process, and what it said."""
    os.environ |= PATIENT
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    process = subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", "--num-cpus=1",
         *arguments], text=True, bufsize=1, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env=environment | {"HOME": str(home)} | ({"RAY_AUTH_MODE": mode} if mode else {}))
    said = ""
    for line in process.stdout:
        said += line
        if "--block" in line:
            break
    else:  # it has said all that it had to say
        process.wait()
    return process, said


def pairs(folder: Path) -> dict[str, str]:
    """Head and worker, with and without a file with the token, in each mode: does the worker join?"""
    homes = {"with": folder / "with", "without": folder / "without"}
    for home in homes.values():
        (home / ".ray").mkdir(parents=True)
    (homes["with"] / ".ray" / "auth_token").write_text("5" * 64)
    found = {}
    for mode in ("token", ""):
        for head, home in homes.items():
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            process, said = started(home, "--head", f"--port={port}", "--include-dashboard=false",
                                    f"--temp-dir=/tmp/stress-{port}", mode=mode)
            for worker, other in homes.items() if process.poll() is None else ():
                node, answer = started(other, f"--address=127.0.0.1:{port}", mode=mode)
                time.sleep(5)  # one that is not let in ends by then
                found[f"{mode or 'unset'}: head {head}, worker {worker}"] = (
                    "joins" if node.poll() is None else answer.strip().splitlines()[-1])
                end(node)
            if process.poll() is not None:
                found[f"{mode or 'unset'}: head {head}"] = said.strip().splitlines()[-1]
            end(process)
            print(found, file=sys.stderr, flush=True)
    return found


def end(process: subprocess.Popen[str]) -> None:
    """End a process and all that it has started, and nobody else's Ray."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    print(json.dumps(pairs(Path(sys.argv[1]))))
