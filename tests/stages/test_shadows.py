"""Reference models that unlearn their targets, without a Ray: which rows, what they are given, and what follows."""


import numpy as np
import pytest
import ray
from searching import BEST_LR, RANKS, ranked, sweep, wrong

from amun_ray.config.audit import AuditConfig
from amun_ray.data.splits import reference_halves
from amun_ray.metrics import logit_scaled, unlearned_or_never
from amun_ray.runtime.bench import SharedWorkspace
from amun_ray.stages import shadows
from amun_ray.stages.shadows import ORIGINAL, Shadows, make_shadow
from amun_ray.storage.store import Store, Unit
from amun_ray.unlearn import Contender
from amun_ray.work.artifacts import store_logits, store_weights
from amun_ray.work.evidence import Evidence, Models
from amun_ray.work.targets import forgotten_targets, targets
from amun_ray.work.units import LOGITS, WEIGHTS, AdversarialSet, Hyperparameters, Trained

PLAIN = Contender("searching:PLAIN", "retain")
SETTINGS = Hyperparameters(BEST_LR * 10, "never", 1, {})
REFERENCES, TARGETS, FORGOTTEN = 8, 20, 14


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(ray, "get", lambda references: references)
    settings = sweep({}).model_copy(update={"audit": AuditConfig(ulira=TARGETS)})
    return SharedWorkspace.open(settings, Store(str(tmp_path)), ranked())


@pytest.fixture
def models(workspace):
    """Eight references, stored: each right about every image."""
    halves, trained = reference_halves(len(ranked()), REFERENCES, 0), []
    for number in range(REFERENCES):
        unit, model = Unit("models", {"reference": number}), workspace.new_model(0)
        logits = np.random.default_rng(number).normal(size=(len(ranked()), 2)).astype(np.float32)
        store_logits(workspace.store, unit, logits)
        weights = store_weights(workspace.store, unit, model.state_dict())
        workspace.store.finish(unit, {}, [LOGITS, WEIGHTS])
        trained.append(Trained(f"reference {number}", unit, weights, 1.0))
    return Models([], {}, trained, halves, Evidence(workspace, ranked().labels, np.empty(0), ""))


@pytest.fixture
def attacked(monkeypatch):
    """Adversarial sets are what the forgotten rows are; returns the targets that were asked for."""
    asked, pixels = [], (ranked().pixels / 255).astype(np.float32)

    def made(workspace, wanted, options, workers):
        asked.extend(wanted)
        return [AdversarialSet(Unit("adversarial_sets", {"of": one.original.name}), 1, {}, 2.0) for one in wanted]

    def read(store, one):
        (rows,) = [target.rows for target in asked if target.original.name == one.unit.inputs["of"]]
        return pixels[rows], 1 - ranked().labels[rows], np.arange(len(rows))
    monkeypatch.setattr(shadows, "adversarial_sets", made)
    monkeypatch.setattr(shadows, "read_adversaries", read)
    return asked


def run_here(monkeypatch, workspace):
    """Pieces of work are done in this process, in order."""
    def missing(store, jobs, unit, submit, *, shown):
        todo = [job for job in jobs if not store.has(job[1])]
        for shadow, one in todo:
            make_shadow(workspace, shadow, one)
        return {one.digest for _, one in todo}
    monkeypatch.setattr(shadows, "make_missing", missing)


def test_every_reference_unlearns_the_targets_that_it_saw_and_no_row_that_it_did_not(workspace, models):
    chosen = targets(workspace)
    assert len(set(chosen)) == TARGETS
    assert chosen.max() < 2 * RANKS  # training rows
    for number, half in enumerate(models.halves):
        rows = forgotten_targets(workspace, half, number, FORGOTTEN)
        assert set(rows) <= set(np.flatnonzero(half[:2 * RANKS]))
        assert set(rows) & set(chosen) == set(chosen[half[chosen]])
        assert len(rows) == max(FORGOTTEN, half[chosen].sum())
        assert rows.tolist() == sorted(rows)


def test_the_scores_are_those_of_the_references_before_and_after(workspace, models, attacked, monkeypatch):
    run_here(monkeypatch, workspace)
    given = []
    monkeypatch.setattr(shadows, "forget_sets", lambda here, forget, retained, adversarial: given.append(
        (forget, retained)) or real(here, forget, retained, adversarial))
    made = Shadows(workspace, models, {PLAIN: SETTINGS}, FORGOTTEN)
    costs, again = [], []
    jobs = made.make({}, 1, lambda *spent: costs.append(spent))
    assert len(costs) == 2 * REFERENCES  # sets and runs
    assert {(work, reused) for work, _, reused in costs} == {("ulira", False)}
    for (forget, retained), half in zip(given, models.halves, strict=True):
        assert set(forget) | set(retained) == set(np.flatnonzero(half))  # nothing that it never saw
        assert not set(forget) & set(retained)
    found, chosen, labels = made.summaries(jobs), targets(workspace), ranked().labels
    stack = [np.random.default_rng(k).normal(size=(len(ranked()), 2)).astype(np.float32) for k in range(REFERENCES)]
    before = np.stack([logit_scaled(one, labels)[chosen] for one in stack])
    after = np.where(chosen % RANKS < wrong(SETTINGS.lr, 1), -4, 4)  # in closed form, see searching
    for contender, values in ((ORIGINAL, before), (PLAIN, np.tile(after, (REFERENCES, 1)))):
        each = unlearned_or_never(values.astype(float), models.halves[:, chosen])
        for term, summary in found[contender].items():
            assert summary.mean == pytest.approx(np.mean([one[term] for one in each]), abs=1e-6), term
            assert summary.n == REFERENCES
    assert found[PLAIN]["ruli_auc"].mean == 50  # all models are the same: nothing tells who saw what
    jobs = made.make({}, 1, lambda *spent: again.append(spent))
    assert [reused for *_, reused in again][REFERENCES:] == [True] * REFERENCES
    assert made.summaries(jobs) == found


def test_a_method_that_diverges_on_a_reference_has_no_such_scores(workspace, models, attacked, monkeypatch):
    run_here(monkeypatch, workspace)
    made = Shadows(workspace, models, {PLAIN: SETTINGS}, FORGOTTEN)
    jobs = made.make({}, 1, lambda *spent: None)
    workspace.store.finish(jobs[3].unit, {"failed": "epoch 1: nan", "seconds": 1.0})
    assert set(made.summaries(jobs)) == {ORIGINAL}


def test_too_few_references_or_too_many_targets_are_named():
    settings = AuditConfig(ulira=100, klom=False, forgetting_quality=False)
    assert settings.left_out(4, 50, 8) == {}
    assert settings.left_out(4, 50, 6) == {"ulira": "needs 8 reference models, and references.count is 6"}
    assert settings.left_out(4, 49, 8)["ulira"].startswith("can have at most 98 targets, twice the forget set")
    assert "ulira" not in AuditConfig().left_out(4, 50, 4)  # nobody asked


real = shadows.forget_sets


def test_without_settings_nothing_is_unlearned(workspace, models):
    made = Shadows(workspace, models, {}, FORGOTTEN)
    assert made.make({}, 1, lambda *spent: pytest.fail("nothing was asked for")) == []
    assert made.summaries([]) == {}
