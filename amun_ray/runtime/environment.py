"""The environment of a sweep: versions, machines, devices and the code revision, as tags of its MLflow run."""

import getpass
import importlib.metadata
import platform
import subprocess
from contextlib import suppress
from pathlib import Path

import amun_ray
from amun_ray.base.device import processor
from amun_ray.runtime.nodes import live_nodes

PACKAGES = ("torch", "ray", "optuna", "mlflow", "numpy")
ACCELERATOR = "accelerator_type:"  # prefix of Ray's resource name for a node's kind of GPU
SOURCE = {"mlflow.source.name": "amun_ray/sweep.py", "mlflow.source.type": "LOCAL"}
COMMIT, CHANGED = "mlflow.source.git.commit", "environment.uncommitted_changes"


def environment(cluster: str) -> dict[str, str]:
    """Tag -> value, including what MLflow shows as user and source. The commit is included if the package is part of a
    git repository, the user if the machine knows one."""
    facts = {"amun_ray": amun_ray.__version__, "python": platform.python_version(), "platform": platform.platform(),
             "processor": processor(), "devices": devices(), "cluster": cluster}
    facts |= {name: importlib.metadata.version(name) for name in PACKAGES}
    tags = {f"environment.{name}": value for name, value in facts.items()} | SOURCE
    with suppress(OSError, KeyError):  # a container may run under a user id without a name
        tags["mlflow.user"] = getpass.getuser()
    return tags | revision(Path(amun_ray.__file__).parent)


def revision(folder: Path) -> dict[str, str]:
    """The commit of the repository that tracks `folder`, and whether its files differ from it; empty without one.

    A package installed into an environment that lies inside some repository has no commit.
    """
    def git(*command: str) -> str:
        return subprocess.run(["git", "-C", folder, *command], check=True, capture_output=True, text=True,
                              timeout=30).stdout.strip()
    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        changed = git("status", "--porcelain", "--untracked-files=no", ".")
        return {COMMIT: git("rev-parse", "HEAD"), CHANGED: "yes" if changed else "no"}
    except (OSError, subprocess.SubprocessError):
        return {}


def devices() -> str:
    """The GPUs of the cluster by kind, such as `4 x H100`; `no GPU` if there are none."""
    counts: dict[str, float] = {}
    for node in live_nodes():
        kinds = [key.removeprefix(ACCELERATOR) for key in node["Resources"] if key.startswith(ACCELERATOR)]
        if gpus := node["Resources"].get("GPU"):
            kind = ", ".join(kinds) or "GPU"
            counts[kind] = counts.get(kind, 0) + gpus
    return "; ".join(f"{count:g} x {kind}" for kind, count in counts.items()) or "no GPU"
