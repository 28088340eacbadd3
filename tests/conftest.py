"""What every test gets: one thread (as a worker has), and the real CIFAR-10 where it is at hand."""

import os
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cifar10_folder() -> Path:
    """The folder with `cifar10-train.parquet` and `cifar10-test.parquet`; a test that needs it skips without."""
    folder = Path(os.environ.get("AMUN_CIFAR10", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "cifar10-train.parquet").is_file():
        pytest.skip(f"no CIFAR-10 parquet files in {folder}; set AMUN_CIFAR10 to their folder")
    return folder
