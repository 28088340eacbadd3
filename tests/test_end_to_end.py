"""One real sweep on digits, as a user runs it: what it leaves, and that it repeats nothing."""

import re
import shutil

import numpy as np
import pytest
import ray
import torch
from mlflow import MlflowClient
from serving import Server
from sweeping import CONFIG, Sweep, finished, logged, numbers, results, runs_of, uri

from amun_ray import data
from amun_ray.config import file as config_file
from amun_ray.metrics import accuracy, predict
from amun_ray.reporting.columns import ATTACKS
from amun_ray.storage.store import PIXELS
from amun_ray.sweep import main
from amun_ray.tracking import load_model

METRICS = ("unlearn_accuracy", "retain_accuracy", "test_accuracy", "forget_test_auc", "average_gap")
FIGURES = {"confidence.png", "adversaries_eps.png", "adversaries_l2.png", "search_lr.png", "search_epochs.png",
           "search_trade_off.png", "final_table.png", "final_comparison.png", "rmia_roc.png"}
OF_MANY_MODELS = {"klom_forget", "klom_retain", "klom_test", "forgetting_quality", "challenge_score",
                  *(term for term in ATTACKS
                    if term.startswith(("ulira_", "ruli_", "relearned_", "apollo_", "robust_")) or "_barrier_" in term)}
TO_ANOTHER = {"distance_retrained"}  # which a retrained model that is alone has none of
WORKS = ("originals", "retrained", "references", "adversarial_sets", "search", "final",
         "boundary", "linear_probe", "distance")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def sweep():
    return config_file.load(str(CONFIG))


@pytest.fixture(scope="module")
def output(undisturbed):
    return undisturbed[1]


@pytest.fixture(scope="module")
def run(undisturbed):
    return undisturbed[0]


@pytest.fixture(scope="module")
def digits(sweep):
    return data.load(sweep.data.name, **sweep.data.settings)


@pytest.fixture(scope="module")
def pixels(digits):
    return torch.from_numpy(digits.pixels)


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
    assert retrain["average_gap"] == {"mean": 0.0, "std": 0.0, "n": 2}  # one model a set: there is no other to differ
    assert retrain["test_accuracy"]["mean"] > 80  # six epochs on 270 digits
    assert original["unlearn_accuracy"]["mean"] >= retrain["unlearn_accuracy"]["mean"]  # it has seen D_F


def test_the_command_says_where_it_is_and_ends_with_the_table(run, output):
    assert list(run.stages) == [1, 2, 3, 4, 5]
    for row in results(output):
        begin = row["method"] + {"retain": " +with D_R", "forget_only": " +only D_F", None: ""}[row["access"]]
        cells = " +".join(re.escape(f"{row[metric]['mean']:.2f} +- {row[metric]['std']:.2f}") for metric in METRICS)
        assert re.search(rf"^{begin} +{cells}", run.text, re.MULTILINE), begin
    assert "<- the target" in run.text
    assert f"mlflow ui --backend-store-uri '{uri(output)}'" in run.text
    assert re.search(r"^ +http://127.0.0.1:5000/#/compare-runs\?runs=\S+  \(the best model of each method side by "
                     r"side\)$", run.text, re.MULTILINE)
    assert "klom is left out: it needs 2 x 4 (audit.models) retrained" in (output / "report.html").read_text()
    assert "left out" not in run.text  # nobody asked for it
    assert "Traceback" not in run.text
    assert "Warning" not in run.text


def test_mlflow_has_a_parent_and_a_child_for_each_trial_and_model(runs, sweep, output):
    (parent,) = runs["sweep"]
    assert parent.info.status == "FINISHED"
    assert len(runs["trial"]) == 3 * sweep.search.trials
    assert len(runs["final"]) == 3 * 2 * sweep.final.runs
    children = [one for stage, group in runs.items() if stage != "sweep" for one in group]
    parts = {one.info.run_name: one.info.run_id for one in runs["part"]}
    for stage, above in (("originals", "original and retrained models"), ("adversarial_set", "adversarial sets"),
                         ("trial", "search"), ("final", "unlearned models")):
        assert {one.data.tags["mlflow.parentRunId"] for one in runs[stage]} == {parts.pop(above)}
    assert parts == {}
    assert {one.data.tags["mlflow.parentRunId"] for one in runs["part"]} == {parent.info.run_id}
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
    assert {"results.json", "table.txt", "table.md"} <= {one.path for one in client.list_artifacts(parent.info.run_id)}
    for one in runs["adversarial_set"]:
        for word in ("failed_percent", "eps", "l2"):
            assert any(word in key for key in one.data.metrics)


