"""The public face: what a program finds in `amun_ray`, what it costs to import, and the notebook that uses it."""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import amun_ray
from amun_ray.api import Picture
from amun_ray.base.errors import UserError
from amun_ray.metrics import RmiaSettings, Split
from amun_ray.metrics import score as score_arrays

REPOSITORY = Path(__file__).resolve().parent.parent
RECIPE = {"epochs": 2, "lr": 0.1, "batch_size": 32}
FORGET = [3, 1, 8, 20]


def in_fresh_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_importing_the_package_is_quick_and_loads_no_platform():
    code = ("import time; before = time.process_time(); import amun_ray; took = time.process_time() - before\n"
            "import sys; print(took, sorted({'torch', 'ray', 'mlflow', 'numpy', 'pydantic'} & set(sys.modules)))")
    found = [in_fresh_python(code).split(maxsplit=1) for _ in range(3)]
    assert {loaded.strip() for _, loaded in found} == {"[]"}
    assert min(float(seconds) for seconds, _ in found) < 0.2  # of the processor, so that a busy machine does not count


def test_loading_a_config_needs_neither_ray_nor_mlflow():
    code = ("from amun_ray import load_config\nimport sys\n"
            "print(load_config('default').name, sorted({'ray', 'mlflow'} & set(sys.modules)))")
    assert in_fresh_python(code) == "digits []\n"


def test_every_name_of_the_face_is_there_and_listed():
    assert set(amun_ray.__all__) >= {"run", "load_config", "craft", "unlearn", "score", "load_model"}
    assert set(amun_ray.__all__) <= set(dir(amun_ray))
    assert all(callable(getattr(amun_ray, name)) for name in amun_ray.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'unlern'"):
        amun_ray.unlern  # noqa: B018


@pytest.mark.parametrize("first", ["from amun_ray import unlearn", "from amun_ray.unlearn import METHODS"])
def test_unlearn_is_the_function_and_the_package_whichever_is_imported_first(first):
    code = (f"{first}\nimport amun_ray\nfrom amun_ray import unlearn\nfrom amun_ray.unlearn import METHODS\n"
            "print(callable(unlearn), amun_ray.unlearn is unlearn, unlearn.METHODS is METHODS)")
    assert in_fresh_python(code) == "True True True\n"


@pytest.fixture(scope="module")
def data():
    whole = amun_ray.load_data("digits", train_size=60)
    return type(whole)("few digits", whole.pixels[:100], whole.labels[:100], 60, 10)


@pytest.fixture(scope="module")
def original(data):
    return amun_ray.train(data, "small_cnn", options={"width": 4}, **RECIPE)


def test_training_is_repeatable_and_does_not_see_the_rows_to_forget(data, original):
    weights = {key: value.clone() for key, value in original.state_dict().items()}
    again = amun_ray.train(data, "small_cnn", options={"width": 4}, **RECIPE).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in weights.items())

    def retrained(pixels):
        changed = type(data)(data.name, pixels, data.labels, data.train_size, data.classes)
        vars(changed)["statistics"] = data.statistics  # those are of all training rows
        return amun_ray.train(changed, "small_cnn", options={"width": 4}, forget=FORGET, **RECIPE).state_dict()

    other = data.pixels.copy()
    other[FORGET] = 255 - other[FORGET]
    first, second = retrained(data.pixels), retrained(other)
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert not all(torch.equal(value, first[key]) for key, value in weights.items())


def test_crafted_rows_are_those_to_forget_and_are_taken_for_another_class(data, original):
    rows = amun_ray.craft(original, data, FORGET, attack="pgd_l2", eps_init=0.1)
    assert rows.index.tolist() == FORGET
    assert rows.true_label.tolist() == data.labels[FORGET].tolist()
    assert rows.kept.any()
    said = original(torch.from_numpy(rows.image[rows.kept])).argmax(1).numpy()
    assert (said == rows.label[rows.kept]).all()
    assert (said != rows.true_label[rows.kept]).all()


def test_unlearning_leaves_the_original_alone_and_gradient_ascent_is_undone_by_hand(data, original):
    before = {key: value.clone() for key, value in original.state_dict().items()}
    made = amun_ray.unlearn("gradient_ascent", original, data, FORGET, access="forget_only", lr=0.01, epochs=1,
                            momentum=0.0, weight_decay=0.0, batch_size=32,
                            settings={"forget_statistics": 0})
    assert all(torch.equal(value, before[key]) for key, value in original.state_dict().items())
    images, labels = torch.from_numpy(data.pixels[FORGET]).float() / 255, torch.from_numpy(data.labels[FORGET])
    loss = torch.nn.functional.cross_entropy(original(images), labels)
    names, weights = zip(*original.named_parameters(), strict=True)
    for name, weight, gradient in zip(names, weights, torch.autograd.grad(loss, weights), strict=True):
        torch.testing.assert_close(made.state_dict()[name], (weight + 0.01 * gradient).detach(), rtol=1e-4, atol=1e-5)


