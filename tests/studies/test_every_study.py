"""What studies make of numbers that are known; the stages that they call have tests of their own."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from amun_ray import plots
from amun_ray.base.errors import UserError
from amun_ray.base.status import Status
from amun_ray.config import file as config_file
from amun_ray.config.studies import NEEDS
from amun_ray.metrics import Split
from amun_ray.metrics.theorem import Terms
from amun_ray.reporting.finding import Finding
from amun_ray.storage.store import Unit
from amun_ray.studies import STUDIES, attack_strength, confidence, distances, study, substitutes, theorem, timing
from amun_ray.studies.done import gap
from amun_ray.studies.sensitivity import by_epoch
from amun_ray.unlearn import METHODS, Contender
from amun_ray.work.units import AdversarialSet, Hyperparameters

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "tune_configs" / "studies").glob("*.yaml"))


def test_every_study_has_a_config_and_every_config_its_study():
    assert {path.stem for path in SHIPPED} == set(STUDIES) == set(NEEDS)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_study_is_found_by_name_and_shares_the_folder_of_its_sweep(path):
    sweep = config_file.load(f"studies/{path.stem}")
    assert sweep.study == path.stem
    assert f"python amun_ray/sweep.py --config studies/{path.stem}" in path.read_text()
    shared = config_file.load("default")
    assert sweep.name == shared.name
    for section in ("data", "model", "training", "originals", "references", "seed", "storage"):
        assert getattr(sweep, section) == getattr(shared, section), section  # so that all trained models are shared


def test_an_unknown_study_and_one_that_lacks_a_method_are_refused(monkeypatch):
    with pytest.raises(UserError, match="study: unknown study 'confidense'; did you mean 'confidence'"):
        config_file.load("default", ["study=confidense"])
    monkeypatch.setitem(NEEDS, "confidence", ("amun", "scrub", "salun"))
    with pytest.raises(UserError, match="study: confidence needs the methods scrub and salun"):
        config_file.load("default", ["study=confidence"])
    assert "study" not in config_file.load("default").inputs()


def test_without_a_study_nothing_is_found():
    assert study(SimpleNamespace(plan=SimpleNamespace(sweep=SimpleNamespace(study=None)))) is None


def test_a_finding_is_told_as_text_as_data_and_as_pictures():
    found = Finding("x", "what is shown.", ["a", "b"], [["1", "2"]], {"y": b"png"})
    assert found.text.splitlines() == ["study x: what is shown.", "", "| a   | b   |", "|-----|-----|", "| 1   | 2   |"]
    assert json.loads(found.files["study_x.json"]) == [{"a": "1", "b": "2"}]
    assert found.pictures == {"figures/study_y.png": b"png"}


def test_how_far_two_distributions_are_apart():
    assert confidence.distance(np.array([1.0, 2, 3, 4]), np.array([3.0, 4, 5, 6])) == 50
    assert confidence.distance(np.array([1.0, 2]), np.array([2.0, 1])) == 0
    assert confidence.distance(np.array([1.0]), np.array([2.0, 3])) == 100


def test_a_model_in_the_table_of_confidences_is_the_mean_over_cases():
    split = Split(np.array([0, 1]), np.array([2, 3]), np.array([4, 5]), np.array([], int))
    first = confidence.parts(np.array([9.0, 7, 1, 3, 2, 4]), split)
    second = confidence.parts(np.array([5.0, 5, 1, 1, 0, 1]), split)
    assert confidence.line("m", [first, second]) == ["m", "6.50", "1.50", "1.75", "50.0", "100.0"]
    assert plots.png(plots.confidence_violins({"m": first, "n": second})).startswith(b"\x89PNG")


def read(status, l2, label):
    return {"status": np.array(status), "l2": np.array(l2), "label": np.array(label), "eps": np.array(l2)}


def test_one_attack_against_another():
    flipped, wrong, failed = Status.FLIPPED, Status.ALREADY_WRONG, Status.FAILED
    one = read([flipped, flipped, flipped, wrong, failed], [0.1, 0.2, 0.3, 0, 0.9], [1, 2, 3, 4, 5])
    two = read([flipped, flipped, failed, wrong, flipped], [0.2, 0.1, 0.5, 0, 0.4], [1, 0, 3, 4, 5])
    assert distances.table({"a": one, "b": two}, {"a": 1.0, "b": 2.5}) == [
        ["a", "75.0", "0.2000", "0.2000", "0.2900", "50.0", "50.0", "1.0"],
        ["b", "75.0", "0.2333", "0.2000", "0.3800", "50.0", "50.0", "2.5"]]
    assert plots.png(plots.paired({"a": one["l2"], "b": two["l2"]}, np.array([1, 1, 0, 0, 0], bool)))


def test_which_term_explains_the_gap():
    """The distance orders the images as the gap does, the loss of the original the other way round."""
    rising, gaps = np.array([0.1, 0.2, 0.4, 0.9]), np.array([1.0, 5, 6, 100])
    terms = Terms(rising, -rising, np.zeros(4), rising[[1, 0, 2, 3]], rising)
    found = theorem.explains([(terms, gaps), (terms, gaps)])
    assert found == pytest.approx({"delta": 1, "l(f_o(x_adv), y)": -1, "l(f'(x_adv), y_adv)": 0, "l(f_u(x), y)": 0.8,
                                   "l(f_u(x_adv), y_adv)": 1})
    assert theorem.means([(terms, gaps), (terms._replace(distance=rising + 1), gaps)])[0] == "0.9"
    assert plots.png(plots.bars({"amun": found}, ylabel="y", title="t"))
    lines = {"panel": {"one": [1.0, 2.0], "two": [2.0, 1.0]}}
    assert plots.png(plots.curves(lines, xlabel="x", ylabel="y", title="t"))
    assert plots.png(plots.curves(lines, x={"panel": [1, 10]}, xlabel="x", ylabel="y", title="t", log=True))


def unlearned(method, curve, *, case=(0, "final 0"), failed=None, seconds=1.0, access="retain"):
    """A final model with these Avg. Gaps after each epoch, and 90 less each as its test accuracy."""
    scores = [{"average_gap": value, "test_accuracy": 90 - value} for value in curve]
    run = SimpleNamespace(contender=Contender(method, access), settings=Hyperparameters(0.1, "never", len(curve), {}),
                          number=0, case=SimpleNamespace(key=case))
    result = {"failed": failed} if failed else {"scores": scores[-1], "curve": scores, "cost": {"seconds": seconds}}
    return SimpleNamespace(run=run, result=result)


def test_avg_gap_of_runs_is_their_mean_with_the_interval_of_the_cases():
    runs = [unlearned("amun", [9.0, value], case=(original, name)) for value, (original, name) in zip(
        (1.0, 2.0, 3.0, 6.0), ((0, "a"), (0, "b"), (1, "a"), (1, "b")), strict=True)]
    assert gap(runs).startswith("3.00 ± 2.16 [")
    assert gap(runs[:1]) == "1.00 ± 0.00"
    assert gap([unlearned("amun", [1.0], failed="epoch 1: nan")]) == "epoch 1: nan"
    assert by_epoch([*runs, unlearned("finetune", [5.0, 4.0])]) == {
        "amun with D_R": [9.0, 3.0], "finetune with D_R": [5.0, 4.0]}


def made(digest, seconds, **report):
    return AdversarialSet(Unit("adversarial_sets", {"of": digest}), 1, report, seconds)


def test_a_line_of_the_attacks_counts_a_set_that_several_cases_share_once():
    sets = {(0, "a"): made("x", 2.0, flipped_percent=60.0, already_wrong_percent=40.0, l2_mean=0.2),
            (0, "b"): made("y", 3.0, flipped_percent=0.0, already_wrong_percent=0.0)}
    sets[1, "a"] = sets[0, "a"]
    assert attack_strength.lines("PGD", sets, {Contender("amun", "retain"): [unlearned("amun", [2.0])]}) == [
        ["PGD", "5.0", "37.5", "0.2000", "amun with D_R", "2.00 ± 0.00"]]
    moved = attack_strength.transferred({(k, "a"): f"of {k}" for k in range(3)}, 3)
    assert moved == {(0, "a"): "of 1", (1, "a"): "of 2", (2, "a"): "of 0"}


def test_the_attacks_have_a_figure_of_the_methods_that_none_made_fail(monkeypatch):
    drawn = []
    monkeypatch.setattr(attack_strength.plots, "bars", lambda groups, **_: drawn.append(groups))
    monkeypatch.setattr(attack_strength.plots, "png", lambda _: b"png")
    amun, soft = Contender("amun", "retain"), Contender("amun_soft", "retain")
    sound = {attack: {amun: [unlearned("amun", [value])], soft: [unlearned("amun_soft", [value + 1])]}
             for attack, value in (("PGD", 2.0), ("nearest", 3.0))}
    assert attack_strength.figures(sound) == {"attack_strength": b"png"}
    assert drawn == [{"PGD": {"amun with D_R": 2.0, "amun_soft with D_R": 3.0},
                      "nearest": {"amun with D_R": 3.0, "amun_soft with D_R": 4.0}}]


def test_the_time_of_a_method_has_its_attack_only_where_it_needs_one():
    runs = {name: [unlearned(name, [1.0], case=key, seconds=value) for key, value in (((0, "a"), 2.0), ((1, "a"), 4.0))]
            for name in ("amun", "finetune")}
    attack = {(0, "a"): 10.0, (1, "a"): 20.0}
    assert timing.line(Contender("amun", "retain"), runs["amun"], attack, 36.0, 7.0, 8.0)[:-1] == [
        "amun with D_R", "3.00", "15.00", "18.00", "50.0", "7.0", "8.0"]
    assert timing.line(Contender("finetune", "retain"), runs["finetune"], attack, 36.0, 7.0, 8.0)[1:5] == [
        "3.00", "", "3.00", "8.3"]


@pytest.fixture
def samples():
    """Four grey images of a class each, a shift of each, and labels one class further."""
    import torch
    clean = np.full((4, 1, 3, 3), 0.5, np.float32)
    moved = clean + np.array([0.01, 0.02, 0.03, 0.04], np.float32).reshape(4, 1, 1, 1)
    labels = np.arange(4)
    return substitutes.Samples(clean, labels, (moved, (labels + 1) % 4, np.arange(4)), 4,
                               torch.Generator().manual_seed(0))


def test_what_takes_the_place_of_d_a(samples):
    found = {name: take(samples) for name, take in substitutes.SUBSTITUTES.items()}
    true, wrong = samples.true, samples.labels
    for name in ("Adv", "Adv-RL"):
        assert np.array_equal(found[name][0], samples.images)
    for name in ("Orig", "Orig-RL", "Orig-AdvL"):
        assert np.array_equal(found[name][0], samples.clean)
    assert all(np.array_equal(found[name][1], wrong) for name in ("Adv", "Adv-RS", "Orig-AdvL"))
    assert np.array_equal(found["Orig"][1], true)
    assert not (found["Adv-RL"][1] == true).any()
    assert not (found["Adv-RL"][1] == wrong).any()
    assert not (found["Orig-RL"][1] == true).any()
    away = np.linalg.norm((found["Adv-RS"][0] - samples.clean).reshape(4, -1), axis=1)
    assert away == pytest.approx(3 * np.array([0.01, 0.02, 0.03, 0.04]), rel=1e-3)
    assert not np.allclose(found["Adv-RS"][0], samples.images)
    assert all(np.array_equal(each[2], np.arange(4)) for each in found.values())


def test_the_substitutes_are_taught_by_methods_of_the_package():
    assert all(contender.access in METHODS[contender.method].access for contender in substitutes.PANELS.values())
    assert {contender.method for contender in substitutes.PANELS.values()} <= set(NEEDS["substitutes"])
    runs = [unlearned("amun", [10.0, 20.0]), unlearned("amun", [0.0, 10.0])]
    assert substitutes.accuracy_by_epoch(runs) == [85.0, 75.0]


def test_gradient_maps_are_drawn_for_grey_and_for_colour():
    for channels in (1, 3):
        assert plots.png(plots.maps(np.zeros((channels, 4, 4)), {"original": np.eye(4), "amun": np.ones((4, 4))}))