def test_what_the_report_tells_to_delete_is_there(run, output):
    (said,) = re.findall(r"<li>Adversarial examples are near.*?</li>", (output / "report.html").read_text(), re.DOTALL)
    named = set(re.findall("<code>([a-z_]+)</code>", said))
    others = {PIXELS, "imported"}  # where there are large pictures, or loaded models
    assert named >= others
    assert {folder for folder in named - others if any((output / "store" / folder).iterdir())} == {
        "adversarial_sets", "models"}
    assert named - others == {"adversarial_sets", "models"}


def test_the_output_and_the_store_are_for_their_owner_alone(run, output):
    assert [folder.stat().st_mode & 0o777 for folder in (output, output / "store")] == [0o700, 0o700]


def test_the_page_of_the_sweep_opens_with_its_result(runs, output):
    (parent,) = runs["sweep"]
    rows = {".".join(filter(None, (row["method"], row["access"]))): row["average_gap"]["mean"]
            for row in results(output)}
    assert {key.removeprefix("average_gap."): value for key, value in parent.data.metrics.items()
            if key.startswith("average_gap.")} == pytest.approx(rows)
    note = parent.data.tags["mlflow.note.content"]
    assert (output / "table.md").read_text().splitlines()[0] in note
    assert " comes nearest to retraining, with an Avg. Gap of " in note
    assert {used.tags[0].value for used in parent.inputs.dataset_inputs} == {"D", "D_T"}
    for stage in ("originals", "trial", "final"):
        assert {used.tags[0].value for used in runs[stage][0].inputs.dataset_inputs} == {"D_F", "D_R", "D_T"}
        assert runs[stage][0].data.tags["mlflow.source.name"] == "amun_ray/sweep.py"


def stored_logits(output, run) -> np.ndarray:
    return np.load(output / "store" / "unlearned" / run.data.tags["lineage.result"] / "logits.npy")


def test_a_final_model_loads_back_and_predicts_the_stored_logits(runs, output, pixels):
    for one in runs["final"][:2]:
        model = load_model(one.info.run_id, uri=uri(output))
        assert np.array_equal(predict(model, pixels).numpy(), stored_logits(output, one))


def test_of_each_method_the_first_model_with_what_the_search_chose_is_registered(runs, output, pixels, sweep):
    """The final scores choose nothing."""
    client = MlflowClient(tracking_uri=uri(output))
    assert {one.name for one in client.search_registered_models()} == {
        f"small-{method}-{access}" for method, access in sweep.contenders}
    for method, access in sweep.contenders:
        finals = [one for one in runs["final"]
                  if (one.data.tags["method"], one.data.tags["access"]) == (method, access)]
        best = client.get_model_version_by_alias(f"small-{method}-{access}", "best")
        (run,) = [one for one in finals if one.info.run_id == best.run_id]
        assert (run.data.tags["forget_set"], run.data.tags["run"]) == ("final 0", "0")
        searched = [one.data.metrics["best_average_gap"] for one in runs["trial"] if (
            one.data.tags["method"], one.data.tags["access"]) == (method, access)
            and "best_average_gap" in one.data.metrics]
        assert float(best.tags["search.score"]) == min(searched)
        assert best.tags.items() <= run.data.tags.items()
        assert client.get_model_version_by_alias(best.name, f"best-{best.tags['request']}").version == best.version
        model = load_model(f"models:/small-{method}-{access}@best", uri=uri(output))
        assert np.array_equal(predict(model, pixels).numpy(), stored_logits(output, run))


