"""What probes read of models that are known in closed form; references stand for themselves."""

from dataclasses import replace

import numpy as np
import pytest
import ray
import torch
from searching import FORGET, RANKS, case, ranked, sweep
from torch import nn

from amun_ray.attacks import autoattack
from amun_ray.base.seeds import generator
from amun_ray.config.audit import AuditConfig
from amun_ray.metrics import adversarial_label, apollo, linear_probe, moved_boundary
from amun_ray.runtime.bench import SharedWorkspace, bench
from amun_ray.stages import robustness
from amun_ray.stages.boundary import DISTANCES, MARGINS, WALKS
from amun_ray.stages.cases import OpenCase
from amun_ray.stages.probes import PROBES, Probes, make_reading
from amun_ray.storage.store import Store, Unit
from amun_ray.unlearn import Contender
from amun_ray.work.apollo import walk
from amun_ray.work.artifacts import read_array, store_weights
from amun_ray.work.evidence import Evidence, Models
from amun_ray.work.units import WEIGHTS, Hyperparameters, Run, Trained, Unlearned

RANK = np.arange(3 * RANKS) % RANKS
LABEL = RANK % 2
SHOWN, SAID = np.array([0.1, 0.6, 0.9], np.float32), np.array([0, 1, 0])  # adversarial images of rows 0, 3 and 4
LR = 8.0  # of relearning: AdamW's first step is as long
BORDERS = {"original 0": 10.5, "original 1": 20.5, "retrained 0": 12.5, "retrained 1": 30.5, "unlearned": 40.5}


class Threshold(nn.Module):
    """Class 1 from the rank `border` on, class 0 below it."""

    def __init__(self, border: float = 0.0) -> None:
        super().__init__()
        self.border = nn.Parameter(torch.tensor(border))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        beyond = 255 * images[:, 0, 0, 0] - self.border
        return torch.stack([-beyond, beyond], 1)


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(ray, "get", lambda references: references)
    monkeypatch.setattr(SharedWorkspace, "new_model", lambda self, seed: Threshold())
    audit = AuditConfig(samples=20, relearn_samples=4, relearn_epochs=1).model_copy(update={"relearn_lr": LR})
    settings = sweep({}).model_copy(update={"audit": audit})
    return SharedWorkspace.open(settings, Store(str(tmp_path)), ranked())


def opened(original: int) -> OpenCase:
    shown = np.broadcast_to(SHOWN[:, None, None, None], (3, 1, 2, 2))
    one = case("final 0", original, lambda value: value)
    return replace(one, lineage=one.lineage | {"adversarial": f"of {original}"},
                   adversarial=(shown, SAID, np.array([0, 3, 4])))


@pytest.fixture
def stored(workspace):
    """All five models, stored; every probe but AutoAttack, which takes long."""
    store, trained = workspace.store, {}
    for name, border in BORDERS.items():
        unit = Unit("models", {"name": name})
        weights = store_weights(store, unit, {"border": torch.tensor(border)})
        store.finish(unit, {}, [WEIGHTS])
        trained[name] = Trained(name, unit, weights, 1.0)
    evidence = Evidence(workspace, ranked().labels, np.full(3 * RANKS, 0.5), "digest")
    models = Models([trained["original 0"], trained["original 1"]],
                    {"final 0": [trained["retrained 0"], trained["retrained 1"]]}, [], np.empty(0), evidence)
    settings = Hyperparameters(0.1, "never", 1, {})
    unlearned = [Unlearned(Run(Contender("amun", "retain"), settings, opened(k), 0, trained["unlearned"].unit),
                           {"weights": trained["unlearned"].weights}) for k in range(2)]
    return (Probes(workspace, models, unlearned, [name for name in PROBES if name != "autoattack"]),
            {name: one.weights for name, one in trained.items()})


def read(made: Probes) -> None:
    for job in made.jobs:
        if not made.workspace.store.has(job.unit):
            make_reading(made.workspace, job)


@pytest.fixture
def found(stored):
    """All five models, stored and read."""
    read(stored[0])
    return stored


def only(probes: Probes, name: str) -> Probes:
    return replace(probes, chosen=[name])


def distance(name: str, rows: np.ndarray) -> np.ndarray:
    """In closed form; 0 where the model is wrong."""
    right = (RANK[rows] >= BORDERS[name]) == LABEL[rows]
    return np.where(right, abs(RANK[rows] - BORDERS[name]) / 255, 0)


def margin(name: str) -> np.ndarray:
    return 2 * (255 * SHOWN - BORDERS[name]) * np.array([-1, 1, -1])


