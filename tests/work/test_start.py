"""Where trainings begin: at given weights, all but a fresh head; what is loaded, fresh and refused is said."""

import json
import re

import numpy as np
import pytest
import ray
import torch

from amun_ray import data, models
from amun_ray.base.errors import UserError
from amun_ray.config.schema import Sweep
from amun_ray.models import checkpoint
from amun_ray.runtime.bench import SharedWorkspace
from amun_ray.stages.originals import make_model
from amun_ray.storage.store import Store
from amun_ray.sweep import main
from amun_ray.work.plan import BEGUN, Plan
from amun_ray.work.trainings import wanted_trainings
from amun_ray.work.units import WEIGHTS, Training

DIGITS = data.load("digits", train_size=60)
SHAPE = {"channels": 1, "size": 8, "mean": [0.3], "std": [0.4]}
HEAD = ["net.linear.weight", "net.linear.bias"]


def plan(weights=None, **sections):
    model = {"name": "small_cnn", "options": {"width": 4}} | ({"weights": str(weights)} if weights else {})
    return Plan(Sweep.model_validate({
        "name": "start", "data": {"name": "digits", "train_size": 60}, "model": model, "methods": {"finetune": None},
        "training": {"lr": 1e-12, "epochs": 1, "weight_decay": 0.0}, "forget": {"fraction": 0.1}} | sections), DIGITS)


def network(classes=10, seed=7, width=4):
    return models.build("small_cnn", classes=classes, seed=seed, options={"width": width}, **SHAPE)


@pytest.fixture
def weights(tmp_path):
    """A function that writes the bare net for so many classes, and returns the file."""
    def write(classes=10, name="public.safetensors", width=4):
        (tmp_path / name).write_bytes(checkpoint.save(network(classes, width=width).net, {}))
        return tmp_path / name
    return write


def digests(of):
    wanted = wanted_trainings(of.workspace(Store("nowhere")), of)
    return [one.unit(of.workspace(Store("nowhere"))).digest for one in wanted.every]


def test_every_training_depends_on_the_bytes_of_the_weights_and_not_on_their_place(weights, tmp_path):
    same, other = weights(), weights(7, "other.safetensors")
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(same.read_bytes())
    assert digests(plan(same)) == digests(plan(moved))
    assert plan(same).identity == plan(moved).identity
    assert not {*digests(plan(same))} & {*digests(plan(other))}
    assert not {*digests(plan(same))} & {*digests(plan())}
    assert plan(same).identity != plan(other).identity != plan().identity


def test_a_training_begins_at_the_weights_with_a_head_of_its_own(weights, tmp_path, monkeypatch):
    """With next to no learning rate a training ends where it begins."""
    monkeypatch.setattr(ray, "put", lambda value: [value])
    monkeypatch.setattr(ray, "get", lambda values: [value for value, in values])
    for classes, fresh in ((10, []), (7, HEAD)):
        given, store = plan(weights(classes)), Store(str(tmp_path / f"store{classes}"))
        assert sorted(given.start.fresh) == sorted(fresh)
        workspace = SharedWorkspace.open(given.sweep, store, DIGITS, given.start)
        for seed in (1, 2):
            training = Training("one", np.arange(60), seed)
            make_model(workspace, training, unit := training.unit(workspace))
            found = read(store, unit, tmp_path)
            drawn = given.workspace(store).new_model(seed).state_dict()
            for name, tensor in network(classes).state_dict().items():
                if "running" in name or "num_batches" in name or name.startswith("normalize"):
                    continue  # which a pass changes, or which the data decide
                wanted = drawn[name] if name in fresh else tensor
                torch.testing.assert_close(found[name], wanted, atol=1e-6, rtol=0)


def read(store, unit, folder):
    (folder / "found.safetensors").write_bytes(store.read(unit, WEIGHTS).to_pybytes())
    return checkpoint.read(folder / "found.safetensors")[""]


def test_the_plan_says_what_is_loaded_what_is_fresh_and_what_retraining_then_means(weights):
    said = str(plan(path := weights(7)))
    assert f"  weights     {path}: " in said
    assert "net.linear.weight, net.linear.bias: drawn anew from each training's seed" in said
    assert BEGUN in said
    assert "  normalise   {mean: " in said
    assert "as the training images are" in said
    assert BEGUN in plan(path).searched  # below the table, and in the report
    assert "drawn anew" not in str(plan(weights(10)))
    assert "weights  " not in str(plan())


def test_weights_with_a_normalisation_of_their_own_bring_it(tmp_path):
    path = tmp_path / "ours.safetensors"
    path.write_bytes(checkpoint.save(network(), {}))
    given = plan(path)
    given.check()
    torch.testing.assert_close(given.start.state["normalize.mean"].flatten(), torch.tensor([0.3]))
    told = plan(path, data={"name": "digits", "train_size": 60, "normalize": {"mean": [0.1], "std": [0.2]}})
    with pytest.raises(UserError, match=r"ours.safetensors: brings a normalisation of its own, .*0.3.* leave"):
        told.check()


@pytest.mark.parametrize(("source", "message"), [
    ("nowhere.safetensors", "nowhere.safetensors: cannot be read as safetensors"),
    ("wide.safetensors", r"wide.safetensors: these weights are not of this model: \S+ has shape .*, wanted"),
    ("text.safetensors", "text.safetensors: cannot be read as safetensors"),
    ("empty", "empty: holds no weights, but nothing"),
    ("public.safetensors#ema", "public.safetensors#ema: the file has no such key"),
])
def test_what_cannot_begin_is_said_in_one_line_by_a_dry_run(source, message, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    weights(), weights(7, "wide.safetensors", width=8)
    (tmp_path / "text.safetensors").write_text("no weights")
    (tmp_path / "empty").mkdir()
    code = main(["--dry-run", "--set", "model.options.width=4", "--set", f"model.weights={json.dumps(source)}"])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert re.search(message, line), line
