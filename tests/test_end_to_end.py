"""One real sweep on digits, as a user runs it: what it leaves, that it repeats nothing, that a kill loses nothing."""

import random
import re

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from sweeping import REPOSITORY, Sweep, finished, numbers, results

from amun_ray import config_file, data
from amun_ray.metrics import accuracy, predict
from amun_ray.tracking import load_model

CONFIG = REPOSITORY / "tests" / "small_sweep.yaml"
METRICS = ("unlearn_accuracy", "retain_accuracy", "test_accuracy", "forget_test_auc", "average_gap")
FIGURES = {"confidence.png", "adversaries_eps.png", "adversaries_l2.png", "search_lr.png", "search_epochs.png",
           "search_trade_off.png", "final_table.png", "final_comparison.png", "rmia_roc.png"}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def sweep():
    return config_file.load(str(CONFIG))


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def run(output):
    return Sweep("--config", CONFIG, "--output", output).finish()


@pytest.fixture(scope="module")
def digits(sweep):
    return data.load(sweep.data.name, **sweep.data.settings)


@pytest.fixture(scope="module")
def pixels(digits):
    return torch.from_numpy(digits.pixels)


def uri(output) -> str:
    return f"sqlite:///{output}/mlflow.db"


def logged(output) -> dict[str, list]:
    """Every run of the database by its stage."""
    client = MlflowClient(tracking_uri=uri(output))
    (experiment,) = [one for one in client.search_experiments() if one.name == "small"]
    groups: dict[str, list] = {}
    for one in client.search_runs([experiment.experiment_id], max_results=1000):
        groups.setdefault(one.data.tags["stage"], []).append(one)
    return groups


@pytest.fixture(scope="module")
def runs(run, output):
    return logged(output)


def test_results_have_a_row_for_each_method_and_access_and_the_two_baselines(run, output, sweep):
    rows = results(output)
    named = [(row["method"], row["access"]) for row in rows]
    assert named == [("retrain", None), ("original", None), *sweep.contenders]
    for row in rows:
        assert {"method", "access", "lr", "schedule", "epochs", "mlflow_run_ids", *METRICS} <= set(row)
        for metric in METRICS:
            assert set(row[metric]) == {"mean", "std", "n"}
            assert 0 <= row[metric]["mean"] <= 100
            assert row[metric]["std"] >= 0
    for row in rows[:2]:
        assert (row["lr"], row["schedule"], row["epochs"]) == (None, None, None)
        assert row["average_gap"]["n"] == 2  # one original x two forget sets
    for row in rows[2:]:
        assert sweep.search.lr.low <= row["lr"] <= sweep.search.lr.high
        assert row["schedule"] in sweep.search.schedules
        assert 1 <= row["epochs"] <= sweep.search.epochs
        assert row["average_gap"]["n"] == len(row["mlflow_run_ids"]) == 4  # x two runs


def test_the_retrained_row_is_the_target(run, output):
    retrain, original = results(output)[:2]
    assert retrain["average_gap"] == {"mean": 0.0, "std": 0.0, "n": 2}
    assert retrain["test_accuracy"]["mean"] > 80  # six epochs on 270 digits
    assert original["unlearn_accuracy"]["mean"] >= retrain["unlearn_accuracy"]["mean"]  # it has seen D_F


def test_the_command_says_where_it_is_and_ends_with_the_table(run, output):
    assert list(run.stages) == [1, 2, 3, 4, 5]
    for row in results(output):
        begin = row["method"] + {"retain": " +with D_R", "forget_only": " +only D_F", None: ""}[row["access"]]
        cells = " +".join(re.escape(f"{row[metric]['mean']:.2f} +- {row[metric]['std']:.2f}") for metric in METRICS)
        assert re.search(rf"^{begin} +{cells}", run.text, re.MULTILINE), begin
    assert "<- the target" in run.text
    assert f"mlflow ui --backend-store-uri {uri(output)}" in run.text
    assert "Traceback" not in run.text
    assert "Warning" not in run.text


def test_mlflow_has_a_parent_and_a_child_for_each_trial_and_model(runs, sweep, output):
    (parent,) = runs["sweep"]
    assert parent.info.status == "FINISHED"
    assert len(runs["trial"]) == 3 * sweep.search.trials
    assert len(runs["final"]) == 3 * 2 * sweep.final.runs
    children = [one for stage, group in runs.items() if stage != "sweep" for one in group]
    assert {one.data.tags["mlflow.parentRunId"] for one in children} == {parent.info.run_id}
    assert {one.info.status for one in children} == {"FINISHED"}
    keys = [one.data.tags["amun.key"] for one in children]
    assert len(set(keys)) == len(keys)
    assert {run_id for row in results(output) for run_id in row["mlflow_run_ids"]} <= {
        one.info.run_id for one in children}


