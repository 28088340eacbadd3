"""What an unlearning run is given, and how it is scored, without a Ray: references stand for themselves."""

from dataclasses import replace

import numpy as np
import pytest
import ray
import torch
from searching import BEST_LR, FORGET, RANKS, case, gap, ranked, sweep, wrong
from torch import nn

from amun_ray.base.status import Status
from amun_ray.data import shards
from amun_ray.metrics import GAP_TERMS, RmiaSettings, accuracy, reference_mean, score
from amun_ray.runtime.bench import SharedWorkspace
from amun_ray.stages import cases, search
from amun_ray.stages.cases import Epoch, bank_scores, open_cases, original_value, recipe, run_case
from amun_ray.storage.store import Store, Unit
from amun_ray.unlearn import Contender, RunReport
from amun_ray.work.artifacts import numpy_state, store_logits, store_weights
from amun_ray.work.evidence import Evidence, Models
from amun_ray.work.stopping import Limits
from amun_ray.work.trials import Job
from amun_ray.work.units import (
    LOGITS,
    WEIGHTS,
    AdversarialSet,
    ForgetCase,
    Hyperparameters,
    Trained,
    rows_digest,
    shard_name,
)

PLAIN, SHIFTED = Contender("searching:PLAIN", "retain"), Contender("searching:SHIFTED", "retain")
ROWS = np.array([5, 9, 70])


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(ray, "get", lambda references: references)
    methods = {"searching:PLAIN": None, "searching:SHIFTED": {"settings": {"shift": 2.0}}}
    return SharedWorkspace.open(sweep({}, methods), Store(str(tmp_path)), ranked())


def crafted(store: Store, number: int, status: Status, label: int) -> dict[str, np.ndarray]:
    """A shard of two rows, all of whose pixels are a tenth of its number."""
    columns = {name: np.zeros(2, kind) for name, (kind, _) in shards.COLUMNS.items()}
    columns |= {"image": np.full((2, 1, 2, 2), number / 10, np.float32),
                "label": np.array([label, 1 - label]), "status": np.array([Status.FLIPPED, status], np.int8)}
    store.write(Unit("adversarial_sets", {}), shard_name(number), shards.encode(columns, metadata={}))
    return columns


@pytest.fixture
def opened(workspace):
    """The case of the second original and three rows, with all that it is gathered from."""
    store, data = workspace.store, ranked()
    made = AdversarialSet(Unit("adversarial_sets", {}), 3, {})
    for number, status in enumerate((Status.ALREADY_WRONG, Status.FAILED, Status.FLIPPED)):
        crafted(store, number, status, number % 2)
    store.finish(made.unit, {}, [shard_name(number) for number in range(3)])
    rng = np.random.default_rng(0)
    logits = {name: rng.normal(size=(len(data), 2)).astype(np.float32)
              for name in ("original 0", "original 1", "retrained 0", "retrained 1")}
    trained = {}
    for name, values in logits.items():
        unit = Unit("models", {"name": name})
        store_logits(store, unit, values)
        trained[name] = Trained(name, unit, store_weights(store, unit, {"w": torch.full((1,), float(len(trained)))}), 1)
        store.finish(unit, {}, [LOGITS, WEIGHTS])
    mean = rng.uniform(0.2, 0.8, len(data))
    evidence = Evidence(workspace, data.labels, mean, "digest of the mean")
    models = Models([trained["original 0"], trained["original 1"]],
                    {"final 0": [trained["retrained 0"], trained["retrained 1"]]}, [], np.empty(0), evidence)
    wanted = [ForgetCase(1, "final 0", ROWS), ForgetCase(0, "held_out 0", ROWS)]
    return open_cases(models, {one.key: made for one in wanted}, wanted), logits, mean, trained


