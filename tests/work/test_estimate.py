"""The estimate of a plan, by hand, and the calibration that measures the rates it divides by."""

import pytest
import torch
from torch import nn

from amun_ray import data
from amun_ray.config import file as config_file
from amun_ray.config.audit import AutoAttackConfig
from amun_ray.storage.store import Store
from amun_ray.training.augment import Augmentation
from amun_ray.training.parts import Part
from amun_ray.training.recipe import Recipe
from amun_ray.unlearn import METHODS, Contender, RunReport, Sets, unlearn
from amun_ray.work import calibrate, estimate
from amun_ray.work.estimate import Pieces, Work, passes, pieces, run_work, works
from amun_ray.work.plan import Plan

CONFIG = """
name: mine
data: {name: digits, train_size: 300}
model: {name: small_cnn, options: {width: 4}}
training: {epochs: 6, lr: 0.1, batch_size: 64}
originals: {count: 1}
forget: {fraction: 0.1, sets: 2}
references: {count: 4}
attack: {search: {name: nearest}, shard_size: 12}
methods: {finetune: , amun: }
unlearning: {batch_size: 32}
search: {trials: 3, epochs: 2}
final: {runs: 2}
resources: {cpus: 2}
"""
RATES = Work(trained=1000, unlearned=500, predicted=2000, attacked=10, scored=5)


@pytest.fixture
def plan(tmp_path) -> Plan:
    path = tmp_path / "mine.yaml"
    path.write_text(CONFIG)
    sweep = config_file.load(str(path))
    return Plan(sweep, data.load(sweep.data.name, **sweep.data.settings))


def test_the_pieces_of_a_plan(plan):
    # 300 training and 1,497 test images; 30 are forgotten; a reference model is trained on half of all 1,797
    found = pieces(plan)
    assert found.trainings == tuple(6 * rows for rows in (300, 270, 270, 270, 898, 899, 898, 899))  # 6 epochs
    assert found.attacked == 3 * 30
    contenders = [("finetune", "retain"), ("amun", "retain"), ("amun", "forget_only")]
    assert found.trials == dict.fromkeys(contenders, 3)
    assert found.final == dict.fromkeys(contenders, 2 * 2)


def test_the_work_and_the_hours_of_a_plan(plan):
    runs = {contender: run_work(plan, contender) for contender in plan.sweep.contenders}
    assert runs == {
        ("finetune", "retain"): Work(unlearned=2 * 270, predicted=2 * 1797, scored=2),
        ("amun", "retain"): Work(unlearned=2 * (270 + 30 + 30), predicted=2 * 1797, scored=2),
        ("amun", "forget_only"): Work(unlearned=2 * (30 + 30), predicted=2 * 1797, scored=2),
    }
    found = works(plan, pieces(plan), runs)
    assert found == {
        "models": Work(trained=6 * 4704, predicted=8 * 1797),
        "adversaries": Work(attacked=90),
        "search": Work(unlearned=3 * 1320, predicted=9 * 3594, scored=18),
        "final": Work(unlearned=4 * 1320, predicted=12 * 3594, scored=24),
        # 2 cases of 3 contenders x 2 runs, and of original and retrained model; boundary and linear probe
        "audit": Work(predicted=16 * (24 * (30 + 500) + 30 + (30 + 270))),
    }
    seconds = {stage: work.seconds(RATES) for stage, work in found.items()}
    assert seconds == pytest.approx({"models": 35.412, "adversaries": 9, "search": 27.693, "final": 36.924,
                                     "audit": 104.4})
    left = Pieces((6 * 898,), 0, dict.fromkeys(runs, 0), dict.fromkeys(runs, 1))
    rest = sum(work.seconds(RATES) for work in works(plan, left, runs).values())
    assert rest == pytest.approx(6.2865 + 9.231 + 104.4 / 4)
    # two cores a worker: 213.429 s are 0.119 core-hours
    line = estimate.describe(plan, ("CPU of a test", RATES), left)
    assert "core-hours of the device that was calibrated, CPU of a test: models 0.0197, adversaries 0.005, " in line
    assert line.endswith("search 0.0154, final at most 0.0205, audit 0.058; in all 0.119, 0.0231 of them left to do")


def test_a_trial_that_scores_few_samples_predicts_fewer_and_a_final_run_does_not(plan):
    """30 + 100 + 100 of 1,797; with 400, 30 + 270 + 400."""
    for most, scored in ((100, 230), (400, 700), (1500, 1797)):
        search = plan.sweep.search.model_copy(update={"score_samples": most})
        few = Plan(plan.sweep.model_copy(update={"search": search}), plan.dataset)
        found = works(few, pieces(few), {contender: run_work(few, contender) for contender in few.sweep.contenders})
        assert found["search"] == Work(unlearned=3 * 1320, predicted=9 * 2 * scored, scored=18 * scored / 1797)
        assert found["final"] == Work(unlearned=4 * 1320, predicted=12 * 3594, scored=24)
        assert f"scored on D_F and at most {most:,} samples of D_R and of D_T; 2 CPU" in str(few)
        assert f"at most {most:,} samples of D_R and of D_T, and the retrained models on the same" in few.searched
    assert "scored on" not in str(plan) + plan.searched