@pytest.mark.parametrize("stage", ["trial", "final"])
def test_a_child_has_parameters_lineage_and_a_metric_per_epoch(runs, output, sweep, stage):
    client = MlflowClient(tracking_uri=uri(output))
    for one in runs[stage]:
        assert {"lr", "schedule", "epochs", "unlearning.batch_size"} <= set(one.data.params)
        assert {"method", "access", "forget_set", "original", "lineage.original", "lineage.forget",
                "lineage.adversarial", "lineage.references", "lineage.result"} <= set(one.data.tags)
    one, epochs = runs[stage][0], int(runs[stage][0].data.params["epochs"])
    for metric in METRICS:
        assert [point.step for point in client.get_metric_history(one.info.run_id, metric)] == list(
            range(1, epochs + 1)), metric


def test_the_parent_has_figures_results_and_the_report_of_the_adversarial_sets(runs, output):
    client, (parent,) = MlflowClient(tracking_uri=uri(output)), runs["sweep"]
    listed = client.list_artifacts(parent.info.run_id, "figures")
    figures = {one.path.rpartition("/")[2]: one.file_size for one in listed}
    assert set(figures) >= FIGURES
    assert min(figures.values()) > 5000
    assert {"results.json", "table.txt"} <= {one.path for one in client.list_artifacts(parent.info.run_id)}
    assert any(key.endswith("failed_percent") for key in parent.data.metrics)
    assert any("eps" in key for key in parent.data.metrics)
    assert any("l2" in key for key in parent.data.metrics)


def test_a_final_model_loads_back_and_predicts_the_stored_logits(runs, output, pixels):
    for one in runs["final"][:2]:
        model = load_model(one.info.run_id, uri=uri(output))
        stored = np.load(output / "store" / "unlearned" / one.data.tags["lineage.result"] / "logits.npy")
        assert np.array_equal(predict(model, pixels).numpy(), stored)


def test_the_model_of_a_trial_loads_back_at_its_best_epoch(runs, output, digits, pixels):
    client = MlflowClient(tracking_uri=uri(output))
    for one in runs["trial"][:2]:
        model = load_model(one.info.run_id, uri=uri(output), weights="weights-0.safetensors")
        logits = predict(model, pixels).numpy()
        test = slice(digits.train_size, None)
        scores = {point.step: point.value for point in client.get_metric_history(one.info.run_id, "test_accuracy")}
        assert accuracy(logits[test], digits.labels[test]) == scores[int(one.data.metrics["best_epoch"])]


def test_the_same_command_again_repeats_nothing(run, runs, output):
    before, said = finished(output), (output / "results.json").read_bytes()
    again = Sweep("--config", CONFIG, "--output", output).finish()
    assert finished(output) == before
    assert (output / "results.json").read_bytes() == said
    after = logged(output)
    assert {stage: sorted(one.info.run_id for one in group) for stage, group in after.items()} == {
        stage: sorted(one.info.run_id for one in group) for stage, group in runs.items()}
    assert not re.search(r"(training|adversarial examples|unlearning): \d+ .* in ", again.text)


def test_a_sweep_killed_again_and_again_comes_to_the_same_numbers(run, runs, output, tmp_path):
    """The driver is killed without warning at random points of three stages, in another folder than the first run's."""
    seed = random.randrange(2**32)
    draw, begun = random.Random(seed), {}
    for stage in sorted(draw.sample(range(1, 6), 3)):
        after = draw.uniform(0.05, 0.9) * run.duration(stage)
        Sweep("--config", CONFIG, "--output", tmp_path).kill_in(stage, after)
        kept = finished(tmp_path)
        assert begun.items() <= kept.items(), f"finished work was made again: {seed=}, {stage=}, {after=}"
        begun = kept
    Sweep("--config", CONFIG, "--output", tmp_path).finish()
    assert begun.items() <= finished(tmp_path).items(), f"finished work was made again: {seed=}"
    assert numbers(tmp_path) == numbers(output), seed
    assert set(finished(tmp_path)) == set(finished(output)), seed
    after = logged(tmp_path)
    assert {stage: len(group) for stage, group in after.items()} == {
        stage: len(group) for stage, group in runs.items()}, seed
    assert {one.info.status for group in after.values() for one in group} == {"FINISHED"}, seed


def test_every_file_of_the_store_belongs_to_a_unit(run, output):
    assert not [*(output / "store").rglob("*.partial")]
    assert {path.name for path in (output / "store").iterdir()} - {"scratch"} == {
        "models", "adversarial_sets", "trials", "unlearned"}