def test_a_forgotten_class_is_scored_apart_and_at_an_address_of_its_own(workspace, opened):
    """Else a store would give it the scores that it had when D_T was one."""
    _, logits, mean, trained = opened
    labels, train_size = ranked().labels, ranked().train_size
    models = Models([trained["original 0"]], {"final 0": [trained["retrained 0"], trained["retrained 1"]]}, [],
                    np.empty(0), Evidence(workspace, labels, mean, "digest of the mean"))
    wanted = [ForgetCase(0, "final 0", np.flatnonzero(labels[:train_size] == 1)), ForgetCase(0, "held_out 0", ROWS)]
    made = AdversarialSet(Unit("adversarial_sets", {}), 3, {})
    whole, partly = open_cases(models, {one.key: made for one in wanted}, wanted)
    unseen = np.arange(train_size, len(labels))
    others, own = unseen[labels[unseen] == 0], unseen[labels[unseen] == 1]
    assert whole.lineage["whole_classes"] is True
    assert "whole_classes" not in partly.lineage
    right = 100 * (logits["original 0"].argmax(1) == labels)
    assert whole.original_test_accuracy == pytest.approx(right[others].mean())
    assert partly.original_test_accuracy == pytest.approx(right[unseen].mean())
    assert whole.target["forgotten_test_accuracy"] == pytest.approx(
        100 * np.mean([(logits[f"retrained {k}"][own].argmax(1) == 1).mean() for k in range(2)]))


def test_a_method_with_access_gets_exactly_d_r_and_d_f_and_d_a_as_it_is_stored(workspace, opened):
    (final, _), *_ = opened
    sets, data = cases._sets(workspace, final, "retain"), ranked()
    for part, rows in ((sets.retain, np.setdiff1d(np.arange(2 * RANKS), ROWS)), (sets.forget, ROWS)):
        assert part.rows.tolist() == rows.tolist()
        assert np.array_equal(part.own_images, data.pixels[rows])
        assert np.array_equal(part.labels, data.labels[rows])
        assert part.augment
    assert not sets.adversarial.augment
    assert sets.adversarial.labels.tolist() == [0, 1, 1, 0, 1]  # the failed row of the second shard is left out
    assert sets.adversarial.images[:, 0, 0, 0].tolist() == pytest.approx([0, 0, 0.1, 0.2, 0.2])
    assert sets.adversarial.rows is None
    assert sets.sources is not None
    assert sets.sources.tolist() == [0, 1, 2, 4, 5]  # places in D_F


def test_a_run_has_the_recipe_of_the_config_with_the_settings_of_the_trial(workspace):
    own = workspace.sweep.unlearning.model_copy(update={"batch_size": 7, "momentum": 0.5})
    changed = replace(workspace, sweep=workspace.sweep.model_copy(update={"unlearning": own}))
    found = recipe(changed, Hyperparameters(0.3, "every_5", 4, {}))
    assert (found.lr, found.decay_every, found.epochs, found.batch_size, found.momentum) == (0.3, 5, 4, 7, 0.5)
    assert recipe(changed, Hyperparameters(0.3, "never", 4, {})).decay_every == 0


def test_a_method_without_access_gets_no_retained_sample(workspace, opened):
    sets = cases._sets(workspace, opened[0][0], "forget_only")
    assert sets.retain is None
    assert sets.forget.rows.tolist() == ROWS.tolist()
    assert len(sets.adversarial.labels) == 5


def test_a_case_is_judged_by_the_mean_scores_of_its_retrained_models(workspace, opened):
    (final, held_out), logits, mean, _ = opened
    labels = ranked().labels
    each = [score(logits[f"retrained {k}"], labels, workspace.split(ROWS, labels), mean) for k in range(2)]
    assert final.target == pytest.approx({term: (each[0][term] + each[1][term]) / 2 for term in each[0]})
    assert held_out.target is None
    for one, number in ((final, 1), (held_out, 0)):
        assert one.original == number
        assert one.original_test_accuracy == accuracy(logits[f"original {number}"][2 * RANKS:],
                                                      ranked().labels[2 * RANKS:])
        assert one.state[0]["w"].tolist() == [number]


def test_a_case_says_what_it_was_made_from(opened):
    (final, held_out), _, _, trained = opened
    assert final.lineage == {
        "original": trained["original 1"].weights, "forget": rows_digest(ROWS),
        "adversarial": Unit("adversarial_sets", {}).digest, "references": "digest of the mean",
        "retrained": [trained["retrained 0"].weights, trained["retrained 1"].weights]}
    assert held_out.lineage == {key: value for key, value in final.lineage.items() if key != "retrained"} | {
        "original": trained["original 0"].weights}


