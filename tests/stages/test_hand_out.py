"""What begins when on hundreds of workers that do nothing: by the driver's own code, and by docs/hand_out.py."""

from collections import defaultdict
from dataclasses import replace
from random import Random
from types import SimpleNamespace

import hand_out
import numpy as np
import pytest
import ray
import scale
from clockwork import Clockwork, Tune
from searching import sweep

from amun_ray.data.dataset import Dataset
from amun_ray.reporting.costs import SweepCosts
from amun_ray.runtime.bench import SharedWorkspace
from amun_ray.runtime.cluster import Cluster
from amun_ray.stages import adversaries, experiment, final, originals, search, widening
from amun_ray.stages.experiment import Experiment
from amun_ray.storage.store import Store
from amun_ray.unlearn import Contender
from amun_ray.work.plan import Plan
from amun_ray.work.trials import Job
from amun_ray.work.units import AdversarialSet, Case, Hyperparameters

OPTIONS = {"num_cpus": 1, "num_gpus": 1}
EPOCHS = 10
RESULT = {"average_gap": [1.0] * EPOCHS, "best_average_gap": 1.0, "best_epoch": EPOCHS, "weights": [], "seconds": 1.0,
          "curves": [[{"average_gap": 1.0, "test_accuracy": 90.0}] * EPOCHS]}


def protocol(one, together, widen):
    """The sweep of an experiment of docs/scale.py, on images of four pixels."""
    settings = sweep({"trials": one.trials, "epochs": EPOCHS, "together": together, "sampler": "random", "startup": 1},
                     {"finetune": None, "amun": None})
    return settings.model_copy(update={
        "originals": settings.originals.model_copy(update={"count": one.originals}),
        "forget": settings.forget.model_copy(update={"sets": one.sets}),
        "references": settings.references.model_copy(update={"count": one.references}),
        "attack": settings.attack.model_copy(update={"shard_size": 256}),
        "training": replace(settings.training, epochs=one.epochs),
        "resources": settings.resources.model_copy(update={"widen": widen}),
        "final": settings.final.model_copy(update={"runs": one.runs})})


def images(one):
    labels = np.arange(one.images) % 2
    return Dataset("many", np.zeros((one.images, 1, 2, 2), np.uint8), labels, one.train, 2)


def kind(name):
    """Of a group of the simulation: `search 0 2` is a round of `search 0`."""
    return name.rpartition(" ")[0] if name.startswith("search") else name


def driven(one, workers, graph, together, monkeypatch, folder, widen=False):
    """`Experiment.run` on `workers`, with pieces as long as those of `graph`: (begin, end, kind) of each."""
    clock, lengths = Clockwork(workers), defaultdict(list)
    clock.install(monkeypatch)
    for name, group in graph.items():
        for length, gpus in group.asked:
            lengths[kind(name), gpus].append(length)
    left = {alike: iter(each) for alike, each in lengths.items()}
    plan = Plan(protocol(one, together, widen), images(one))
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

    def seconds(title, gpus=1):
        return next(left[title, gpus])

    tune = Tune(clock, lambda config: f"search {place(config['contender'])}", seconds, tried)
    monkeypatch.setattr(originals, "_train", clock.task(lambda _, training, unit: group(training), seconds, trained))
    monkeypatch.setattr(originals, "_train_together", clock.task(
        lambda _, training, *more: group(training), seconds, lambda *given: trained(*given[:3]),
        workers=lambda _, training, unit, several, options: several))
    monkeypatch.setattr(widening, "room_of_nodes", lambda: [(8.0, 8.0)] * (workers // 8))
    monkeypatch.setattr(widening, "measured", lambda workspace, training, options, numbers: {
        number: one.steps()[number] for number in numbers})
    monkeypatch.setattr(ray, "remote", clock.actors("sets", seconds))
    monkeypatch.setattr(adversaries, "numpy_state", lambda *_: {})
    monkeypatch.setattr(adversaries, "_finished", lambda store, pieces, spent: AdversarialSet(
        pieces[0].unit, len(pieces), {"failed_percent": 0.0}, spent or 0.0))
    monkeypatch.setattr(search, "_run_tune",
                        lambda workspace, cases, studies, options, at_once: tune.run(studies, at_once))
    monkeypatch.setattr(final, "_unlearn", clock.task(
        lambda _, run: f"final {place(run.contender)}", seconds, unlearned))
    for name, stub in {"read_logits": lambda *_: {}, "attacks_drawn": lambda *_: {},
                       "accuracies": SimpleNamespace(describe=lambda *_: []),
                       "open_cases": lambda models, sets, wanted, **_: [opened(case) for case in wanted]}.items():
        monkeypatch.setattr(experiment, name, stub)
    monkeypatch.setattr("amun_ray.work.trainings.Evidence.of", lambda *_: "evidence")
    record = SimpleNamespace(progress=lambda *_: None, trial=lambda *_: None, adversarial=lambda *_: None)
    made = Experiment(plan, folder, workspace, record, OPTIONS, workers,
                      Cluster(((float(workers), float(workers)),), "test"), SweepCosts())
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
def test_the_driver_hands_out_what_the_simulation_says_when_it_says_so(number, workers, together, slow, monkeypatch,
                                                                      tmp_path):
    """To the second, with pieces of equal lengths, and of unequal ones, of which some are `slow`. 24 trials are three
    rounds of 7, and 3."""
    one, draw = scale.EXPERIMENTS[number], Random(0)

    def length(name):
        return 1 if slow is None else draw.uniform(0.5, 1.5) * (5 if kind(name) == slow else 1)

    graph = {name: group._replace(pieces=[piece * length(name) for piece in group.pieces])
             for name, group in one.graph(together).items()}
    pieces = driven(one, workers, graph, together, monkeypatch, tmp_path)
    assert len(pieces) == sum(len(group.pieces) for group in graph.values())
    compare(pieces, graph, workers)


@pytest.mark.parametrize(("number", "workers", "gpus"), [
    (0, 64, {4, 1}), (0, 512, {8, 2}), (1, 256, {8, 4}), (2, 64, {8, 4})])
def test_with_widen_the_driver_trains_on_as_many_gpus_as_the_simulation_says(number, workers, gpus, monkeypatch,
                                                                            tmp_path):
    one = scale.EXPERIMENTS[number]
    graph = one.graph(one.wide(workers), workers)
    assert {taken for group in graph.values() for taken in group.gpus} == gpus
    compare(driven(one, workers, graph, one.wide(workers), monkeypatch, tmp_path, widen=True), graph, workers)


def compare(pieces, graph, workers):
    """Pieces that the driver handed out begin when the simulation says."""
    *simulated, (over, _) = hand_out.begun(graph, [0.0] * workers)
    assert len(pieces) == len(simulated) == sum(len(group.pieces) for group in graph.values())
    for name in {name for *_, name in pieces}:
        wanted = [second for second, group in simulated if kind(group) == name]
        assert begins(pieces, name) == pytest.approx(wanted), name
    assert max(end for _, end, _ in pieces) == pytest.approx(over)


@pytest.mark.parametrize("workers", [1, 64, 512])
def test_each_piece_begins_when_what_it_needs_is_there_and_the_longest_trainings_first(workers, monkeypatch, tmp_path):
    one = scale.EXPERIMENTS[0]
    pieces = driven(one, workers, one.graph(4), 4, monkeypatch, tmp_path)
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