def test_the_other_attacks_are_in_the_results_the_runs_and_the_table(run, runs, output):
    found = set(ATTACKS) - OF_MANY_MODELS
    for row in results(output):
        assert set(row["attacks"]) == found - (TO_ANOTHER if row["method"] == "retrain" else set())
        assert all(0 <= value["mean"] <= 100 for name, value in row["attacks"].items() if not name.endswith("_change"))
    for one in (*runs["final"], *runs["originals"]):
        assert found - TO_ANOTHER | set(METRICS) <= set(one.data.metrics)
    assert re.search(r"^other attacks +MIS +Avg. Gap \(MIS\) +RMIA TPR@1% ", run.text, re.MULTILINE)


@pytest.mark.parametrize(("words", "count"), [
    ("tags.stage = 'final' and tags.method = 'amun' and tags.access = 'forget_only'", 4),
    ("tags.forget_set = 'final 1' and tags.stage = 'final' and tags.original = '0'", 6),
    ("tags.stage = 'trial' and tags.method = 'finetune'", 3),
    ("tags.stage = 'originals' and tags.method = 'retrain'", 2),
    ("tags.stage = 'final' and metrics.average_gap < 0", 0),
])
def test_tags_find_runs(runs, output, words, count):
    client = MlflowClient(tracking_uri=uri(output))
    experiment = client.get_experiment_by_name("small").experiment_id
    assert len(client.search_runs([experiment], filter_string=words)) == count


def test_the_run_of_the_sweep_says_where_it_ran_and_what_it_cost(runs):
    (parent,) = runs["sweep"]
    assert {f"environment.{name}" for name in ("python", "torch", "ray", "mlflow", "devices", "processor")} <= set(
        parent.data.tags)
    found = of_parts(runs)
    for stage in ("models", "adversarial_sets", "search", "final_forget_sets"):
        assert found[f"seconds.{stage}"] > 0, stage
    costs = [found[f"device_seconds.{work}"] for work in WORKS]
    assert min(costs) > 0
    assert {name.partition(".")[2] for name in found if name.startswith("core_seconds.")} == {
        "rmia", "mis", "lira", "thresholds", "iam", "memorisation"}
    assert parent.data.metrics["device_seconds"] == pytest.approx(sum(costs))
    assert {name.partition(".")[0] for name in parent.data.metrics} == {"average_gap", "seconds", "device_seconds"}


def of_parts(runs) -> dict[str, float]:
    """The metrics of the runs that the sweep unfolds into."""
    return {name: value for part in runs["part"] for name, value in part.data.metrics.items()}


def test_a_run_ends_when_its_work_did_and_began_when_its_work_began(runs, output):
    (parent,) = runs["sweep"]
    for one in runs["final"]:
        written = (output / "store" / "unlearned" / one.data.tags["lineage.result"] / "unit.json").stat().st_mtime
        assert one.info.end_time == pytest.approx(1000 * written, abs=1)
        assert one.info.end_time - one.info.start_time == pytest.approx(1000 * one.data.metrics["seconds"], abs=1)
    for one in (run for stage in ("originals", "adversarial_set", "trial", "final") for run in runs[stage]):
        assert parent.info.start_time < one.info.start_time < one.info.end_time < parent.info.end_time


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
    costs = of_parts(after)
    for work in WORKS:
        assert costs[f"device_seconds_reused.{work}"] == costs[f"device_seconds.{work}"] > 0


def test_a_server_that_dies_in_the_middle_of_a_sweep_loses_nothing(run, output, runs, empty_database, tmp_path):
    """All work is in the store already; what is at stake is what MLflow is told of it."""
    server = Server(f"sqlite:///{shutil.copy(empty_database, tmp_path)}", tmp_path / "served").start()
    command = ("--config", CONFIG, "--output", tmp_path / "out", "--set", f"storage={output / 'store'}",
               "--set", f"tracking.uri={server.uri}")
    try:
        first = Sweep(*command).reach(3)
        server.kill()
        first.finish()
        waits = re.search(r"^MLflow: (\d+) events wait in (.*); the same command again", first.text, re.MULTILINE)
        assert waits[2] == str(tmp_path / "out" / "mlflow_spool")
        server.start()
        again = Sweep(*command).finish()
        assert f"MLflow: {waits[1]} waiting events have been sent" in again.text
        found = runs_of(server.uri)
        assert {stage: len(group) for stage, group in found.items()} == {
            stage: len(group) for stage, group in runs.items()}
        assert {one.info.status for group in found.values() for one in group} == {"FINISHED"}
        assert sorted(run_id for row in results(tmp_path / "out") for run_id in row["mlflow_run_ids"]) == sorted(
            one.info.run_id for stage in ("originals", "final") for one in found[stage])
    finally:
        server.kill()
    assert numbers(tmp_path / "out") == numbers(output)


