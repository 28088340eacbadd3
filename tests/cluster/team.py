"""A team on several hosts: a laptop that steers, a head with an MLflow server, a worker, and the shipped cluster files.

What differs from a real cluster: addresses, user and key, as a user changes them; two fake GPUs on each host; and a pip
that finds the dependencies in the Python that runs the tests, since the hosts reach no network but their own.
"""

import os
import shutil
import subprocess
import time
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
SUBMIT = "cd amun_ray && ray submit cluster/cluster.yaml amun_ray/sweep.py -- --config several_hosts"
SKIPPED = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "amun_output", "mlruns")


@dataclass
class Team:
    """The hosts, with the cluster up, and how long each step took."""

    network: hosts.Network
    seconds: dict[str, float] = field(default_factory=dict)

    def __getattr__(self, name: str) -> hosts.Host:
        try:
            return self.network.hosts[name]
        except KeyError:
            raise AttributeError(name) from None

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.seconds[step] = time.monotonic() - started
        print(f"{step}: {self.seconds[step]:.1f} s", flush=True)

    def submit(self, more: str = "", *, timeout: float = 1200, check: bool = True) -> subprocess.CompletedProcess:
        """`ray submit` of the shipped sweep, as the README has it."""
        return self.laptop.run(f"{SUBMIT} {more}", timeout=timeout, check=check)

    def sweep(self, host: hosts.Host, more: str = "", *, environment: str = "") -> subprocess.CompletedProcess:
        """The default sweep, started by hand on a host of the cluster."""
        return host.run(f"{environment} python ~/amun_source/amun_ray/sweep.py {more}",
                        timeout=400, check=False)


def reason_to_skip() -> str | None:
    """Why the hosts cannot be made here, or None."""
    if os.environ.get("AMUN_SEVERAL_HOSTS") not in ("short", "long"):
        return "makes hosts of its own, minutes: AMUN_SEVERAL_HOSTS=short, or long"
    return hosts.missing()


def open_team(network: hosts.Network) -> Team:
    """Hosts, firewall, token, MLflow server; then `ray up`."""
    team = Team(network)
    with team.timed("hosts"):
        _fetch_build_tools(network)
        for name, address in {"laptop": LAPTOP, "head": HEAD, "worker": WORKER}.items():
            host = network.add(name, address)
            if name != "laptop":
                shutil.copy(HERE / "pinned.py", host.home)
                _close(host)
    log = network.folder / "mlflow.log"
    team.head.start(f"cd /mnt/amun && MLFLOW_SERVER_ALLOWED_HOSTS='{HEAD}:5000' python -m mlflow server "
                    f"--host {HEAD} --port 5000 --workers 1 --backend-store-uri sqlite:////home/amun/mlflow.db "
                    "--artifacts-destination /home/amun/artifacts", log)
    _furnish(team.laptop)
    with team.timed("ray up"):
        team.laptop.run("cd amun_ray && ray up --yes cluster/cluster.yaml", timeout=900)
    with team.timed("MLflow server, beyond ray up"):
        hosts.until(lambda: team.head.run(f"python -c 'import urllib.request as r; r.urlopen(\"{MLFLOW}/health\")'",
                                          check=False).returncode == 0, 300, str(log))
    return team


def substituted(text: str) -> str:
    """The shipped cluster.yaml with addresses, user, key and number of hosts of the test, and two fake GPUs each."""
    config = yaml.safe_load(text)
    config["provider"] |= {"head_ip": HEAD, "worker_ips": [WORKER]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"}
    (setup,) = config["setup_commands"]
    changes = {"/shared/amun ": f"{hosts.SHARED} MLFLOW_TRACKING_URI={MLFLOW} ", "AMUN_NODES=3": "AMUN_NODES=2"}
    for old, new in changes.items():
        assert old in setup
        setup = setup.replace(old, new)
    config["setup_commands"] = [setup]
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        config[key] = [one.replace("ray start ", "ray start --num-gpus=2 --num-cpus=2 ") for one in config[key]]
    return yaml.safe_dump(config)


def _furnish(laptop: hosts.Host) -> None:
    """The checkout, the key and the token of the person who starts the cluster."""
    checkout = laptop.home / "amun_ray"
    shutil.copytree(REPOSITORY, checkout, ignore=SKIPPED)
    shutil.copy(HERE / "several_hosts.yaml", checkout / "tune_configs")
    file = checkout / "cluster" / "cluster.yaml"
    file.write_text(substituted(file.read_text()))
    shutil.copy(laptop.folder.parent / "key", laptop.home / ".ssh" / "id_ed25519")
    laptop.run("umask 077; ray get-auth-token --generate > /dev/null")


def _close(host: hosts.Host) -> None:
    """The shipped firewall, with the addresses of the test."""
    rules = (REPOSITORY / "cluster" / "firewall.nft").read_text()
    assert "10.0.0.1, 10.0.0.2, 10.0.0.3" in rules
    (host.home / "firewall.nft").write_text(rules.replace("10.0.0.1, 10.0.0.2, 10.0.0.3", f"{HEAD}, {WORKER}"))
    host.run("nft -f ~/firewall.nft")


def _fetch_build_tools(network: hosts.Network) -> None:
    """What building the package's wheel asks for, while there still is a network."""
    fetched = subprocess.run([str(network.template / "bin" / "python"), "-m", "pip", "download", "--quiet", "hatchling",
                              "--dest", str(network.wheels)], capture_output=True, text=True)
    if fetched.returncode:
        pytest.skip(f"hatchling cannot be downloaded: {fetched.stderr.strip().splitlines()[-1]}")