@pytest.mark.parametrize(("schedule", "every"), [("never", 0), ("every_1", 1), ("every_12", 12)])
def test_a_recipe_is_that_of_the_config_with_what_the_trial_tries(workspace, schedule, every):
    made = recipe(workspace, Hyperparameters(0.02, schedule, 7, {}))
    assert (made.lr, made.epochs, made.decay_every, made.schedule) == (0.02, 7, every, "step")
    assert (made.batch_size, made.momentum, made.weight_decay) == (128, 0.9, 5e-4)


@pytest.mark.parametrize(("contender", "own", "shift"), [
    (PLAIN, {}, 0), (SHIFTED, {}, 2), (SHIFTED, {"shift": 4.0}, 4)])  # the config's setting, and what a trial tries
def test_each_epoch_is_scored_on_every_sample(workspace, contender, own, shift):
    """In closed form: of each split the network gets `wrong` of 50 ranks wrong (see searching)."""
    lr = BEST_LR * 10
    held = case(put=lambda value: value)
    for number, epoch in enumerate(run_case(workspace, held, contender, Hyperparameters(lr, "never", 3, own), 0), 1):
        right = 100 - 2 * wrong(lr, number, shift)
        assert epoch.scores == pytest.approx({
            "unlearn_accuracy": right, "retain_accuracy": right, "test_accuracy": right, "forget_test_auc": 50,
            "average_gap": gap(lr, number, shift)})
        assert accuracy(epoch.logits, ranked().labels) == pytest.approx(right)
        assert epoch.model.net.wrong.item() == wrong(lr, number, shift)
        assert epoch.report.certificate is None
    assert number == 3


def test_where_few_samples_are_scored_the_others_are_not_predicted(workspace):
    """Ranks 0 to 9 of D_R, and 40 to 49 of D_T: of these the network gets the first few wrong, and none."""
    rows = np.concatenate([FORGET, RANKS + np.arange(10), 2 * RANKS + np.arange(40, 50)])
    held = replace(case(put=lambda value: value), scored=rows)
    (epoch,) = run_case(workspace, held, PLAIN, Hyperparameters(BEST_LR, "never", 1, {}), 0)
    few = wrong(BEST_LR, 1)
    assert epoch.logits.shape == (70, 2)
    assert {term: epoch.scores[term] for term in GAP_TERMS[:3]} == pytest.approx({
        "unlearn_accuracy": 100 - 2 * few, "retain_accuracy": 100 - 10 * few, "test_accuracy": 100})
    assert 0 < few < 10


def test_the_search_compares_all_models_on_the_same_few_samples(workspace, opened):
    """Each number by hand, on D_F and 20 samples of D_R and of D_T; more than there are mean all, at the same address;
    a final case is scored on all."""
    _, logits, mean, trained = opened
    few, many = (replace(workspace, sweep=sweep({"score_samples": count})) for count in (20, 97))
    labels, made = ranked().labels, AdversarialSet(Unit("adversarial_sets", {}), 3, {})
    one = ForgetCase(1, "final 0", ROWS)

    def opening(space, **options):
        models = Models([trained["original 0"], trained["original 1"]],
                        {"final 0": [trained["retrained 0"], trained["retrained 1"]]}, [], np.empty(0),
                        Evidence(space, labels, mean, "digest of the mean"))
        (found,) = open_cases(models, {one.key: made}, [one], **options)
        return found, Job.of(workspace, [found], PLAIN, 0, Hyperparameters(BEST_LR, "never", 1, {}), None).whole.digest

    (searched, address), (final, _) = opening(few, for_search=True), opening(few)
    rows, split = searched.scored, workspace.split(ROWS, labels)
    assert [len(np.intersect1d(rows, part)) for part in split[:3]] == [20, 3, 20]
    assert len(rows) == 43
    for k, name in enumerate(("unlearn_accuracy", "retain_accuracy", "test_accuracy")):
        part = np.intersect1d(rows, (split.forget, split.retain, split.test)[k])
        right = [(logits[f"retrained {number}"].argmax(1) == labels)[part].mean() for number in range(2)]
        assert searched.target[name] == pytest.approx(100 * np.mean(right))
    before = score(logits["original 1"][rows], labels[rows], split.within(rows), mean[rows])
    assert searched.before == pytest.approx({term: before[term] for term in GAP_TERMS} | {
        "average_gap": sum(abs(before[term] - searched.target[term]) for term in GAP_TERMS) / 4})
    assert original_value([searched], ("average_gap",)) == searched.before["average_gap"]
    assert original_value([searched, searched], ("average_gap", "proxy")) is None
    assert (final.before, original_value([final], ("average_gap",))) == (None, None)
    tested = np.intersect1d(rows, split.test)
    assert searched.original_test_accuracy == pytest.approx(
        100 * (logits["original 1"].argmax(1) == labels)[tested].mean())
    assert (final.scored, final.lineage) == (None, opened[0][0].lineage)
    (all_, address_of_all), (_, without) = opening(many, for_search=True), opening(workspace, for_search=True)
    assert all_.scored is None
    assert address_of_all == without != address
    assert opening(replace(workspace, sweep=sweep({"score_samples": 21})), for_search=True)[1] not in (address, without)


