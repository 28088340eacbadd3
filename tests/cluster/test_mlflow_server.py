"""The shipped start script of the MLflow server, and that none of its secrets leaves the machine."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
GOOD = {"MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg2://mlflow:3f0c@database/mlflow",
        "AWS_SECRET_ACCESS_KEY": "9a7e", "MLFLOW_ARTIFACTS_DESTINATION": "s3://mlflow/",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "0123456789abcdef" * 4,
        "MLFLOW_AUTH_ADMIN_USERNAME": "admin", "MLFLOW_AUTH_ADMIN_PASSWORD": "a-long-enough-one",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "localhost:5000"}


def start(folder: Path, changed: dict[str, str]) -> subprocess.CompletedProcess:
    """start.sh with an `mlflow` that only prints its arguments."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "mlflow"
    program.write_text('#!/bin/sh\necho "mlflow $*"\n')
    program.chmod(0o755)
    environment = GOOD | changed | {"HOME": str(folder), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    script = str(CLUSTER / "mlflow" / "start.sh")
    return subprocess.run(["bash", script], env=environment, capture_output=True, text=True)


def test_the_server_starts_with_good_secrets_and_shows_none_on_its_command_line(tmp_path):
    done = start(tmp_path, {})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("mlflow server --app-name basic-auth")
    secret = [value for name, value in GOOD.items() if name.endswith(("PASSWORD", "KEY", "URI"))]
    assert not any(value in done.stdout + done.stderr for value in secret)
    assert (tmp_path / "basic_auth.ini").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("changed", "said"), [
    ({"MLFLOW_AUTH_ADMIN_PASSWORD": "change-me-twelve-characters-or-more"}, "MLFLOW_AUTH_ADMIN_PASSWORD is still"),
    ({"MLFLOW_FLASK_SERVER_SECRET_KEY": "change-me-64-random-hex-digits"}, "MLFLOW_FLASK_SERVER_SECRET_KEY is still"),
    ({"MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg2://mlflow:change-me-letters-and-digits@database/mlflow"},
     "MLFLOW_BACKEND_STORE_URI is still"),
    ({"AWS_SECRET_ACCESS_KEY": "change-me-letters-and-digits"}, "AWS_SECRET_ACCESS_KEY is still"),
    ({"MLFLOW_AUTH_ADMIN_PASSWORD": "password1234"}, "MLflow's default"),
    ({"MLFLOW_AUTH_ADMIN_PASSWORD": "short"}, "twelve characters"),
    ({"MLFLOW_FLASK_SERVER_SECRET_KEY": "short"}, "32 characters")])
def test_the_server_refuses_the_secrets_of_the_example_and_weak_ones(tmp_path, changed, said):
    done = start(tmp_path, changed)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert not (tmp_path / "basic_auth.ini").exists()


def test_the_examples_secrets_are_all_marked_as_such():
    lines = (CLUSTER / "mlflow" / "example.env").read_text().splitlines()
    secret = [line for line in lines if line.split("=")[0].endswith(("PASSWORD", "KEY"))]
    assert len(secret) == 4
    assert all("change-me" in line for line in secret)


@pytest.mark.parametrize("name", [".env", "server.env"])
def test_a_file_of_passwords_is_neither_committed_nor_copied_to_the_hosts(name):
    assert name in (CLUSTER.parent / ".gitignore").read_text().splitlines()
    for file in ("cluster.yaml", "aws.yaml"):
        assert name in yaml.safe_load((CLUSTER / file).read_text())["rsync_exclude"]
