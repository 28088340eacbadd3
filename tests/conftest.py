"""What every test gets: one thread (as a worker has), the real CIFAR-10 where it is at hand, one undisturbed sweep, and
an S3 server."""

import gc
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from amun_ray.base.log import speaking

if TYPE_CHECKING:
    from sweeping import Sweep

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_unconfigure() -> None:
    """Sweeps in this process have frozen what there was (`base.imports`): libraries would call it leaked."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def capsys(capsys):
    """pytest's own; what the package says is printed, as by its command."""
    with speaking():
        yield capsys


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> "tuple[Sweep, Path]":
    """tests/small_sweep.yaml, run from beginning to end as a user runs it; and its output folder, whose name has all
    that means something else in a URI."""
    from sweeping import CONFIG, ODD, Sweep
    output = tmp_path_factory.mktemp("undisturbed") / ODD
    return Sweep("--config", CONFIG, "--output", output).finish(), output


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """A database of MLflow's that is set up, which takes seconds: to be copied."""
    from amun_ray.tracking import Tracker
    folder = tmp_path_factory.mktemp("mlflow")
    Tracker(f"sqlite:///{folder / 'mlflow.db'}", "other", folder.as_uri(), spool=folder / "spool", say=print)
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def aws_server() -> Iterator[str]:
    """A simulated AWS on this machine: its `host:port`. Credentials: in os.environ."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    host, port = address.split(":")
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "--host", host, "--port", port],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"AWS_ACCESS_KEY_ID": "a-key", "AWS_SECRET_ACCESS_KEY": "a-secret",
                            "AWS_DEFAULT_REGION": "us-east-1"}.items():
            patch.setenv(name, value)
        while server.poll() is None:
            with suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
                break
            time.sleep(0.1)
        yield address
    server.kill()
    server.wait()


@pytest.fixture(scope="session")
def bucket(aws_server) -> Callable[[], str]:
    """Makes a new bucket at each call; returns its URI."""
    import pyarrow.fs
    files = pyarrow.fs.S3FileSystem(endpoint_override=aws_server, scheme="http", allow_bucket_creation=True)

    def make() -> str:
        name = f"bucket-{uuid.uuid4().hex}"
        files.create_dir(name)
        return f"s3://{name}?scheme=http&endpoint_override={aws_server}"

    return make


@pytest.fixture(scope="session")
def cifar10_folder() -> Path:
    """The folder with `cifar10-train.parquet` and `cifar10-test.parquet`; a test that needs it skips without."""
    folder = Path(os.environ.get("AMUN_CIFAR10", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "cifar10-train.parquet").is_file():
        pytest.skip(f"no CIFAR-10 parquet files in {folder}; set AMUN_CIFAR10 to their folder")
    return folder