def numbered(*gaps):
    """Epochs of these Avg. Gaps, of a model whose weight is the number of the epoch."""
    for number, gap_ in enumerate(gaps, 1):
        model = nn.Linear(1, 1)
        nn.init.constant_(model.weight, number)
        yield Epoch(dict.fromkeys(GAP_TERMS, 90.0 + number) | {"average_gap": gap_}, np.empty(0), model, RunReport())


def test_a_trial_past_its_best_is_stored_as_such_with_its_weights(workspace, monkeypatch):
    """Its fifth epoch would have been better, and is never reached."""
    def unreached():
        yield from numbered(7.0, 1.0, 2.0, 2.0)
        raise AssertionError("an epoch after the end")

    monkeypatch.setattr(search, "run_case", lambda *_, **__: unreached())
    held, settings = [case(put=lambda value: value)], Hyperparameters(BEST_LR, "never", 6, {})
    job = Job.of(workspace, held, PLAIN, 0, settings, Limits(20.0, 4.0, 1))
    search.score_trial(workspace, held, job, lambda said: None)
    found = job.stored(workspace.store)
    assert (found.value, found.best.epochs, found.result["average_gap"]) == (1.0, 2, [7.0, 1.0, 2.0, 2.0])
    assert found.unit == job.past
    assert numpy_state(workspace.store, found.unit, "weights-0.safetensors")["weight"].item() == 2
    within, beyond = (Job.of(workspace, held, PLAIN, 0, settings, Limits(20.0, goal, 1)) for goal in (0.5, -99.0))
    assert within.stored(workspace.store) == found
    assert "stopped" in beyond.stored(workspace.store).result
    assert Job.of(workspace, held, PLAIN, 0, settings, None).stored(workspace.store) is None


def test_a_hopeless_trial_is_stored_at_the_address_of_its_limits(workspace, monkeypatch):
    monkeypatch.setattr(search, "run_case", lambda *_, **__: numbered(19.0, 18.0, 0.0))
    held, settings = [case(put=lambda value: value)], Hyperparameters(BEST_LR, "never", 3, {})
    first, other = (Job.of(workspace, held, PLAIN, 0, settings, Limits(20.0, goal, 1)) for goal in (4.0, 3.0))
    search.score_trial(workspace, held, first, lambda said: None)
    found = first.stored(workspace.store)
    assert (found.finished, found.result["average_gap"], found.unit) == (False, [19.0], first.stopped)
    assert found.result["stopped"].startswith("hopeless after epoch 1: 19.00 points at best")
    assert other.stored(workspace.store) is None
    result = found.result | {"average_gap": [5.0], "curves": [[{"average_gap": 5.0}]]}
    for unit in (other.stopped, other.past):  # by another rule: it would have gone on here
        workspace.store.finish(unit, result)
        assert other.stored(workspace.store) is None