def test_distances_and_margins_are_those_of_the_thresholds(workspace, found):
    jobs = only(found[0], "boundary").jobs
    assert len({job.unit.digest for job in jobs}) == 6  # the unlearned one is read for both cases
    for _, one, unit in jobs:
        assert len(one.forget) == len(one.unseen) == 20
        assert set(one.forget) <= set(FORGET)
        assert set(one.unseen) <= set(range(2 * RANKS, 3 * RANKS))
        name = one.title if one.title in BORDERS else "unlearned"
        assert read_array(workspace.store, unit, DISTANCES) == pytest.approx(
            distance(name, np.concatenate([one.forget, one.unseen])), rel=0.03, abs=1e-6)
        for row in read_array(workspace.store, unit, MARGINS):
            known = np.isin([0, 3, 4], one.forget)
            assert row[np.searchsorted(one.forget, np.array([0, 3, 4])[known])] == pytest.approx(
                margin(name)[known], rel=1e-4)
            assert np.isfinite(row).sum() == known.sum() > 0


def test_a_model_is_compared_with_those_that_never_saw_the_set(workspace, found):
    made, weights = only(found[0], "boundary"), found[1]
    forget = made.subjects[0].forget
    read = {job.subject.weights: np.split(read_array(workspace.store, job.unit, DISTANCES), 2) for job in made.jobs}
    known = np.isin([0, 3, 4], forget)
    for name, never in (("unlearned", ("retrained 0", "retrained 1")), ("original 0", ("retrained 0", "retrained 1")),
                        ("retrained 0", ("retrained 1",))):
        scores = made.scores(weights[name], "final 0", 0)
        wanted = moved_boundary(*read[weights[name]], *(
            np.array([read[weights[other]][side] for other in never]) for side in (0, 1)))
        wanted |= adversarial_label(margin(name)[known], np.array([margin(other)[known] for other in never]))
        assert scores == pytest.approx(wanted)
    assert made.scores(weights["original 1"], "final 0", 0) == {}  # it was shown its own adversarial images alone
    assert made.scores(None, "final 0", 0) == {}


def test_a_retrained_model_that_is_alone_counts_as_it_is(workspace, found):
    made, weights = only(found[0], "boundary"), found[1]
    kept = {name: models[:1] for name, models in made.models.retrained.items()}
    alone = replace(made, models=replace(made.models, retrained=kept))
    unit = next(job.unit for job in made.jobs if job.subject.weights == weights["retrained 0"])
    sides = np.split(read_array(workspace.store, unit, DISTANCES), 2)
    scores = alone.scores(weights["retrained 0"], "final 0", 0)
    assert scores["boundary_auc"] == moved_boundary(*sides, *(np.empty((0, 20)),) * 2)["boundary_auc"]
    assert scores["adversarial_label_auc"] == 50


def test_apollo_walks_over_the_boundary_of_other_models_that_never_saw_the_set(workspace, found):
    made, weights = only(found[0], "apollo"), found[1]
    here = bench(workspace)
    for name, never in (("unlearned", ("retrained 0", "retrained 1")), ("original 1", ("retrained 1", "retrained 0")),
                        ("retrained 0", ("retrained 1",))):
        one, unit = next((one, unit) for _, one, unit in made.jobs if one.weights == weights[name])
        assert unit.inputs["never"] == [weights[other] for other in never]
        part = here.part(np.concatenate([one.forget, one.unseen]))
        wanted = walk(Threshold(BORDERS[name]), [Threshold(BORDERS[other]) for other in never], part.own_images,
                      part.labels).astype(np.float32)
        np.testing.assert_array_equal(read_array(workspace.store, unit, WALKS), wanted)
        assert made.scores(weights[name], "final 0", int(name == "original 1")) == apollo(*np.split(wanted, 2, axis=1))


def test_a_retrained_model_that_is_alone_is_not_walked(workspace, found):
    made, weights = only(found[0], "apollo"), found[1]
    kept = {name: models[:1] for name, models in made.models.retrained.items()}
    alone = replace(made, models=replace(made.models, retrained=kept))
    assert weights["retrained 0"] not in {job.subject.weights for job in alone.jobs}
    lack = AuditConfig(apollo=True, klom=False, forgetting_quality=False).left_out(1, 10, 8)
    assert lack == {"apollo": "needs 2 retrained models of each forget set, and originals.count is 1"}


