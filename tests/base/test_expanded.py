"""A `~` is the home folder in every path that a user gives, and is expanded in one place."""

from pathlib import Path

import numpy as np
import pytest

import amun_ray
from amun_ray.base.errors import UserError
from amun_ray.base.files import expanded
from amun_ray.config import file as config_file
from amun_ray.data.files import find_files
from amun_ray.data.indices import read_indices
from amun_ray.models.library import LIBRARIES
from amun_ray.storage.store import Store
from amun_ray.sweep import parse


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder, and a different current folder, in which no folder `~` may appear."""
    (tmp_path / "home #1").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home #1"))
    yield tmp_path / "home #1"
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize(("place", "wanted"), [
    ("~", "/home/a #1"), ("~/x/~y", "/home/a #1/x/~y"), ("./~/x", "./~/x"), ("x~", "x~"), ("~nobody at all/x",) * 2,
    ("sqlite:///~/m.db?timeout=3", "sqlite:////home/a %231/m.db?timeout=3"), ("sqlite:////~/m.db",) * 2,
    ("sqlite:///m.db",) * 2, ("file:~/x", "file:///home/a %231/x"), ("file:///~/x%20y", "file:///home/a %231/x%20y"),
    ("s3://~/x",) * 2, ("", "")])
def test_a_leading_tilde_is_the_home_folder(monkeypatch, place, wanted):
    monkeypatch.setenv("HOME", "/home/a #1")
    assert expanded(place) == wanted


def test_nothing_else_expands_it():
    found = [path for path in Path(amun_ray.__file__).parent.rglob("*.py") if "expanduser" in path.read_text()]
    assert [path.name for path in found] == ["files.py"]


def test_it_stands_in_every_path_of_a_config_and_of_the_command(home):
    for name in ("train.parquet", "request.txt", "mine.yaml"):
        (home / name).write_text("3\n")
    assert [file.path for file in find_files("~/*.parquet")[0]] == [str(home / "train.parquet")]
    assert read_indices("~/request.txt", 4).rows.tolist() == [3]
    assert config_file.resolve("~/mine.yaml") == home / "mine.yaml"
    assert Store("~/store").uri == str(home / "store")
    assert parse(["--output", "~/out"]).output == home / "out"
    with pytest.raises(UserError, match=f"{home / 'net' / 'config.json'} is not there"):
        LIBRARIES["huggingface"].check("~/net")


def test_a_checkpoint_and_torchvisions_folder_may_begin_with_it(home, monkeypatch):
    import torch

    from amun_ray import models
    from amun_ray.data import torchvision_sets
    from amun_ray.work.checkpoints import read_checkpoint
    network = models.build("small_cnn", channels=1, classes=10, size=8, mean=(0.5,), std=(0.5,), seed=0)
    torch.save({"ema": network.state_dict()}, home / "weights.pt")
    assert read_checkpoint("~/weights.pt#ema", None, network).state.keys() == network.state_dict().keys()

    class Part:
        classes = ("a", "b")

        def __init__(self, root: str, **_: bool) -> None:
            assert root == str(home / "sets")
            self.data, self.targets = np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0, 1]

    monkeypatch.setattr(torchvision_sets, "_torchvision_class", lambda kind: Part)
    assert len(torchvision_sets.load_cifar10(root="~/sets")) == 8
