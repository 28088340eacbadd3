"""What begins when on hundreds of workers that do nothing: by the driver's own code, and by docs/scale.py."""

import importlib.util
from collections import defaultdict
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
import ray
from clockwork import Clockwork, Tune
from searching import sweep

from amun_ray.data.dataset import Dataset
from amun_ray.reporting.costs import SweepCosts
from amun_ray.runtime.bench import SharedWorkspace
from amun_ray.runtime.cluster import Cluster
from amun_ray.stages import adversaries, experiment, final, originals, search
from amun_ray.stages.experiment import Experiment
from amun_ray.storage.store import Store
from amun_ray.unlearn import Contender
from amun_ray.work.plan import Plan
from amun_ray.work.trials import Job
from amun_ray.work.units import AdversarialSet, Case, Hyperparameters

OPTIONS = {"num_cpus": 1, "num_gpus": 0}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "scale.py"
EPOCHS = 10
RESULT = {"average_gap": [1.0] * EPOCHS, "best_average_gap": 1.0, "best_epoch": EPOCHS, "weights": [], "seconds": 1.0,
          "curves": [[{"average_gap": 1.0, "test_accuracy": 90.0}] * EPOCHS]}


@pytest.fixture(scope="module")
def scale():
    spec = importlib.util.spec_from_file_location("scale", PAGE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def protocol(one, together):
    """The sweep of an experiment of docs/scale.py, on images of four pixels."""
    settings = sweep({"trials": one.trials, "epochs": EPOCHS, "together": together, "sampler": "random", "startup": 1},
                     {"finetune": None, "amun": None})
    return settings.model_copy(update={
        "originals": settings.originals.model_copy(update={"count": one.originals}),
        "forget": settings.forget.model_copy(update={"sets": one.sets}),
        "references": settings.references.model_copy(update={"count": one.references}),
        "attack": settings.attack.model_copy(update={"shard_size": 256}),
        "final": settings.final.model_copy(update={"runs": one.runs})})


def images(one):
    labels = np.arange(one.images) % 2
    return Dataset("many", np.zeros((one.images, 1, 2, 2), np.uint8), labels, one.train, 2)


def kind(name):
    """Of a group of the simulation: `search 0 2` is a round of `search 0`."""
    return name.rpartition(" ")[0] if name.startswith("search") else name


def driven(one, workers, graph, together, speed, monkeypatch, folder):
    """`Experiment.run` on `workers`, with pieces as long as those of `graph`: (begin, end, kind) of each."""
    clock, lengths = Clockwork(workers), defaultdict(list)
    clock.install(monkeypatch)
    for name, group in graph.items():
        lengths[kind(name)] += [piece / speed for piece in group.pieces]
    left = {name: iter(each) for name, each in lengths.items()}
    plan = Plan(protocol(one, together), images(one))
    workspace = SharedWorkspace.open(plan.sweep, Store(str(folder)), plan.dataset)
    store, contenders = workspace.store, plan.sweep.contenders

    def group(training):
        return ("originals" if training.name.startswith("original") else "references" if "reference" in training.name
                else "held out" if "held_out" in training.name else "retrained")

    def place(contender):
        return contenders.index(Contender(*contender))

    def tried(config):
        settings = Hyperparameters(*config["settings"])
        held_out = [opened(case) for case in plan.held_out]
        store.finish(Job.of(workspace, held_out, Contender(*config["contender"]), 0, settings, None).whole, RESULT)

    def opened(case):
        return Case(case.original, case.name, case.rows, None, 100.0, {"original": case.original, "forget": case.name})

    def trained(_, training, unit):
        store.finish(unit, {"name": training.name, "weights": training.name, "seconds": 1.0})
        return True

    def unlearned(_, run):
        store.finish(run.unit, {"scores": {}, "seconds": 1.0})
        return True

    def seconds(title):
        return next(left[title])

    tune = Tune(clock, lambda config: f"search {place(config['contender'])}", seconds, tried)
    monkeypatch.setattr(originals, "_train", clock.task(lambda _, training, unit: group(training), seconds, trained))
    monkeypatch.setattr(ray, "remote", clock.actors("sets", seconds))
    monkeypatch.setattr(adversaries, "numpy_state", lambda *_: {})
    monkeypatch.setattr(adversaries, "_finished", lambda store, pieces, spent: AdversarialSet(
        pieces[0].unit, len(pieces), {"failed_percent": 0.0}, spent or 0.0))
    monkeypatch.setattr(search, "_run_tune",
                        lambda workspace, cases, studies, options, at_once: tune.run(studies, at_once))
    monkeypatch.setattr(final, "_unlearn", clock.task(
        lambda _, run: f"final {place(run.contender)}", seconds, unlearned))
    for name, stub in {"read_logits": lambda *_: {}, "accuracies": SimpleNamespace(describe=lambda *_: []),
                       "open_cases": lambda models, sets, wanted, **_: [opened(case) for case in wanted]}.items():
        monkeypatch.setattr(experiment, name, stub)
    monkeypatch.setattr("amun_ray.work.trainings.Evidence.of", lambda *_: "evidence")
    record = SimpleNamespace(progress=lambda *_: None, trial=lambda *_: None, adversarial=lambda *_: None)
    made = Experiment(plan, folder, workspace, record, OPTIONS, workers, Cluster(((2.0, 0.0),), "test"), SweepCosts())
    monkeypatch.setattr(made, "report", lambda *_: None)
    made.run()
    return clock.pieces


def begins(pieces, *titles):
    return [begin for begin, _, title in pieces if title in titles]


def end(pieces, *titles):
    return max(end for _, end, title in pieces if title in titles)


CASES = [(0, 8, 4, None), (0, 64, 4, None), (0, 512, 4, None), (2, 8, 4, None), (0, 11, 7, ""), (0, 100, 22, ""),
         (0, 512, 7, "retrained"), (0, 8, 4, "search 1"), (0, 24, 7, "search 1")]


@pytest.mark.parametrize(("number", "workers", "together", "slow"), CASES)
def test_the_driver_hands_out_what_docs_scale_says_when_it_says_so(scale, number, workers, together, slow, monkeypatch,
                                                                  tmp_path):
    """To the second, with pieces of equal lengths, and of unequal ones, of which some are `slow`. 24 trials are three
    rounds of 7, and 3."""
    one, draw = scale.EXPERIMENTS[number], Random(0)

    def length(name):
        return 1 if slow is None else draw.uniform(0.5, 1.5) * (5 if kind(name) == slow else 1)

    graph = {name: group._replace(pieces=[piece * length(name) for piece in group.pieces])
             for name, group in one.graph(together).items()}
    pieces = driven(one, workers, graph, together, scale.FLOPS_PER_SECOND, monkeypatch, tmp_path)
    *simulated, (over, _) = scale.begun(graph, [0.0] * workers)
    assert len(pieces) == len(simulated) == sum(len(group.pieces) for group in graph.values())
    for name in {name for *_, name in pieces}:
        wanted = [second for second, group in simulated if kind(group) == name]
        assert begins(pieces, name) == pytest.approx(wanted), name
    assert max(end for _, end, _ in pieces) == pytest.approx(over)


@pytest.mark.parametrize("workers", [1, 64, 512])
def test_each_piece_begins_when_what_it_needs_is_there_and_the_longest_trainings_first(scale, workers, monkeypatch,
                                                                                      tmp_path):
    one = scale.EXPERIMENTS[0]
    pieces = driven(one, workers, one.graph(4), 4, scale.FLOPS_PER_SECOND, monkeypatch, tmp_path)
    titles = list(dict.fromkeys(title for *_, title in pieces))
    assert titles[:5] == ["originals", "held out", "retrained", "references", "sets"]
    lengths = [end - begin for begin, end, title in pieces if title in titles[:4]]
    assert lengths == pytest.approx(sorted(lengths, reverse=True))
    needs = {"sets": ["originals"], **{f"search {place}": ["held out", "references", "sets"] for place in range(3)},
             **{f"final {place}": ["retrained", f"search {place}"] for place in range(3)}}
    for title, before in needs.items():
        assert min(begins(pieces, title)) >= end(pieces, *before), title
        if workers == 512:  # there is room for all that may begin
            assert min(begins(pieces, title)) == end(pieces, *before), title
    for place in range(3):  # four rounds of trials follow one another
        rounds = sorted(begins(pieces, f"search {place}"))
        assert workers == 1 or rounds[::4] == pytest.approx(rounds[3::4])
    busy = sum(end - begin for begin, end, _ in pieces)
    assert workers > 1 or busy == pytest.approx(end(pieces, *titles))  # never without work
