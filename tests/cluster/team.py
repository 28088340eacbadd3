"""A team on several hosts: a laptop that steers, a head with an MLflow server, a worker, and the shipped cluster files.

What differs from a real cluster: addresses, user and key, as a user changes them; two fake GPUs on each host; and a pip
that finds the dependencies in the Python that runs the tests, since the hosts reach no network but their own.
"""

import os
import secrets
import shutil
import subprocess
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import hosts
import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
HEAD, WORKER, LAPTOP = "10.77.0.1", "10.77.0.2", "10.77.0.9"
MLFLOW = f"http://{HEAD}:5000"
SUBMIT = ("cd amun_ray && ray submit cluster/cluster.yaml amun_ray/sweep.py -- --config several_hosts "
          "--allow-code pinned")
CHECK = "cd amun_ray && python cluster/check_hosts.py"
SKIPPED = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "amun_output", "mlruns")
CREDENTIALS = "~/.mlflow/credentials"  # of the user "sweeps", on the laptop and, by `ray up`, on the nodes
ADD_USER = f"""
import base64, os, sys, urllib.request
settings = dict(line.strip().split("=", 1) for line in open(os.path.expanduser("~/server.env")))
admin = settings["MLFLOW_AUTH_ADMIN_USERNAME"] + ":" + settings["MLFLOW_AUTH_ADMIN_PASSWORD"]
urllib.request.urlopen(urllib.request.Request("{MLFLOW}/api/2.0/mlflow/users/create", sys.stdin.buffer.read(), {{
    "Content-Type": "application/json", "Authorization": "Basic " + base64.b64encode(admin.encode()).decode()}}))
"""