def test_amun_needs_what_craft_returns(data, original):
    with pytest.raises(UserError, match="amun needs an adversarial set"):
        amun_ray.unlearn("amun", original, data, FORGET, lr=0.01, epochs=1)
    with pytest.raises(UserError, match="access must be 'retain' or 'forget_only', but got 'all'"):
        amun_ray.unlearn("finetune", original, data, FORGET, access="all", lr=0.01, epochs=1)


def test_scores_are_those_of_the_arrays(data, original):
    reference = np.linspace(0.3, 0.9, len(data))
    found = amun_ray.score(original, data, FORGET, reference)
    with torch.no_grad():
        logits = original(torch.from_numpy(data.pixels).float() / 255).numpy()
    right = logits.argmax(1) == data.labels
    assert found["unlearn_accuracy"] == pytest.approx(100 * right[FORGET].mean())
    assert found["test_accuracy"] == pytest.approx(100 * right[60:].mean())
    split = Split.of(np.array(FORGET), labels=data.labels, train_size=60)
    assert found == pytest.approx(score_arrays(logits, data.labels, split, reference, settings=RmiaSettings()))


def test_reference_confidence_is_the_mean_of_models_trained_on_halves(data):
    few = amun_ray.reference_confidence(data, "small_cnn", count=4, options={"width": 4}, **RECIPE)
    assert few.shape == (100,)
    assert ((few > 0) & (few < 1)).all()
    with pytest.raises(UserError, match="must be even"):
        amun_ray.reference_confidence(data, "small_cnn", count=5, **RECIPE)


@pytest.mark.parametrize(("rows", "problem"), [
    ([], "one or more integers"), ([60], "row 60 to forget is outside the training rows 0..59"),
    ([-1], "row -1 to forget is outside"), ([2, 5, 2], "row 2 to forget appears more than once"),
    ([0.5], "one or more integers")])
def test_rows_to_forget_are_training_rows_each_once(data, original, rows, problem):
    with pytest.raises(UserError, match=re.escape(problem)):
        amun_ray.craft(original, data, rows)


def test_a_sweep_returns_a_flat_row_for_each_line_of_its_table(monkeypatch, tmp_path):
    stored = [{"method": "amun", "access": "retain", "lr": 0.1, "schedule": "never", "epochs": 3,
               "settings": {"forget_statistics": True}, "average_gap": {"mean": 1.5, "std": 0.5, "n": 8},
               "attacks": {"mis": {"mean": 40.0, "std": 2.0, "n": 8}},
               "intervals": {"average_gap": {"low": 1.0, "high": 2.0, "level": 0.9}},
               "mlflow_run_ids": ["a", "b"]},
              {"method": "original", "access": None, "lr": None, "schedule": None, "epochs": None, "settings": {},
               "average_gap": {"mean": 4.0, "std": 0.0, "n": 2}, "attacks": {}, "intervals": {},
               "mlflow_run_ids": []}]
    asked = []
    monkeypatch.setattr("amun_ray.sweep.run", lambda *arguments: asked.append(arguments) or stored)
    amun, original = amun_ray.run("default", tmp_path, ["search.trials=13"])
    assert (asked[0][0].search.trials, asked[0][1]) == (13, tmp_path)
    assert amun == {"method": "amun", "access": "retain", "lr": 0.1, "schedule": "never", "epochs": 3,
                    "setting_forget_statistics": True, "average_gap_mean": 1.5, "average_gap_std": 0.5,
                    "average_gap_n": 8, "average_gap_low": 1.0, "average_gap_high": 2.0, "average_gap_level": 0.9,
                    "mis_mean": 40.0, "mis_std": 2.0, "mis_n": 8, "mlflow_run_ids": ["a", "b"]}
    assert original.keys() == amun.keys()
    assert (original["lr"], original["average_gap_mean"], original["mis_mean"]) == (None, 4.0, None)
    with pytest.raises(ValueError, match="overrides belong"):
        amun_ray.run(amun_ray.load_config("default"), tmp_path, ["seed=1"])


def test_a_notebook_shows_a_picture():
    assert Picture(b"png")._repr_png_() == b"png"


def test_the_notebook_runs_in_twenty_lines_that_import_amun_ray_alone(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient
    notebook = nbformat.read(REPOSITORY / "examples" / "notebook.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    lines = [line for cell in cells for line in cell.source.splitlines() if line.strip()]
    assert len(lines) <= 20
    assert [line for line in lines if "import" in line] == [lines[0]]
    assert lines[0].startswith("from amun_ray import ")
    assert not any(cell.outputs for cell in cells)  # kept without results, which would age
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as every test here
    NotebookClient(notebook, timeout=600, kernel_name="python3",
                   resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in cells for output in cell.outputs]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    auc = {line.split()[0]: json.loads(line[line.index("{"):].replace("'", '"'))["forget_test_auc"]
           for line in text.splitlines() if line.startswith(("Original", "AMUN", "Retrained"))}
    assert auc["AMUN"] < auc["Original"]  # the attack tells less of what was forgotten
    (picture,) = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert base64.b64decode(picture).startswith(b"\x89PNG")