def test_what_the_report_runs_again_is_counted(plan):
    """Of 16 models; U-LiRA unlearns 30 images of each reference, trained on half of 1,797."""
    audit = plan.sweep.audit.model_copy(update={"boundary": False, "linear_probe": False, "connectivity": True,
                                                "relearning": True})
    planned = Plan(plan.sweep.model_copy(update={"audit": audit}), plan.dataset)
    assert works(planned, pieces(planned), {})["audit"] == Work(
        trained=16 * 10 * (270 + 6), predicted=16 * 2 * 21 * 2 * 270)
    assert "probes      48 readings of 16 finished models (distance, connectivity, relearning)" in str(planned)
    off = audit.model_copy(update={"connectivity": False, "relearning": False, "distance": False, "ulira": 40})
    eight = plan.sweep.references.model_copy(update={"count": 8})
    planned = Plan(plan.sweep.model_copy(update={"audit": off, "references": eight}), plan.dataset)
    once = 2 * (898 - 30) + 2 * (898 + 30) + 2 * (30 + 30)  # finetune, amun with D_R, amun without it
    assert works(planned, pieces(planned), {})["audit"] == Work(attacked=8 * 30, unlearned=8 * once)
    assert "probes" not in str(planned)
    robust = audit.model_copy(update={"connectivity": False, "relearning": False, "distance": False,
                                      "autoattack": AutoAttackConfig(eps=0.1, samples=200)})
    planned = Plan(plan.sweep.model_copy(update={"audit": robust}), plan.dataset)
    assert works(planned, pieces(planned), {})["audit"] == Work(predicted=16 * 200 * 11_630)  # all withstand
    assert "audit at most" in estimate.describe(planned, ("CPU of a test", RATES), None)
    two = off.model_copy(update={"ulira": 0, "apollo": True})
    planned = Plan(plan.sweep.model_copy(update={
        "audit": two, "originals": plan.sweep.originals.model_copy(update={"count": 2})}), plan.dataset)
    assert works(planned, pieces(planned), {})["audit"] == Work(predicted=32 * (2 * 24 + 3 * 31) * (30 + 500))


@pytest.mark.parametrize(("gpus", "hours"), [(0.5, 0.0296), ("auto", 0.0593)])
def test_a_worker_on_a_gpu_counts_as_its_share_and_with_auto_as_a_whole_one(plan, gpus, hours):
    resources = plan.sweep.resources.model_copy(update={"gpus": gpus})
    on_gpu = Plan(plan.sweep.model_copy(update={"resources": resources}), plan.dataset)
    line = estimate.describe(on_gpu, ("GPU of a test", RATES), None)
    assert "GPU-hours of the device that was calibrated, GPU of a test: models " in line
    assert line.endswith(f"in all {hours}")  # of 213.429 s


def test_without_a_calibration_there_is_no_estimate(plan):
    assert "--calibrate" in estimate.describe(plan, None, None)


@pytest.mark.parametrize(("method", "access"), [(name, access) for name, row in METHODS.items()
                                                for access in sorted(row.access)])
def test_the_passes_of_a_method_are_those_of_a_run(plan, method, access):
    """At sizes that are none of those that `passes` runs itself."""
    retain, forget, batch = 160, 96, plan.sweep.unlearning.batch_size

    def part(count: int) -> Part:
        return Part(torch.rand(count, 1, 8, 8), torch.arange(count) % 10, augment=False)

    report, network = RunReport(), nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    sets = Sets(retain=part(retain) if access == "retain" else None, forget=part(forget), adversarial=part(forget))
    epochs = [*unlearn(method, network, sets, recipe=Recipe(lr=1e-4, epochs=2, batch_size=batch), report=report,
                       augmentation=Augmentation(), generator=torch.Generator().manual_seed(0))]
    sweep = plan.sweep.model_copy(update={"methods": {method: None}})
    found = passes(sweep, Contender(method, access), retain=retain, forget=forget, classes=10)
    rounding = 0.02 if method == "lotus" else 1e-6  # it sees a share of D_R, in whole images
    assert found.gradients == pytest.approx(report.backward, rel=rounding)
    assert found.forwards == pytest.approx(max(0, report.forward - report.backward), rel=rounding)
    assert found.epochs == len(epochs)


def test_a_calibration_is_found_by_plans_of_the_same_work_alone(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "ENOUGH_SECONDS", 0.02)
    store = Store(str(tmp_path / "store"))
    assert calibrate.calibrated(plan, store) is None
    calibrate.calibrate(plan, store)
    device, rates = calibrate.calibrated(plan, store)
    assert device == calibrate.device_name(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    assert min(rates) > 0
    assert rates.predicted > rates.trained  # a prediction is the first third of a training step
    assert rates.predicted > rates.attacked

    def changed(section: str, **update) -> Plan:
        settings = getattr(plan.sweep, section).model_copy(update=update)
        return Plan(plan.sweep.model_copy(update={section: settings}), plan.dataset)

    assert calibrate.calibrated(changed("final", runs=9), store) == (device, rates)
    assert calibrate.calibrated(changed("resources", threads=2), store) is None


def test_a_rate_is_that_of_runs_that_last_long_enough(monkeypatch):
    """Work that takes 10 ms of clock time a call and 1 ms a unit."""
    now = [0.0]

    def work(count: int) -> None:
        now[0] += 0.010 + 0.001 * count

    monkeypatch.setattr(calibrate, "ENOUGH_SECONDS", 1.0)
    assert calibrate._per_second(work, 1, clock=lambda: now[0]) == pytest.approx(1024 / 1.034)
    assert calibrate._per_second(work, 1, 8, clock=lambda: now[0]) == pytest.approx(8 / 0.018)