@dataclass
class Team:
    """The hosts, with the cluster up, and how long each step took."""

    network: hosts.Network
    password: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)  # of MLflow's user "sweeps"
    seconds: dict[str, float] = field(default_factory=dict)

    def __getattr__(self, name: str) -> hosts.Host:
        try:
            return self.network.hosts[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def token(self) -> str:
        return (self.laptop.home / ".ray" / "auth_token").read_text().strip()

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[step] = time.monotonic() - started
        print(f"{step}: {self.seconds[step]:.1f} s", flush=True)

    def submit(self, more: str = "", *, timeout: float = 1200) -> subprocess.CompletedProcess:
        """`ray submit` of the shipped sweep, as the README has it."""
        return self.laptop.run(f"{SUBMIT} {more}", timeout=timeout, check=False)

    def sweep(self, host: hosts.Host, more: str = "", *, environment: str = "") -> subprocess.CompletedProcess:
        """A sweep, started by hand on a host of the cluster: the default one, unless `more` says otherwise."""
        return host.run(f"{environment} python ~/amun_source/amun_ray/sweep.py {more}", timeout=600, check=False)


def reason_to_skip() -> str | None:
    """Why the hosts cannot be made here, or None."""
    if os.environ.get("AMUN_SEVERAL_HOSTS") not in ("short", "long"):
        return "makes hosts of its own, minutes: AMUN_SEVERAL_HOSTS=short, or long"
    return hosts.missing()


def open_team(network: hosts.Network) -> Team:
    """Hosts, firewall, token, MLflow server with its user; then `ray up`, while the worker's cable is out."""
    team = Team(network)
    with team.timed("hosts"):
        fetch_build_tools(network)
        for name, address in {"laptop": LAPTOP, "head": HEAD, "worker": WORKER}.items():
            host = network.add(name, address)
            if name != "laptop":
                shutil.copy(HERE / "pinned.py", host.home)
                _close(host)
        network.cut("worker")
    log = network.folder / "mlflow.log"
    _start_mlflow(team.head, log)
    _furnish(team)
    with team.timed("ray up"):
        said = team.laptop.run("cd amun_ray && ray up --yes cluster/cluster.yaml", timeout=1800).stdout
        (network.folder / "ray_up.log").write_text(said)
    with team.timed("MLflow server, beyond ray up"):
        hosts.until(lambda: "Uvicorn running" in log.read_text(), 300, str(log))
    user = f'{{"username": "sweeps", "password": "{team.password}"}}'
    team.head.python(ADD_USER, given=user)
    return team


def substituted(text: str) -> str:
    """The shipped cluster.yaml with addresses, user, key and number of hosts of the test, and two fake GPUs each.

    Of the two hosts one is promised (AMUN_NODES=1): the other joins while the sweep runs.
    """
    config = yaml.safe_load(text)
    config["provider"] |= {"head_ip": HEAD, "worker_ips": [WORKER]}
    config["auth"] |= {"ssh_user": "root",
                       "ssh_proxy_command": config["auth"]["ssh_proxy_command"].replace("ubuntu@", "root@")}
    config["file_mounts"][CREDENTIALS] = CREDENTIALS  # as cluster/mlflow/README.md says
    (setup,) = config["setup_commands"]
    changes = {"/shared/amun ": f"{hosts.SHARED} MLFLOW_TRACKING_URI={MLFLOW} ", "AMUN_NODES=3": "AMUN_NODES=1"}
    for old, new in changes.items():
        assert old in setup
        setup = setup.replace(old, new)
    config["setup_commands"] = [setup]
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        config[key] = [one.replace("ray start ", "ray start --num-gpus=2 --num-cpus=2 ") for one in config[key]]
    return yaml.safe_dump(config)


def _start_mlflow(head: hosts.Host, log: Path) -> None:
    """The shipped server with basic auth, over sqlite, its secrets in a file that its owner alone can read."""
    shutil.copy(REPOSITORY / "cluster" / "mlflow" / "start.sh", head.home)
    settings = {"BACKEND_STORE_URI": "sqlite:////home/amun/mlflow.db", "ARTIFACTS_DESTINATION": "/home/amun/artifacts",
                "AUTH_DATABASE_URI": "sqlite:////home/amun/users.db", "FLASK_SERVER_SECRET_KEY": secrets.token_hex(32),
                "AUTH_ADMIN_USERNAME": "admin", "AUTH_ADMIN_PASSWORD": secrets.token_hex(16),
                "SERVER_ALLOWED_HOSTS": f"{HEAD}:5000", "BIND": HEAD, "WORKERS": "1"}
    _write_secret(head.home / "server.env", "".join(f"MLFLOW_{name}={value}\n" for name, value in settings.items()))
    head.start("set -a; . ~/server.env; set +a; bash ~/start.sh", log)


def _furnish(team: Team) -> None:
    """The checkout, the key, the token and the password of the person who starts the cluster."""
    laptop = team.laptop
    checkout = laptop.home / "amun_ray"
    shutil.copytree(REPOSITORY, checkout, ignore=SKIPPED)
    shutil.copy(HERE / "several_hosts.yaml", checkout / "tune_configs")
    file = checkout / "cluster" / "cluster.yaml"
    file.write_text(substituted(file.read_text()))
    shutil.copy(laptop.folder.parent / "key", laptop.home / ".ssh" / "id_ed25519")
    _write_secret(laptop.home / ".mlflow" / "credentials", "[mlflow]\nmlflow_tracking_username = sweeps\n"
                                                           f"mlflow_tracking_password = {team.password}\n")
    laptop.run("(umask 077; ray get-auth-token --generate > /dev/null)")


def _write_secret(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.touch(0o600)
    path.write_text(text)


def _close(host: hosts.Host) -> None:
    """The shipped firewall, with the addresses of the test."""
    rules = (REPOSITORY / "cluster" / "firewall.nft").read_text()
    assert "10.0.0.1, 10.0.0.2, 10.0.0.3" in rules
    (host.home / "firewall.nft").write_text(rules.replace("10.0.0.1, 10.0.0.2, 10.0.0.3", f"{HEAD}, {WORKER}"))
    host.run("nft -f ~/firewall.nft")


def fetch_build_tools(network: hosts.Network) -> None:
    """What building the package's wheel asks for, while there still is a network."""
    needed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["build-system"]["requires"]
    fetched = subprocess.run([str(network.template / "bin" / "python"), "-m", "pip", "download", "--quiet", *needed,
                              "--dest", str(network.wheels)], capture_output=True, text=True)
    if fetched.returncode:
        pytest.skip(f"{needed} cannot be downloaded: {fetched.stderr.strip().splitlines()[-1]}")
