"""What an attacker reads of models whose distances are known in closed form; references stand for themselves."""

from dataclasses import replace

import numpy as np
import pytest
import ray
import torch
from searching import FORGET, RANKS, case, ranked, sweep
from torch import nn

from amun_ray.config.audit import AuditConfig
from amun_ray.metrics import adversarial_label, moved_boundary
from amun_ray.runtime.bench import SharedWorkspace
from amun_ray.stages.boundaries import DISTANCES, MARGINS, Boundaries, make_reading
from amun_ray.stages.cases import OpenCase
from amun_ray.storage.store import Store, Unit
from amun_ray.unlearn import Contender
from amun_ray.work.artifacts import read_array, store_weights
from amun_ray.work.evidence import Evidence, Models
from amun_ray.work.units import WEIGHTS, Hyperparameters, Run, Trained, Unlearned

RANK = np.arange(3 * RANKS) % RANKS
LABEL = RANK % 2
SHOWN, SAID = np.array([0.1, 0.6, 0.9], np.float32), np.array([0, 1, 0])  # adversarial images of rows 0, 3 and 4
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
    settings = sweep({}).model_copy(update={"audit": AuditConfig(samples=20)})
    return SharedWorkspace.open(settings, Store(str(tmp_path)), ranked())


def opened(original: int) -> OpenCase:
    shown = np.broadcast_to(SHOWN[:, None, None, None], (3, 1, 2, 2))
    one = case("final 0", original, lambda value: value)
    return replace(one, lineage=one.lineage | {"adversarial": f"of {original}"},
                   adversarial=(shown, SAID, np.array([0, 3, 4])))


@pytest.fixture
def found(workspace):
    """All five models, stored and read."""
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
    made = Boundaries(workspace, models, unlearned)
    for reading in made.readings:
        unit = reading.unit(workspace)
        if not store.has(unit):
            make_reading(workspace, reading, unit)
    return made, {name: one.weights for name, one in trained.items()}


def distance(name: str, rows: np.ndarray) -> np.ndarray:
    """In closed form; 0 where the model is wrong."""
    right = (RANK[rows] >= BORDERS[name]) == LABEL[rows]
    return np.where(right, abs(RANK[rows] - BORDERS[name]) / 255, 0)


def margin(name: str) -> np.ndarray:
    return 2 * (255 * SHOWN - BORDERS[name]) * np.array([-1, 1, -1])


def test_distances_and_margins_are_those_of_the_thresholds(workspace, found):
    made, _ = found
    assert len({one.unit(workspace).digest for one in made.readings}) == 6  # the unlearned one is read for both cases
    for one in made.readings:
        assert len(one.forget) == len(one.unseen) == 20
        assert set(one.forget) <= set(FORGET)
        assert set(one.unseen) <= set(range(2 * RANKS, 3 * RANKS))
        name = one.title if one.title in BORDERS else "unlearned"
        unit = one.unit(workspace)
        assert read_array(workspace.store, unit, DISTANCES) == pytest.approx(
            distance(name, np.concatenate([one.forget, one.unseen])), rel=0.03, abs=1e-6)
        for row in read_array(workspace.store, unit, MARGINS):
            known = np.isin([0, 3, 4], one.forget)
            assert row[np.searchsorted(one.forget, np.array([0, 3, 4])[known])] == pytest.approx(
                margin(name)[known], rel=1e-4)
            assert np.isfinite(row).sum() == known.sum() > 0


def test_a_model_is_compared_with_those_that_never_saw_the_set(workspace, found):
    made, weights = found
    forget = made.readings[0].forget
    read = {one.weights: np.split(read_array(workspace.store, one.unit(workspace), DISTANCES), 2)
            for one in made.readings}
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
    made, weights = found
    kept = {name: models[:1] for name, models in made.models.retrained.items()}
    alone = replace(made, models=replace(made.models, retrained=kept))
    unit = next(one.unit(workspace) for one in made.readings if one.weights == weights["retrained 0"])
    sides = np.split(read_array(workspace.store, unit, DISTANCES), 2)
    scores = alone.scores(weights["retrained 0"], "final 0", 0)
    assert scores["boundary_auc"] == moved_boundary(*sides, *(np.empty((0, 20)),) * 2)["boundary_auc"]
    assert scores["adversarial_label_auc"] == 50