def test_every_file_of_the_store_belongs_to_a_unit(run, output):
    left = {path.name: [*path.iterdir()] for path in (output / "store").iterdir()}
    assert set(left) == {"models", "adversarial_sets", "trials", "unlearned", "boundaries", "distances",
                         "linear_probes", "tables", "scratch", "sweeps", "leases"}
    assert (left["scratch"], left["sweeps"], left["leases"]) == ([], [], [])


def test_the_table_to_be_pasted_has_the_rows_of_results_json(run, output):
    lines = [line.split("|") for line in (output / "table.md").read_text().splitlines() if line.startswith("|")][2:]
    assert [line[1].strip() for line in lines] == [row["method"] for row in results(output)]
    for line, row in zip(lines, results(output), strict=True):
        assert line[-2].strip(" *") == f"{row['average_gap']['mean']:.2f} ± {row['average_gap']['std']:.2f}"


def reused(output, capsys, *overrides: str) -> str:
    """What a dry run with some settings changed says that it finds done."""
    changed = [word for override in overrides for word in ("--set", override)]
    assert main(["--config", str(CONFIG), "--output", str(output), "--dry-run", *changed]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  reused ")]
    return " ".join(line.split()[1:])


def test_a_dry_run_finds_everything_done(run, output, capsys):
    assert reused(output, capsys) == ("8 of 8 trainings; 90 of 90 adversarial images; 9 of 9 trials; "
                                      f"12 of 12 unlearned models; from {output}/store")


@pytest.mark.parametrize(("overrides", "found"), [
    (["search.trials=5", "final.runs=3"], "8 of 8 trainings; 90 of 90 adversarial images; 9 of 15 trials; 12 of 18 "),
    (["unlearning.batch_size=32"], "8 of 8 trainings; 90 of 90 adversarial images; 0 of 9 trials; 0 of 12 "),
    (["search.epochs=3"], "8 of 8 trainings; 90 of 90 adversarial images; 0 of 9 trials; 12 of 12 "),
    (["attack.search.steps=9"], "8 of 8 trainings; 0 of 90 adversarial images; 0 of 9 trials; 0 of 12 "),
    (["training.epochs=7"], "0 of 8 trainings; 0 of 90 adversarial images; 0 of 9 trials; 0 of 12 "),
    (["forget.sets=3"], "8 of 9 trainings; 90 of 120 adversarial images; 0 of 9 trials; 0 of 18 "),  # until it is made
])
def test_a_dry_run_counts_what_another_sweep_would_find(run, output, capsys, overrides, found):
    assert reused(output, capsys, *overrides).startswith(found)


def test_a_finished_sweep_is_compared_without_being_run_again(run, output, capsys, monkeypatch):
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("Ray was started"))
    assert main(["--config", str(CONFIG), "--output", str(output), "--compare", "paper_table1", "--compare",
                 "paper_table2"]) == 0
    said = capsys.readouterr().out
    amun = [line.split("|") for line in said.splitlines() if line.startswith("| amun ")]
    ours = {row["access"]: row["test_accuracy"] for row in results(output) if row["method"] == "amun"}
    assert [[line[6].strip(), line[7].strip()] for line in amun] == [
        [f"{ours['retain']['mean']:.2f} ± {ours['retain']['std']:.2f}", "93.45"],
        [f"{ours['forget_only']['mean']:.2f} ± {ours['forget_only']['std']:.2f}", "91.67"]]
