"""Originals trained elsewhere: from files, folders and a local MLflow, by their content, and nothing unpickled."""

import json

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from torch import nn

from amun_ray import data, models
from amun_ray.base.errors import UserError
from amun_ray.models import checkpoint
from amun_ray.sweep import main
from amun_ray.tracking import model_files
from amun_ray.work.checkpoints import read_checkpoint

DIGITS = data.load("digits", train_size=300)
SHAPE = {"channels": 1, "classes": 10, "size": 8, "mean": [0.3], "std": [0.4]}


def network(width: int = 8) -> nn.Module:
    return models.build("small_cnn", seed=0, options={"width": width}, **SHAPE)


WEIGHTS = checkpoint.save(network(), {})


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A local MLflow whose runs hold models in every form that there is: its URI, and its run ids by form."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.create_experiment("theirs", (folder / "artifacts").as_uri())
    description = {"name": "small_cnn", "options": {"width": 8}} | SHAPE
    forms = {
        "ours": model_files(description, {"weights.safetensors": WEIGHTS}) | {"model/MLmodel": b"flavors: {}"},
        "trial": model_files(description, {"weights-0.safetensors": WEIGHTS, "weights-1.safetensors": WEIGHTS}),
        "narrow": {"model/model.safetensors": checkpoint.save(network(4), {})},
        "state": {"model/state_dict.pth": network().state_dict()},
        "pickled": {"model/data/model.pth": network()},
        "program": {"model/data/model.pt2": b"a program", "model/MLmodel": b"flavors: {}"},
    }
    runs = {}
    for form, files in forms.items():
        runs[form] = client.create_run(experiment, run_name=form).info.run_id
        for name, content in files.items():
            path = folder / form / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        client.log_artifacts(runs[form], folder / form)
    client.create_registered_model("theirs")
    source = f"{client.get_run(runs['ours']).info.artifact_uri}/model"
    version = client.create_model_version("theirs", source, runs["ours"])
    client.set_registered_model_alias("theirs", "champion", version.version)
    return uri, runs


@pytest.mark.parametrize("source", [
    "runs:/{ours}/model", "runs:/{ours}/model/weights.safetensors", "runs:/{trial}/model/weights-1.safetensors",
    "models:/theirs/1", "models:/theirs@champion", "{folder}", "{folder}/model/weights.safetensors"])
def test_the_same_weights_are_the_same_wherever_they_come_from(source, server, tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.safetensors").write_bytes(WEIGHTS)
    uri, runs = server
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = read_checkpoint(source.format(folder=tmp_path, **runs), uri, network())
    assert found.digest == read_checkpoint(
        str(tmp_path / "model" / "weights.safetensors"), None, network()).digest
    assert checkpoint.digest(found.state) == checkpoint.digest(network())
    assert not mlflow.is_tracking_uri_set()  # MLflow's own default is what it was


def test_a_state_dict_of_mlflow_loads_and_the_environment_may_name_the_server(server, monkeypatch):
    uri, runs = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    found = read_checkpoint(f"runs:/{runs['state']}/model", None, network())
    assert checkpoint.digest(found.state) == checkpoint.digest(network())
    assert found.source.endswith("/model: state_dict.pth")


@pytest.mark.parametrize(("source", "message"), [
    ("runs:/{pickled}/model", r"model: data/model.pth: not a plain state dict, but holds .*Sequential, and whole "
                              r"objects are not unpickled, since that runs code; save `model.state_dict\(\)` instead"),
    ("runs:/{program}/model", r"holds no weights, but MLmodel, data/model.pt2; programs .* put `model.state_dict\(\)`"),
    ("runs:/{trial}/model", "several files of weights, name one of them: weights-0.safetensors, weights-1.safetensors"),
    ("runs:/{ours}/nothing", "not found at tracking.uri"),
    ("runs:/0123456789abcdef/model", "not found at tracking.uri .*0123456789abcdef"),
    ("models:/theirs/7", "not found at tracking.uri .*theirs"),
    ("models:/nobody@champion", "models:/nobody@champion: not found at tracking.uri "),
    ("models:/theirs@nobody", "not found at tracking.uri .*nobody"),
    ("mlflow-artifacts:/0/model", "not found at tracking.uri .*must be a valid http or https URI"),
])
def test_what_cannot_be_loaded_is_said_with_what_to_do(source, message, server):
    uri, runs = server
    with pytest.raises(UserError, match=message) as caught:
        read_checkpoint(source.format(**runs), uri, network())
    assert str(caught.value).startswith(source.format(**runs))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("uri", "message"), [
    (None, "no MLflow server is named; set tracking.uri, or MLFLOW_TRACKING_URI"),
    ("sqlite:///nothing.db", "tracking.uri 'sqlite:///nothing.db': no such database"),
    ("http://127.0.0.1:9", "tracking.uri 'http://127.0.0.1:9': MLflow cannot be used"),
])
def test_a_server_that_is_not_there(uri, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=message):
        read_checkpoint("runs:/1/model", uri, network())
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("form", "code", "message"), [
    ("ours", 0, "sweep mine: digits"),
    ("narrow", 2, "model: model.safetensors: these weights are not of this model: net.features.0.weight has shape "
                  "(4, 1, 3, 3), wanted (8, 1, 3, 3)"),
])
def test_a_dry_run_loads_them(form, code, message, server, tmp_path, capsys):
    uri, runs = server
    config = {"name": "mine", "data": {"name": "digits", "train_size": 300}, "forget": {"fraction": 0.1},
              "model": {"name": "small_cnn", "options": {"width": 8}}, "training": {"recipe": "fast"},
              "originals": {"checkpoints": [f"runs:/{runs[form]}/model"]}, "methods": {"amun": None},
              "tracking": {"uri": uri}}
    (tmp_path / "mine.yaml").write_text(json.dumps(config))
    assert main(["--config", str(tmp_path / "mine.yaml"), "--dry-run"]) == code
    assert message in "".join(capsys.readouterr())
