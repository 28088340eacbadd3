"""A user's own images, forget list, trained network, architecture and method, none of which the package has seen."""

import io
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from safetensors.torch import save_file
from sweeping import Sweep, finished, results

from amun_ray import data
from amun_ray.metrics import predict
from amun_ray.tracking import load_model

MODULE = '''
from torch import nn

from amun_ray.training.loop import EpochPlan, Pass, cross_entropy
from amun_ray.unlearn import Method, Setting, Task


def net(*, channels, classes, size, width=12):
    return nn.Sequential(nn.Conv2d(channels, width, 3, 2, 1), nn.ReLU(), nn.Flatten(),
                         nn.Linear(width * (size // 2) ** 2, classes))


def retold(task: Task) -> EpochPlan:
    return lambda epoch: (Pass((task.sets.retain,), lambda *batch: task.settings["weight"] * cross_entropy(*batch)),)


def broken(task: Task) -> EpochPlan:
    return lambda epoch: (Pass((task.sets.remaining,)),)


class Awake(nn.Flatten):
    def __init__(self, *, channels, classes, size):
        super().__init__()
        self.linear = nn.Linear(channels * size * size, classes)

    def forward(self, images):
        if self.training:
            raise ValueError("no training\\nhere")
        return self.linear(super().forward(images))


WEIGHT = Setting(default=1, low=1, high=1e30, choices=(1, 1e30))
WEIGHTED = Method(access=frozenset({"retain"}), plan=retold, settings={"weight": WEIGHT})
BROKEN = Method(access=frozenset({"retain"}), plan=broken)
'''
CONFIG = """
name: own
data: {name: parquet, train: own/train.parquet, test: own/test.parquet, label_column: digit}
model: {name: "ours:net", options: {width: 10}}
originals: {checkpoints: [own/trained.safetensors]}
training: {epochs: 2, lr: 0.05, batch_size: 32}
forget: {indices: own/request.csv}
references: {count: 4}
attack: {shard_size: 10}
methods: {"ours:WEIGHTED": {search: [weight]}, amun: {access: [forget_only]}}
search: {trials: 4, epochs: 1, lr: {low: 1e-3, high: 1e-2}, startup: 4}
final: {runs: 1}
"""
REQUEST = [3, 17, 20, 44, 45, 46, 90, 91, 100, 119, 150, 7]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the user has: two parquet files, a list of rows, a module, weights of a network trained elsewhere."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "own").mkdir()
    digits = data.load("digits", train_size=200)
    for name, rows in (("train", range(200)), ("test", range(200, 350))):
        pq.write_table(pa.table({
            "picture": [{"bytes": png(digits.pixels[row, 0]), "path": f"{row}.png"} for row in rows],
            "digit": 10 * digits.labels[rows.start:rows.stop].astype(np.int32)}), folder / "own" / f"{name}.parquet")
    (folder / "own" / "request.csv").write_text("customer,index\n" + "".join(f"c{row},{row}\n" for row in REQUEST))
    (folder / "ours.py").write_text(MODULE)
    (folder / "own.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        import ours
        save_file(trained(ours.net, digits), folder / "own" / "trained.safetensors")
        yield folder


def ours(folder) -> dict[str, str]:
    """The environment of a command whose config names code of the user's."""
    return {"PYTHONPATH": str(folder), "AMUN_ALLOW_CODE": "ours"}


def line(text: str) -> int:
    """The number of the line of the user's module that holds `text`."""
    return next(number for number, line in enumerate(MODULE.splitlines(), 1) if text in line)


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def trained(net, digits) -> dict[str, torch.Tensor]:
    """A plain training loop of the user's, which knows nothing of the package: weights of the bare network."""
    torch.manual_seed(0)
    model = net(channels=1, classes=10, size=8, width=10)
    images, labels = torch.from_numpy(digits.pixels[:200]) / 255, torch.from_numpy(digits.labels[:200])
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.state_dict()


@pytest.fixture(scope="module")
def run(folder):
    return Sweep("--config", "own.yaml", "--output", "out", "--allow-code", "ours", cwd=folder,
                 PYTHONPATH=str(folder)).finish()


def test_the_sweep_runs_on_all_that_is_the_users(run, folder):
    assert [(row["method"], row["access"]) for row in results(folder / "out")] == [
        ("retrain", None), ("original", None), ("ours:WEIGHTED", "retain"), ("amun", "forget_only")]
    assert "parquet, 200 training and 150 test images of 10 classes; 12 to be forgotten" in run.text


def test_the_users_weights_are_the_original_and_the_list_is_what_was_forgotten(run, folder):
    (original,) = (folder / "out" / "store" / "imported").iterdir()
    logits = np.load(original / "logits.npy")
    digits = data.load("digits", train_size=200)
    accuracy = 100 * (logits.argmax(1)[:200] == digits.labels[:200])[np.sort(REQUEST)].mean()
    assert results(folder / "out")[1]["unlearn_accuracy"]["mean"] == pytest.approx(accuracy)
    sets = [json.loads(path.read_text())["result"] for path in
            (folder / "out" / "store" / "models").glob("*/unit.json")]
    assert sorted(one["samples"] for one in sets if one["name"].startswith("retrained")) == [188, 188]


def test_the_users_network_loads_back_from_mlflow(run, folder):
    uri, row = f"sqlite:///{folder / 'out' / 'mlflow.db'}", results(folder / "out")[2]
    pixels = torch.from_numpy(data.load("digits", train_size=200).pixels[:350])
    made = [np.load(path) for path in (folder / "out" / "store" / "unlearned").glob("*/logits.npy")]
    model = load_model(row["mlflow_run_ids"][0], uri=uri, own="ours:net")
    assert any(np.array_equal(predict(model, pixels).numpy(), one) for one in made)


def test_what_the_classes_are_called_comes_with_every_model_and_is_in_the_report(run, folder):
    """Their labels have gaps: 0, 10, ... 90."""
    called, uri = tuple(str(10 * digit) for digit in range(10)), f"sqlite:///{folder / 'out' / 'mlflow.db'}"
    for row in results(folder / "out"):
        assert load_model(row["mlflow_run_ids"][0], uri=uri, own="ours:net").class_names == called
    assert re.findall("<li>([0-9]+)</li>", (folder / "out" / "report.html").read_text()) == list(called)


def test_a_trial_that_diverges_is_kept_with_its_reason_and_the_sweep_goes_on(run, folder):
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'out' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("own").experiment_id
    trials = client.search_runs([experiment], "tags.stage = 'trial' and tags.method = 'ours:WEIGHTED'")
    diverged = [one for one in trials if one.data.params["weight"] == "1e+30"]
    assert 0 < len(diverged) < len(trials) == 4
    for one in trials:
        assert one.info.status == ("FAILED" if one in diverged else "FINISHED")
        assert ("failed" in one.data.tags) == (one in diverged)
    assert diverged[0].data.tags["failed"].startswith("epoch 1: epoch 1 of 1, lr ")
    assert results(folder / "out")[2]["settings"] == {"weight": 1}


def test_a_method_that_breaks_ends_the_search_with_its_own_words(run, folder):
    broken = Sweep("--config", "own.yaml", "--output", "out", "--set", "methods={'ours:BROKEN': }", "--set",
                   "search.trials=1", cwd=folder, **ours(folder)).finish(code=2)
    assert ("error: no successful trial: ours:BROKEN (retain): AttributeError: 'Sets' object has no attribute "
            "'remaining'") in broken.text


def test_a_network_that_breaks_in_a_worker_is_one_line(run, folder):
    broken = Sweep("--config", "own.yaml", "--output", "broken", "--set", "originals={}", "--set",
                   "model={name: 'ours:Awake'}", cwd=folder, **ours(folder)).finish(code=2)
    assert broken.lines[-1].strip() == (
        f"error: 'ours:Awake': ValueError: no training ({folder / 'ours.py'}, line {line('no training')})")
    assert "Traceback" not in broken.text


def test_another_forget_list_keeps_what_does_not_depend_on_it(run, folder):
    """A second request: the original and the references are there, in the same folder."""
    before = finished(folder / "out")
    (folder / "own" / "second.csv").write_text("\n".join(str(row) for row in range(60, 72)))
    again = Sweep("--config", "own.yaml", "--output", "out", "--set", "forget.indices=own/second.csv", cwd=folder,
                  **ours(folder)).finish()
    assert before.items() <= finished(folder / "out").items()
    assert "training: 2 models" in again.text  # the two retrained ones


def test_the_same_weights_from_mlflow_are_the_same_original(run, folder):
    """The address of all work rests on what a checkpoint holds, not on where it was fetched."""
    uri, before = f"sqlite:///{folder / 'out' / 'mlflow.db'}", finished(folder / "out")
    client = MlflowClient(tracking_uri=uri)
    theirs = client.create_run(client.get_experiment_by_name("own").experiment_id, run_name="theirs").info.run_id
    client.log_artifact(theirs, folder / "own" / "trained.safetensors", "model")
    again = Sweep("--config", "own.yaml", "--output", "out", "--set", f"tracking.uri={uri}", "--set",
                  f"originals.checkpoints=['runs:/{theirs}/model']", cwd=folder, **ours(folder)).finish()
    after = finished(folder / "out")
    assert before.items() <= after.items()
    assert {path.partition("/")[0] for path in after.keys() - before.keys()} <= {"tables"}  # the new sweep's own
    assert "training:" not in again.text
