"""The team's MLflow server without Docker: PostgreSQL, S3, basic auth; a sweep that logs to it while each is restarted.

AMUN_TEAM=1 runs it, as root, where PostgreSQL is installed: five minutes on two busy cores.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sweeping import CONFIG, Sweep, made, numbers

SCRIPT = Path(__file__).resolve().parents[2] / "cluster" / "mlflow" / "without_docker.sh"
pytestmark = pytest.mark.skipif("AMUN_TEAM" not in os.environ, reason="starts a team's server, minutes: AMUN_TEAM=1")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class TeamServer:
    """The script, as the user `nobody` of this machine, and its settings."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder, self.port, self.database_port = folder, free_port(), free_port()
        self.uri, self.password = f"http://127.0.0.1:{self.port}", secrets.token_hex(16)
        self.log = folder / "log"
        settings = {"POSTGRES_PASSWORD": secrets.token_hex(8), "POSTGRES_PORT": self.database_port,
                    "STORE_PASSWORD": "a-secret", "MLFLOW_S3_ENDPOINT_URL": f"http://{store}",
                    "MLFLOW_ADMIN": "admin", "MLFLOW_ADMIN_PASSWORD": self.password,
                    "MLFLOW_SECRET_KEY": secrets.token_hex(32), "MLFLOW_ADDRESS": "127.0.0.1",
                    "MLFLOW_BIND_PORT": self.port, "MLFLOW_HOSTS": f"127.0.0.1:{self.port}", "MLFLOW_WORKERS": 1}
        (folder / "env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        folder.chmod(0o777)
        as_nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps=+dac_read_search",
                     "--ambient-caps=+dac_read_search"]  # this Python may lie in a folder of root's alone
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*as_nobody, "bash", str(SCRIPT), str(folder / "data")], stdout=log, stderr=log,
                env={"HOME": str(folder), "AMUN_ENV": str(folder / "env"), "AWS_DEFAULT_REGION": "us-east-1",
                     "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})

    def await_health(self) -> "TeamServer":
        deadline = time.monotonic() + 300
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return self
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.5)

    def kill(self, words: str) -> None:
        """SIGKILL every process of this server whose command line holds `words`."""
        done = subprocess.run(["pkill", "--signal", "KILL", "--uid", "nobody", "--full", words], capture_output=True)
        assert done.returncode == 0, f"no process {words!r}"

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0


@pytest.fixture(scope="module")
def server(aws_server: str) -> Iterator[TeamServer]:
    folder = Path(f"/tmp/amun-team-{os.getpid()}")
    folder.mkdir()
    server = TeamServer(folder, aws_server)
    yield server.await_health()
    if server.process.poll() is None:
        server.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def login(server: TeamServer) -> dict[str, str]:
    return {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": server.password}


def test_strangers_are_turned_away_and_no_secret_is_on_a_command_line(server):
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{server.uri}/api/2.0/mlflow/experiments/get?experiment_id=0")
    listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    for line in (server.folder / "env").read_text().splitlines():
        name, _, value = line.partition("=")
        assert not name.endswith(("PASSWORD", "KEY")) or value not in listed, name


def test_a_sweep_loses_nothing_while_database_and_server_are_killed_and_the_store_stands_still(
        server, login, tmp_path, undisturbed, monkeypatch):
    sweep = Sweep("--config", CONFIG, "--output", tmp_path / "out", "--set", f"tracking.uri={server.uri}", **login)
    sweep.reach(2)
    server.kill("postgres -D")
    sweep.reach(3)
    server.kill("mlflow.server")
    sweep.finish()
    server.await_health()
    again = Sweep("--config", CONFIG, "--output", tmp_path / "out", "--set", f"tracking.uri={server.uri}",
                  **login).finish()
    assert "kept" not in again.text
    assert made(again, "training") == 0
    assert numbers(tmp_path / "out") == numbers(undisturbed[1])
    for name, value in login.items():
        monkeypatch.setenv(name, value)
    from mlflow import MlflowClient
    client = MlflowClient(server.uri)
    (experiment,) = [one for one in client.search_experiments() if one.name == "small"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    assert {run.info.status for run in runs} == {"FINISHED"}
    stages = [run.data.tags["stage"] for run in runs]
    assert (stages.count("trial"), stages.count("final")) == (9, 12)
    for run in runs:
        if run.data.tags["stage"] == "final":
            (model,) = client.search_logged_models([experiment.experiment_id], f"source_run_id = '{run.info.run_id}'")
            assert client.list_artifacts(run.info.run_id) is not None
            assert model.status == "READY"


def test_the_same_command_goes_on_with_the_same_data_and_leaves_nothing_behind(server):
    server.stop()
    for port in (server.port, server.database_port):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
