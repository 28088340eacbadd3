"""What waits for what in a sweep, with stages that take no time and do nothing."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from amun_ray.base.errors import UserError
from amun_ray.reporting.costs import SweepCosts
from amun_ray.runtime.cluster import Cluster
from amun_ray.stages import experiment
from amun_ray.stages.experiment import Experiment
from amun_ray.storage.store import Unit
from amun_ray.unlearn import Contender
from amun_ray.work.trainings import Trainings
from amun_ray.work.trials import Trial
from amun_ray.work.units import ForgetCase, Hyperparameters, Trained

OPTIONS = {"num_cpus": 1, "num_gpus": 0}
PATIENCE = 20  # seconds for what must come
AMUN, PLAIN = Contender("amun", "retain"), Contender("finetune", "retain")
UNIT = Unit("trials", {"cases": [{"original": 0, "forget": 0}]})
RESULT = {"average_gap": [1.0], "best_average_gap": 1.0, "best_epoch": 1, "seconds": 1.0,
          "curves": [[{"average_gap": 1.0}]]}
NAMES = ("original 0", "retrained without held_out 0, 0", "reference 0", "retrained without final 0, 0")


class Gates:
    """Events by name: stages wait for them, and note what they have seen."""

    def __init__(self) -> None:
        self.events, self.seen = {}, []

    def __getitem__(self, name: str) -> threading.Event:
        return self.events.setdefault(name, threading.Event())

    def wait(self, name: str) -> None:
        assert self[name].wait(PATIENCE), f"nobody came to {name}; {self.seen}"

    def note(self, name: str) -> None:
        self.seen.append(name)
        self[name].set()


@pytest.fixture
def gates():
    return Gates()


@pytest.fixture
def sweep(monkeypatch, tmp_path, gates):
    """An experiment; models come in the order of NAMES, each when its gate has been opened."""
    trainings = [SimpleNamespace(name=name, checkpoint=None) for name in NAMES]
    wanted = Trainings(trainings[:1], {"held_out 0": trainings[1:2], "final 0": trainings[3:]}, trainings[2:3],
                       np.zeros((1, 4), bool), frozenset({"held_out 0"}))

    def train_models(workspace, group, options, over):
        for training in sorted(group, key=lambda training: NAMES.index(training.name)):
            gates.wait(training.name)
            over(training, Trained(training.name, None, training.name, 1.0), options)

    def adversarial_sets(workspace, targets, options, workers):
        gates.note(f"attacked {targets[0].original.name}")
        return [SimpleNamespace(unit=SimpleNamespace(digest=target.name), seconds=1.0, reused=False,
                                report={"failed_percent": 0.0}) for target in targets]

    def best_settings(workspace, cases, options, at_once, on_trial):
        best = {}
        for contender in (AMUN, PLAIN):
            gates.wait(f"search of {contender.method}")
            best[contender] = Trial(contender, 0, Hyperparameters(0.1, "never", 1, {}), UNIT, RESULT)
            on_trial(best[contender], False)
        gates.note("searched")
        return SimpleNamespace(best=best, lost={}, fronts={})

    def final_models(workspace, contender, settings, cases, options):
        gates.note(f"final {contender.method}")
        return [SimpleNamespace(result={"seconds": 1.0}, reused=False, contender=contender)]

    for name, stage in {"wanted_trainings": lambda *_: wanted, "train_models": train_models,
                        "adversarial_sets": adversarial_sets, "best_settings": best_settings,
                        "final_models": final_models, "trial_count": lambda *_: 1, "shared": lambda *_: OPTIONS,
                        "unlearners": lambda *_: (OPTIONS, OPTIONS),
                        "read_logits": lambda *_: {}, "open_cases": lambda *_, **__: ["case"],
                        "original_value": lambda *_: 9.0,
                        "attacks_drawn": lambda _, sets: [each.unit.digest for each in sets],
                        "accuracies": SimpleNamespace(describe=lambda *_: [])}.items():
        monkeypatch.setattr(experiment, name, stage)
    monkeypatch.setattr("amun_ray.work.trainings.Evidence.of", lambda *_: "evidence")
    cases = [ForgetCase(0, name, np.arange(2)) for name in ("held_out 0", "final 0")]
    plan = SimpleNamespace(
        waits=False, cases=cases, held_out=cases[:1], final=cases[1:], dataset=SimpleNamespace(labels=None),
        shards=2, sweep=SimpleNamespace(
            contenders=(AMUN, PLAIN), final=SimpleNamespace(runs=1),
            search=SimpleNamespace(select="least", concurrent=2, width=1, terms=("average_gap",))))
    record = SimpleNamespace(progress=lambda *_: None, trial=lambda *_: None, adversarial=lambda *_: None)
    made = Experiment(plan, tmp_path, SimpleNamespace(sweep=plan.sweep, store=None), record, OPTIONS, 1,
                      Cluster(((2.0, 0.0),), "test"), SweepCosts())
    monkeypatch.setattr(made, "report", lambda models, drawn, unlearned, found: (models, drawn, unlearned))
    return made


def running(sweep):
    """`run` in a thread, and a list that will hold its result or its error."""
    outcome = []

    def run():
        try:
            outcome.append(sweep.run())
        except UserError as error:
            outcome.append(error)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


def test_each_stage_begins_when_what_it_needs_is_there(sweep, gates):
    thread, outcome = running(sweep)
    gates["original 0"].set()
    gates.wait("attacked original 0")  # while the other models are trained
    gates[NAMES[1]].set()
    gates["reference 0"].set()
    for method in ("amun", "finetune"):
        gates[f"search of {method}"].set()
    gates.wait("searched")  # before the models without a final set are trained
    assert not any(name.startswith("final") for name in gates.seen)
    gates[NAMES[3]].set()
    thread.join(PATIENCE)
    ((models, drawn, unlearned),) = outcome
    assert {name: [model.name for model in group] for name, group in models.retrained.items()} == {
        "held_out 0": [NAMES[1]], "final 0": [NAMES[3]]}
    assert [model.name for model in (*models.originals, *models.references)] == ["original 0", "reference 0"]
    assert drawn == ["held_out 0", "final 0"]
    assert [model.contender for model in unlearned] == [AMUN, PLAIN]
    assert sweep.costs.made == {"originals": 1, "retrained": 2, "references": 1, "adversarial_sets": 2, "search": 2,
                                "final": 2}
    assert set(sweep.costs.stages) == {"models", "adversarial_sets", "search", "final_forget_sets"}
    assert 0 < sweep.costs.wall < PATIENCE


def test_each_stage_gets_its_own_workers_and_counts_their_cost(sweep, gates, monkeypatch):
    """Those of the sets, of a trial, and of a final model; the costs are seconds times what each holds."""
    crafting, trying, making = ({"num_cpus": cpus, "num_gpus": 0} for cpus in (2, 5, 7))
    got = {}

    def seen(name, place):
        stage = getattr(experiment, name)

        def call(*given):
            got[name] = given[place]
            return stage(*given)
        monkeypatch.setattr(experiment, name, call)

    for name, place in {"adversarial_sets": 2, "best_settings": 2, "final_models": 4}.items():
        seen(name, place)
    monkeypatch.setattr(experiment, "shared", lambda *_: crafting)
    monkeypatch.setattr(experiment, "unlearners", lambda *_: (trying, making))
    for name in (*NAMES, "search of amun", "search of finetune"):
        gates[name].set()
    thread, outcome = running(sweep)
    thread.join(PATIENCE)
    assert len(outcome) == 1
    assert got == {"adversarial_sets": crafting, "best_settings": trying, "final_models": making}
    assert sweep.unlearning == making
    assert sweep.costs.made == {"originals": 1, "retrained": 2, "references": 1, "adversarial_sets": 2 * 2,
                                "search": 2 * 5, "final": 2 * 7}


def test_a_method_goes_to_its_final_sets_while_others_are_searched(sweep, gates):
    for name in NAMES:
        gates[name].set()
    thread, outcome = running(sweep)
    gates["search of amun"].set()
    gates.wait("final amun")
    assert "searched" not in gates.seen
    gates["search of finetune"].set()
    thread.join(PATIENCE)
    assert gates.seen[:2] == ["attacked original 0", "final amun"]
    assert sorted(gates.seen[2:]) == ["final finetune", "searched"]
    assert len(outcome) == 1


def test_a_training_that_fails_ends_the_sweep_with_its_reason(sweep, gates, monkeypatch):
    train = experiment.train_models

    def fails(workspace, group, options, over):
        train(workspace, [training for training in group if training.name in NAMES[:2]], options, over)
        raise UserError("reference 0: the loss is not finite")
    monkeypatch.setattr(experiment, "train_models", fails)
    for name in NAMES:
        gates[name].set()
    thread, outcome = running(sweep)
    thread.join(PATIENCE)
    (error,) = outcome
    assert str(error) == "reference 0: the loss is not finite"