def path(name: str, end: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss and accuracy of the thresholds between two, 0.05 of the way apart."""
    borders = np.linspace(BORDERS[name], BORDERS[end], 21)[:, None]
    ahead = 2 * (RANK[rows] - borders) * np.where(LABEL[rows], 1, -1)
    return np.logaddexp(0, -ahead).mean(axis=1), 100 * (ahead > 0).mean(axis=1)


def test_weights_are_compared_with_the_original_and_with_another_retrained_model(found):
    made, weights = found
    retain = made.subjects[0].retain
    ends = {"unlearned": ("original 0", "retrained 0"), "original 0": ("original 0", "retrained 0"),
            "retrained 0": ("original 0", "retrained 1")}
    assert set(retain) <= set(range(RANKS, 2 * RANKS))
    for name, (original, retrained) in ends.items():
        scores = made.scores(weights[name], "final 0", 0)
        for what, end in (("original", original), ("retrained", retrained)):
            assert scores[f"distance_{what}"] == pytest.approx(abs(BORDERS[name] - BORDERS[end]))
            loss, right = path(name, end, retain)
            steps = np.linspace(0, 1, 21)
            assert scores[f"loss_barrier_{what}"] == pytest.approx(
                max(loss - (1 - steps) * loss[0] - steps * loss[-1]), rel=1e-3, abs=1e-5)
            assert scores[f"accuracy_barrier_{what}"] == pytest.approx(
                max((1 - steps) * right[0] + steps * right[-1] - right), abs=1e-4)


def test_a_network_without_layers_is_probed_at_its_logits(workspace, found):
    made, weights = found
    rows = np.concatenate([made.subjects[0].retain, made.subjects[0].forget])
    beyond = (RANK[rows] - BORDERS["unlearned"])[:, None]
    wanted = linear_probe(np.hstack([-beyond, beyond]), LABEL[rows], np.arange(len(rows)) >= 20)
    assert made.scores(weights["unlearned"], "final 0", 0)["linear_probe"] == pytest.approx(wanted)


def test_what_is_relearned_is_read_at_images_that_were_not_shown(workspace, found):
    """The first step moves a border by the learning rate, against the slope of the loss on D_R and the four images."""
    made, weights = found
    order = torch.randperm(RANKS, generator=generator(workspace.sweep.seed, "relearn", "final 0")).numpy()
    asked = order[10:]
    taught = np.concatenate([np.arange(RANKS, 2 * RANKS), order[:4]])

    def accuracy(border: float) -> float:
        return 100 * float(np.mean((RANK[asked] >= border) == LABEL[asked]))
    curves = {}
    for name, border in BORDERS.items():
        sign = np.where(LABEL[taught], 1, -1)
        slope = (2 * sign / (1 + np.exp(2 * sign * (RANK[taught] - border)))).mean()
        curves[name] = np.array([accuracy(border), accuracy(border - LR * np.sign(slope))])
    usual = (curves["retrained 0"] + curves["retrained 1"]) / 2
    for name, others in (("unlearned", usual), ("original 0", usual), ("retrained 0", curves["retrained 1"])):
        scores = made.scores(weights[name], "final 0", 0)
        assert scores["relearned_accuracy"] == pytest.approx(curves[name].max())
        assert scores["relearned_more"] == pytest.approx((curves[name] - others).max())


def test_robust_are_the_images_beyond_the_radius_in_pieces_that_the_models_share(stored, monkeypatch):
    """30 of 50 test images in two pieces, within 3.2 grey levels."""
    made, weights = stored
    audit = AuditConfig(autoattack={"eps": "3.2/255", "samples": 30})
    sweep = made.workspace.sweep.model_copy(update={"audit": audit})
    made = replace(only(made, "autoattack"), workspace=replace(made.workspace, sweep=sweep))
    monkeypatch.setattr(robustness, "PIECE", 20)
    monkeypatch.setattr(autoattack, "ensemble", lambda classes: ("apgd-ce", "fab-t"))  # exact here, and fast
    read(made)
    jobs = {job.unit.digest: job for job in made.jobs}
    sizes = {name: [len(job.subject.tested) for job in jobs.values() if job.subject.weights == one]
             for name, one in weights.items()}
    assert sizes == {name: [20, 10] for name in BORDERS}  # the unlearned one is not attacked twice
    (rows,) = {tuple(np.concatenate([job.subject.tested for job in jobs.values() if job.subject.weights == one]))
               for one in weights.values()}
    assert len(set(rows)) == 30
    assert set(rows) <= set(range(2 * RANKS, 3 * RANKS))
    for name, border in BORDERS.items():
        robust = 100 * float((255 * distance(name, np.array(rows)) > 3.2).mean())
        kept = 1 if border == BORDERS["original 1"] else 0  # that original was made to forget for its own case
        assert made.scores(weights[name], "final 0", kept) == pytest.approx({"robust_accuracy": robust})
        assert 0 < robust < 100


def test_nothing_is_read_of_what_is_not_chosen(found):
    assert only(found[0], "distance").scores(found[1]["unlearned"], "final 0", 0).keys() == {
        "distance_original", "distance_retrained"}
    assert replace(found[0], chosen=[]).scores(found[1]["unlearned"], "final 0", 0) == {}
