"""A search by IAM: what its cases know of models that never saw D_F, and the scores of its trials, without a Ray."""

from dataclasses import replace

import numpy as np
import pytest
import ray
from searching import BEST_LR, FORGET, RANKS, case, gap, ranked, sweep, wrong

from amun_ray.data.splits import reference_halves
from amun_ray.metrics import iam_gap, logit_scaled
from amun_ray.runtime.bench import SharedWorkspace
from amun_ray.stages import cases as opening
from amun_ray.stages.search import score_trial
from amun_ray.storage.store import Store, Unit
from amun_ray.unlearn import Contender
from amun_ray.work.artifacts import store_logits
from amun_ray.work.evidence import Evidence, Models
from amun_ray.work.trials import Job
from amun_ray.work.units import LOGITS, Hyperparameters, Trained


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(ray, "get", lambda references: references)
    return SharedWorkspace.open(sweep({"objective": "iam"}), Store(str(tmp_path)), ranked())


def test_cases_know_the_references_that_never_saw_their_rows(workspace):
    data, rng = ranked(), np.random.default_rng(0)
    stack = rng.normal(size=(6, len(data), 2)).astype(np.float32)
    models = [Trained(f"model {k}", Unit("models", {"k": k}), "", 0.0) for k in range(6)]
    for model, logits in zip(models, stack, strict=True):
        store_logits(workspace.store, model.unit, logits)
        workspace.store.finish(model.unit, {}, [LOGITS])
    halves = reference_halves(len(data), 4, 0)
    bank = Models(models[4:], {}, models[:4], halves, Evidence(workspace, data.labels, np.empty(0), ""))
    for number in range(2):
        (found,) = opening._with_iam([case("held_out 0", number)], bank)
        values = np.stack([logit_scaled(logits, data.labels) for logits in stack])
        out = np.ma.array(values[:4], mask=halves)[:, FORGET]
        assert found.never[0] == pytest.approx(values[4 + number][FORGET])
        assert found.never[1] == pytest.approx(out.mean(axis=0).data)
        pooled = np.ma.array(values[:4], mask=halves).var(axis=0, ddof=1).mean()  # over all samples: few models
        assert found.never[2] == pytest.approx(np.full(RANKS, np.sqrt(pooled)))


def test_a_trial_is_scored_by_iam_and_by_the_test_accuracy_lost(workspace):
    seen, never = np.full(RANKS, 6.0), np.linspace(-3, 3, RANKS)
    blind = replace(case("held_out 0", 0, lambda value: value), target=None, never=(seen, never, np.ones(RANKS)))
    settings = Hyperparameters(10 * BEST_LR, "never", 3, {})
    job = Job.of(workspace, [blind], Contender("searching:PLAIN", "retain"), 0, settings, None)
    score_trial(workspace, [blind], job, report=lambda metrics: None)
    result = workspace.store.result(job.whole)
    for epoch in (1, 2, 3):
        after = np.where(np.arange(RANKS) < wrong(settings.lr, epoch), -4.0, 4.0)
        wanted = (iam_gap(seen, after, never, np.ones(RANKS)) + 4 * gap(settings.lr, epoch) / 3) / 2
        assert result["iam_gap"][epoch - 1] == pytest.approx(wanted, abs=1e-4)
    rows = np.concatenate([np.arange(5), np.arange(RANKS, 2 * RANKS + 30)])  # few of D_R, D_F, ranks 0..29 of D_T
    few = replace(blind, rows=np.arange(RANKS, 2 * RANKS), lineage=blind.lineage | {"scored": "few"}, scored=rows)
    job_of_few = Job.of(workspace, [few], Contender("searching:PLAIN", "retain"), 0, settings, None)
    score_trial(workspace, [few], job_of_few, report=lambda metrics: None)
    for epoch, scores in enumerate(workspace.store.result(job_of_few.whole)["curves"][0], 1):
        lost, lost_of_few = (100 * min(most, wrong(settings.lr, epoch)) / most for most in (RANKS, 30))
        assert scores["iam_gap"] == pytest.approx(result["iam_gap"][epoch - 1] + (lost_of_few - lost) / 2, abs=1e-4)
    assert result["best_iam_gap"] == min(result["iam_gap"])
    assert "average_gap" not in result
    assert not {"iam_difference", "bank_error"} & {*result, *result["curves"][0][0]}
