"""Forget sets that are chosen by memorisation: from a bank worked out here, before and after it is there."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from searching import RANKS, ranked, sweep

from amun_ray import sweep as command
from amun_ray.base.errors import UserError
from amun_ray.config.file import load
from amun_ray.config.schema import Sweep
from amun_ray.data.splits import dealt_forget_sets, reference_halves
from amun_ray.reporting.costs import SweepCosts
from amun_ray.stages import experiment as stages
from amun_ray.stages.experiment import Experiment
from amun_ray.storage.store import Store
from amun_ray.work import accuracies
from amun_ray.work.artifacts import store_logits
from amun_ray.work.plan import Plan
from amun_ray.work.reuse import left
from amun_ray.work.trainings import settled, wanted_trainings
from amun_ray.work.units import LOGITS, Trained

TRAIN, SIZE, MODELS = 2 * RANKS, 3 * RANKS, 6
HALVES = reference_halves(SIZE, MODELS, 0)
MARGINS = np.where(HALVES, 3.0, np.random.default_rng(0).normal(1, 1.5, HALVES.shape)).astype(np.float32)


def plan(choose: str = "hardest", **changes: object) -> Plan:
    settings = sweep({}).model_dump() | {"references": {"count": MODELS}, "forget": {
        "fraction": 0.1, "sets": 2, "choose": choose}, "held_out": {"sets": 2}, "originals": {"count": 2}}
    return Plan(Sweep.model_validate(settings | changes), ranked())


def keep(workspace, training, margin=0.0) -> Trained:
    """A model in the store whose true class leads by `margin` (N,)."""
    unit, logits = training.unit(workspace), np.zeros((SIZE, 2), np.float32)
    logits[np.arange(SIZE), ranked().labels] = margin
    store_logits(workspace.store, unit, logits)
    workspace.store.finish(unit, {"weights": "w", "seconds": 1.0}, [LOGITS])
    return Trained(training.name, unit, "w", 1.0)


def number(training) -> int:
    return int(training.name.split()[-1])


@pytest.fixture
def workspace(tmp_path):
    return plan().workspace(Store(str(tmp_path)))


@pytest.fixture
def bank(workspace):
    for training in wanted_trainings(workspace, plan()).references:
        keep(workspace, training, MARGINS[number(training)])


def hardest() -> list[int]:
    """All training rows, the most memorised first, by counting."""
    def memorised(row: int) -> tuple[float, float, int]:
        sides = [[MARGINS[k, row] for k in range(MODELS) if HALVES[k, row] == side] for side in (True, False)]
        right, sure = ([sum(map(count, side)) / len(side) for side in sides] for count in (
            lambda margin: float(margin > 0), lambda margin: 1 / (1 + np.exp(-float(margin)))))
        return right[0] - right[1], sure[0] - sure[1], row
    return sorted(range(TRAIN), key=memorised, reverse=True)


def test_sets_are_dealt_from_the_top_of_the_order():
    sets = dealt_forget_sets(np.array([7, 3, 0, 9, 1, 4, 2, 8, 5, 6]), 0.2, sets=1, held_out=2)
    assert [rows.tolist() for rows in (*sets.final, *sets.held_out)] == [[7, 9], [1, 3], [0, 4]]
    with pytest.raises(UserError, match=r"forget.choose: 3 final and 2 held-out .* of 2 .*5 x 2 < 10 .* must hold"):
        dealt_forget_sets(np.arange(10), 0.2, sets=3, held_out=2)


@pytest.mark.parametrize("choose", ["hardest", "easiest"])
def test_rows_follow_from_the_bank(workspace, bank, choose):
    made = settled(plan(choose), workspace.store)
    order = hardest() if choose == "hardest" else hardest()[::-1]
    assert [sorted(order[k:40:4]) for k in range(4)] == [
        rows.tolist() for rows in (*made.sets.final, *made.sets.held_out)]
    assert [len(set(rows) & set(order[:40])) for rows in made.sets.final] == [10, 10]


def test_a_plan_waits_for_the_whole_bank(workspace, bank, tmp_path):
    waiting = plan()
    assert waiting.waits
    assert not plan("random").waits
    assert settled(plan("random"), workspace.store).memorised is None
    last = wanted_trainings(workspace, waiting).references[-1].unit(workspace)
    path = Path(workspace.store.path(last, LOGITS))
    path.write_bytes(path.read_bytes()[:-1])
    assert settled(waiting, workspace.store) is waiting  # what is damaged is made again first
    assert settled(waiting, Store(str(tmp_path / "none"))) is waiting


def test_a_plan_that_waits_counts_its_work_and_says_so(workspace, bank):
    waiting, made = plan(), settled(plan(), workspace.store)
    before, after = str(waiting).splitlines(), str(made).splitlines()
    assert before[1] == ("  forget      the hardest images to forget: which these are, the 6 reference models will "
                         "say; they are trained first")
    final, held_out = ([hardest()[k:40:4] for k in hands] for hands in ((0, 1), (2, 3)))
    shown = [made.memorised[np.ravel(rows), 0].mean() for rows in (final, held_out, np.arange(TRAIN))]
    assert after[1] == ("  forget      the hardest images to forget: mean memorisation {:.3f} in the final sets, "
                        "{:.3f} in the held-out ones, {:.3f} of all training images".format(*shown))
    assert shown[0] > shown[2] + 0.1
    assert after[2].startswith("  by class    0: ")
    twins = [line for line in after if "what is to be forgotten, pixel by pixel" in line]  # each rank is there twice
    assert len(twins) == 2
    assert before[2:] == [line for line in after[3:] if line not in twins]  # work is counted alike
    unlike = "  warning: the hardest images are forgotten, and unseen ones are not like them: "
    assert [sum(line.startswith(unlike) for line in lines) for lines in (before, after)] == [1, 1]
    assert not any("not like them" in warning for warning in plan("random").warnings)
    assert not str(plan("random")).splitlines()[1].startswith("  forget")
    assert left(waiting, Store("nowhere")).counts == left(made, Store("nowhere")).counts
    assert left(waiting, workspace.store).counts["models"] == (2 + 2 * 1 + 2 * 2, "trainings")


def test_an_original_is_described_before_the_sets_are_known(workspace, bank):
    training = wanted_trainings(workspace, plan()).originals[0]
    logits = 4 * np.eye(2)[ranked().labels]
    (line,) = accuracies.describe(plan(), training, logits.__getitem__)
    assert line == "  original 0 gets right: 100.0 % of D, 100.0 % of D_T"
    (line,) = accuracies.describe(settled(plan(), workspace.store), training, logits.__getitem__)
    assert line == "  original 0 gets right: 100.0 % of D_R, 100.0, 100.0 % of D_F, 100.0 % of D_T"


@pytest.mark.parametrize("resumed", [False, True])
def test_references_are_trained_before_what_is_retrained_without_the_chosen(workspace, request, monkeypatch, resumed):
    """The result is the same whether the plan had to wait for them or a sweep that was killed had made them."""
    if resumed:
        request.getfixturevalue("bank")
    asked = []

    def train(space, trainings, options, over):
        asked.extend([[training.name for training in trainings]] if trainings else [])
        for one in trainings:
            over(one, keep(space, one, MARGINS[number(one)] if one.name.startswith("reference") else 1.0), options)
    monkeypatch.setattr(stages, "train_models", train)
    for name, result in {"attack": {}, "search": {}, "gather": []}.items():
        monkeypatch.setattr(Experiment, name, lambda *_, result=result: result)
    monkeypatch.setattr(Experiment, "report", lambda self, models, drawn, unlearned, found: models)
    monkeypatch.setattr(stages, "attacks_drawn", lambda *_: {})
    record = SimpleNamespace(progress=lambda *_: None)
    made = Experiment(settled(plan(), workspace.store), Path(), workspace, record, {"num_cpus": 1, "num_gpus": 0}, 1,
                      None, SweepCosts())
    models = made.run()
    names = [f"reference {k}" for k in range(MODELS)]
    assert asked[0] == names if not resumed else set(names) < set(asked[0])
    assert len(asked) == 2 - resumed
    assert not made.plan.waits
    rows = sorted(hardest()[1:40:4])
    assert made.plan.sets.final[1].tolist() == rows
    wanted = wanted_trainings(workspace, made.plan)
    assert [model.name for model in (*models.originals, *models.references)] == ["original 0", "original 1", *names]
    for name, group in wanted.retrained.items():
        assert [model.unit for model in models.retrained[name]] == [one.unit(workspace) for one in group]
    assert set(range(TRAIN)) - set(wanted.retrained["final 1"][0].rows) == set(rows)
    assert made.costs.metrics()["device_seconds.references"] == MODELS


@pytest.mark.parametrize(("given", "message"), [
    ("forget={folds: 5, choose: hardest}", "folds says which images are forgotten; choose (hardest) is for fraction"),
    ("forget={classes: [1], choose: easiest}", "classes says which images are forgotten; choose (easiest)"),
    ("forget.choose=hard", "'random', 'hardest' or 'easiest'"),
    ("references.count=2", "greater than or equal to 4"),
])
def test_what_cannot_be_chosen_is_one_line(given, message):
    with pytest.raises(UserError) as error:
        load("default", [given])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_sets_that_leave_nothing_to_choose_end_the_command(tmp_path, capsys):
    """0.2 of 100 images, five times: two final and three held-out sets."""
    given = ["--config", "default", "--set", "forget={fraction: 0.2, sets: 2, choose: hardest}", "--set",
             "held_out.sets=3", "--set", "data.train_size=100", "--output", str(tmp_path / "out"), "--dry-run"]
    assert command.main(given) == 2
    assert "forget.choose: 2 final and 3 held-out sets of 20" in (said := capsys.readouterr().err.strip())
    assert "\n" not in said
    assert not (tmp_path / "out").exists()
