"""`mlflow server` as a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

PATIENCE_SECONDS = 300  # for a start on a busy machine


class Server:
    """`mlflow server` over a database, on one port for good: it can be stopped, killed and started again."""

    def __init__(self, database: str, artifacts: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.uri, self._database, self._artifacts, self._process = (
            f"http://127.0.0.1:{self.port}", database, artifacts, None)

    def start(self) -> "Server":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self._database, "--workers", "1",
             "--artifacts-destination", str(self._artifacts), "--host", "127.0.0.1", "--port", str(self.port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return self
            except OSError:
                assert time.monotonic() < deadline, "the server does not start"
                assert self._process.poll() is None, "the server has ended"
                time.sleep(0.2)

    def signal(self, number: signal.Signals) -> None:
        """To the server and its workers."""
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGKILL)
            self._process.wait()
