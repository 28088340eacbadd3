"""The addresses of the default sweep's units, taken before the rooms were moved: stored work outlives refactorings.

A digest that changes makes every store forget what it holds. Where that is meant, the new value comes with the reason.
"""

import numpy as np
import pytest

from amun_ray import data
from amun_ray.config import file as config_file
from amun_ray.storage.store import Store, digest
from amun_ray.unlearn import METHODS, Contender
from amun_ray.work import calibrate
from amun_ray.work.checkpoints import Checkpoint
from amun_ray.work.plan import Plan
from amun_ray.work.trainings import wanted_trainings
from amun_ray.work.trials import Job
from amun_ray.work.units import Case, Hyperparameters, Run, Target, Trained, Training, rows_digest

WEIGHTS = "a" * 20  # in the place of those that a training would have made
SETTINGS = Hyperparameters(0.01, "every_5", 3, {})
LATER = {"l1_sparse": "compounded", "boundary_shrink": "labelled_by"}  # settings that came when stores had been written
RUNS = {  # a trial, the same stopped early, a final run
    Contender("finetune", "retain"): ("996f843580e850f0a263", "71f84728bfd594c45559", "2308e8693a099b37be1b"),
    Contender("amun", "retain"): ("3f4b71b082ea71aa1859", "fd43077e073d7c548e47", "6ac3d49566ebc539ea1d"),
    Contender("amun", "forget_only"): ("8ebddbd15446d6ef0875", "19b6ad8bf7ef7bbb64b7", "4bca7ffb4bd649e48d08"),
}


@pytest.fixture(scope="module")
def plan():
    sweep = config_file.load("default")
    return Plan(sweep, data.load(sweep.data.name, **sweep.data.settings))


@pytest.fixture(scope="module")
def workspace(plan):
    return plan.workspace(Store("nowhere"))


@pytest.fixture(scope="module")
def target(plan, workspace):
    case = plan.held_out[0]
    original = wanted_trainings(workspace, plan).originals[0].unit(workspace)
    return Target(Trained("original 0", original, WEIGHTS, 0.0), case.name, case.rows)


def test_the_sweep_and_its_data(plan):
    assert plan.dataset.digest == "03b82546284bee814cc43a2885f0f2605dce1815206b6c8bc119b8ad39ea5564"
    assert digest(plan.identity) == "95fedd7ba0a326e7197f"  # since the search has 8 epochs, and ranges of its own
    assert {case.name: rows_digest(case.rows) for case in plan.cases} == {
        "held_out 0": "3e7db84e8f4d4a594e5f", "held_out 1": "1215a0e9fd09102b7810",
        "final 0": "c79d025d89d8f4f2a971", "final 1": "c5462223365391143909"}


def test_trainings(plan, workspace):
    wanted = wanted_trainings(workspace, plan)
    assert [[training.unit(workspace).digest for training in group] for group in (
        wanted.originals, *wanted.retrained.values(), wanted.references)] == [
        ["ac37fdda5dd90c5e6871", "ef2dddb71ed53437b98c"],
        ["a5912ba8cf401bc16f14", "cca3ee27c13bebb30106"], ["087ed007578b78917e63", "37a19c4e88d38f86bf4d"],
        ["567357f74057191b9d83", "09b3dce45091225d0a1b"], ["fd6d4909c9e3a4271de8", "e77734895d4347eb4134"],
        ["30bea0c7175578177f03", "6e0dfcb4184b44188b14", "858758a99efebd97901d", "4e126c4feb84136a6d9b",
         "6dcbd7bb6aedea5e0856", "7dd4bf49151005ff24a2", "f29beb62710d88b5afa0", "532025d8c6e0508e6b8a"]]
    loaded = Training("loaded", np.arange(3), 0, checkpoint=Checkpoint("file", "f" * 20, {}))
    assert loaded.unit(workspace).digest == "d2bca21970d03d098b70"


def test_adversarial_sets_and_their_shards(workspace, target):
    assert target.unit(workspace).digest == "bf5250b36073ee742f41"
    assert digest(target.shards(workspace)[0].lineage) == "0e7227a1a70204900c7a"


@pytest.mark.parametrize("contender", RUNS, ids=str)
def test_trials_and_final_runs(plan, workspace, target, contender):
    case = Case(0, target.name, target.rows, None, 100.0, {
        "original": WEIGHTS, "forget": rows_digest(target.rows), "adversarial": target.unit(workspace).digest,
        "references": "b" * 20, "retrained": ["c" * 20]})
    job = Job.of(workspace, [case], contender, 0, SETTINGS, (3.0, 2.0))
    final = Run.of(workspace, contender, SETTINGS, case, 1)
    assert (job.whole.digest, job.stopped.digest, final.unit.digest) == RUNS[contender]


def test_calibrations(plan):
    assert calibrate._unit(plan).digest == "14442ffe08068c898900"


@pytest.mark.parametrize("method", LATER)
def test_a_later_setting_of_a_method_counts_where_it_changes_something(method):
    row = METHODS[method]
    before = row.inputs(method, "retain", {})
    assert before == {key: value for key, value in row.complete(method, "retain", {}).items() if key != LATER[method]}
    assert row.inputs(method, "retain", {LATER[method]: 0}) == before
    assert row.inputs(method, "retain", {LATER[method]: 1}) == before | {LATER[method]: 1}