def test_a_trial_keeps_the_weights_of_the_epoch_that_it_names(workspace, monkeypatch):
    """Of two epochs that are equally good the first, in weights, scores and number alike."""
    monkeypatch.setattr(search, "run_case", lambda *_, **__: numbered(3.0, 1.0, 2.0, 1.0))
    held = [case("held_out 0", put=lambda value: value), case("held_out 1", put=lambda value: value)]
    job = Job.of(workspace, held, PLAIN, 0, Hyperparameters(BEST_LR, "never", 4, {}), None)
    said = []
    search.score_trial(workspace, held, job, said.append)
    result = job.stored(workspace.store).result
    assert (result["best_epoch"], result["best_average_gap"], result["average_gap"]) == (2, 1.0, [3.0, 1.0, 2.0, 1.0])
    assert [one["weight"].item() for one in (numpy_state(workspace.store, job.whole, f"weights-{place}.safetensors")
                                             for place in range(2))] == [2, 2]
    assert said == [{"value": value, "best_value": best} for value, best in ((3, 3), (1, 1), (2, 1), (1, 1))]


def test_the_error_of_the_bank_is_that_of_leaving_out_a_pair_of_references(workspace, opened):
    """Three pairs: each time the other two judge the model, and give the target that it is held against."""
    (final, held_out), logits, _, trained = opened
    rng, references, labels = np.random.default_rng(1), [], ranked().labels
    every = rng.normal(size=(6, len(labels), 2)).astype(np.float32)
    for number, values in enumerate(every):
        unit = Unit("models", {"reference": number})
        store_logits(workspace.store, unit, values)
        workspace.store.finish(unit, {}, [LOGITS])
        references.append(Trained(f"reference {number}", unit, None, 1))
    evidence = Evidence(workspace, labels, np.full(len(labels), 0.5), "digest of the mean")
    models = Models([trained["original 0"], trained["original 1"]],
                    {"final 0": [trained["retrained 0"], trained["retrained 1"]]}, references, np.empty(0), evidence)
    made = AdversarialSet(Unit("adversarial_sets", {}), 3, {})
    one, blind = open_cases(models, {final.key: made, held_out.key: made}, [final, held_out], for_search=True)
    values = []
    for pair, scores in enumerate(bank_scores(workspace, one, logits["original 0"])):
        others = [values for number, values in enumerate(every) if number // 2 != pair]
        mean, split = reference_mean(others, labels), workspace.split(ROWS, labels)
        target = [score(logits[f"retrained {k}"], labels, split, mean) for k in range(2)]
        scored = score(logits["original 0"], labels, split, mean)
        gaps = [abs(scored[term] - (target[0][term] + target[1][term]) / 2) for term in GAP_TERMS]
        assert scores == pytest.approx({term: scored[term] for term in GAP_TERMS} | {"average_gap": sum(gaps) / 4})
        values.append(sum(gaps) / 4)
    assert pair == 2
    assert search._bank_error(workspace, [one], [logits["original 0"]]) == {
        "bank_error": pytest.approx((2 / 3 * sum((value - sum(values) / 3) ** 2 for value in values)) ** 0.5)}
    assert search._bank_error(workspace, [final], [logits["original 0"]]) == {}
    assert all(set(scores) == set(GAP_TERMS) for scores in bank_scores(workspace, blind, logits["original 0"]))


def test_without_retrained_models_there_is_no_gap(workspace):
    (epoch,) = run_case(workspace, replace(case(put=lambda value: value), target=None), PLAIN,
                        Hyperparameters(BEST_LR, "never", 1, {}), 0)
    assert set(epoch.scores) == set(GAP_TERMS)


def test_runs_attack_with_the_sweeps_own_settings(workspace, opened):
    """gamma of the config, and the case's own reference mean."""
    mean = np.random.default_rng(0).uniform(0.5, 0.9, 3 * RANKS)
    settings = RmiaSettings(gamma=1.01, temperature=1.0)
    space = replace(workspace, sweep=workspace.sweep.model_copy(update={"rmia": settings}))
    held = replace(case(put=lambda value: value), reference_mean=(mean,))
    (epoch,) = run_case(space, held, PLAIN, Hyperparameters(BEST_LR, "never", 1, {}), 0)
    wanted = score(epoch.logits, ranked().labels, workspace.split(FORGET, ranked().labels), mean, settings=settings)
    assert epoch.scores["forget_test_auc"] == wanted["forget_test_auc"]
    assert wanted["forget_test_auc"] != score(epoch.logits, ranked().labels, workspace.split(FORGET, ranked().labels),
                                              mean)["forget_test_auc"]
