"""The table's numbers, by hand."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from amun_ray.base.space import Choice, Range
from amun_ray.metrics import Summary, crossed_mean
from amun_ray.reporting.columns import COLUMNS
from amun_ray.reporting.figures import result_figures
from amun_ray.reporting.results import Results
from amun_ray.reporting.rows import Row, Searched, compared, data_frame, marks, notes, results_json
from amun_ray.reporting.tables import markdown_table, text_table
from amun_ray.storage.store import Unit
from amun_ray.unlearn import Contender
from amun_ray.work.trials import Trial
from amun_ray.work.units import Hyperparameters

CASES = [(0, "final 0"), (0, "final 0"), (1, "final 0"), (1, "final 0")]


def row(method, gaps, *, access="retain", unlearn=95.0, auc=90.0, cases=None):
    settings = None if access is None else Hyperparameters(0.01, "every_5", 3, {"mask_ratio": 0.5})
    scores = [dict.fromkeys(COLUMNS, 90.0) | {"unlearn_accuracy": unlearn, "forget_test_auc": auc, "average_gap": gap}
              for gap in gaps]
    return Row(method, access, settings, scores, cases or CASES[:len(gaps)], [f"run-{k}" for k in range(len(gaps))])


def test_a_row_in_json_is_what_results_json_promises():
    made = json.loads(results_json([row("amun", [1.0, 3.0, 5.0, 7.0])]))[0]
    assert made["method"] == "amun"
    assert made["access"] == "retain"
    assert (made["lr"], made["schedule"], made["epochs"], made["settings"]) == (0.01, "every_5", 3, {"mask_ratio": 0.5})
    assert made["average_gap"] == {"mean": 4.0, "std": pytest.approx((20 / 3) ** 0.5), "n": 4}
    assert made["mlflow_run_ids"] == ["run-0", "run-1", "run-2", "run-3"]


def test_robustness_is_a_picture_beside_test_accuracy_where_it_was_measured():
    rows = [row("retrain", [0.0], access=None), row("amun", [1.0])]
    assert "figures/robustness.png" not in dict(result_figures(rows))
    for each in rows:
        each.scores[0]["robust_accuracy"] = 40.0
    drawn = dict(result_figures([replace(each) for each in rows]))
    assert drawn["figures/robustness.png"].startswith(b"\x89PNG")


def test_a_method_for_which_no_setting_worked_has_a_row_that_says_so():
    lost = Row("gradient_ascent", "forget_only", None, [], [], [], failed="epoch 1: the summed loss is nan")
    rows = [row("retrain", [0.0], access=None), row("amun", [1.0, 3.0]), lost]
    assert marks(rows)[lost.name] == "no setting worked"
    assert "warning: gradient_ascent only D_F: no setting worked: epoch 1: the summed loss is nan" in notes(rows)
    (line,) = [line for line in text_table(rows).splitlines() if line.startswith("gradient_ascent")]
    assert line.split() == ["gradient_ascent", "only", "D_F", "no", "setting", "worked"]
    (line,) = [line for line in markdown_table([each.as_json() for each in rows], []).splitlines() if "ascent" in line]
    assert set(line.replace("gradient_ascent", "").replace("only D_F", "")) == {"|", " "}
    frame = data_frame(rows)
    assert frame["data"][2][:3] == ["gradient_ascent", "only D_F", "no setting worked"]
    assert set(frame["data"][2][3:-1]) == {None}
    assert json.loads(results_json(rows))[2]["failed"] == "epoch 1: the summed loss is nan"


def test_runs_of_one_case_count_as_one():
    assert row("amun", [1.0, 3.0, 5.0, 7.0]).by_case("average_gap") == {(0, "final 0"): 2.0, (1, "final 0"): 6.0}
    assert row("amun", [1.0, 3.0]).intervals == {}  # both runs are of the same case


def test_an_interval_is_that_of_the_cases_means():
    """Two originals that forget two sets: 2, 6, 4 and 8, whatever runs they are the means of."""
    cases = [(0, "final 0"), (1, "final 0"), (0, "final 1"), (0, "final 0"), (1, "final 0"), (1, "final 1")]
    made = row("amun", [1.0, 5.0, 4.0, 3.0, 7.0, 8.0], cases=cases)
    expected = crossed_mean(np.array([[2.0, 4.0], [6.0, 8.0]])).interval()
    assert (expected.low, expected.high) == (pytest.approx(5 - 4 * 5**0.5), pytest.approx(5 + 4 * 5**0.5))
    assert made.intervals["average_gap"] == (0.0, expected.high, expected.level)  # no rate is below 0
    assert made.intervals["unlearn_accuracy"][:2] == (95.0, 95.0)
    assert json.loads(results_json([made]))[0]["intervals"]["average_gap"]["level"] == expected.level < 0.95


def test_a_set_that_an_original_lacks_counts_in_no_interval():
    cases = [(0, "final 0"), (1, "final 0"), (0, "final 1"), (1, "final 1"), (0, "final 2")]
    made = row("amun", [1.0, 3.0, 2.0, 4.0, 90.0], cases=cases)
    assert made.intervals["average_gap"] == row("amun", [1.0, 3.0, 2.0, 4.0], cases=cases[:4]).intervals["average_gap"]


def test_the_table_shows_mean_and_deviation_and_marks_the_target():
    text = text_table([row("retrain", [0.0], access=None), row("amun", [1.0, 3.0], access="forget_only")])
    assert "<- the target" in text
    assert "2.00 +- 1.41" in text
    assert "only D_F" in text
    assert "1.00e-02, every_5, 3, mask_ratio=0.5" in text


def test_a_method_that_did_nothing_is_named():
    rows = [row("original", [5.0], access=None, unlearn=99.0), row("finetune", [5.0], unlearn=98.95),
            row("amun", [1.0], unlearn=95.0), row("salun", [2.0], unlearn=99.0, auc=60.0)]
    said = notes(rows)
    (warning,) = [line for line in said if line.startswith("warning")]
    assert warning.endswith(": finetune with D_R")
    assert "unlearn and retain accuracy are the original's, FT AUC is not: salun with D_R" in said
    assert marks(rows)["finetune with D_R"] == "unchanged"
    assert "salun with D_R" not in marks(rows)


EIGHT = [(k, "final 0") for k in range(8)]


def test_methods_are_tested_against_the_reference_with_the_same_access():
    reference, worse, same = row("amun", [1.0] * 8, cases=EIGHT), row(
        "finetune", [3.0, 3.1, 3.2, 3.3, 3.4, 3.5, 3.6, 3.7], cases=EIGHT), row(
        "salun", [1.1, 0.9, 1.2, 0.8, 1.05, 0.95, 1.15, 0.8], cases=EIGHT)
    alone = row("finetune", [9.0] * 8, access="forget_only", cases=EIGHT)
    rows = compared([reference, worse, same, alone], "amun")
    assert [one.against is None for one in rows] == [True, False, False, True]
    assert rows[1].against.reference == "amun with D_R"
    assert (rows[1].against.found.n, rows[1].against.found.significant) == (8, True)
    assert rows[1].against.found.difference == pytest.approx(2.35)
    assert not rows[2].against.found.significant
    assert marks(rows) == {"amun with D_R": "reference", "salun with D_R": "least, n.s."}
    assert json.loads(results_json(rows))[1]["against"]["reference"] == "amun with D_R"
    assert compared([worse, same], "amun") == [worse, same]
    assert compared([worse, same], None) == [worse, same]


def test_of_fewer_comparisons_named_beforehand_more_are_significant():
    """Differences of one sign in all of six cases have p = 2 / 64: below 5 % for one comparison, not for two."""
    cases = [(k, "final 0") for k in range(6)]
    rows = [row("amun", [1.0] * 6, cases=cases), *(
        row(name, [3.0 + 0.1 * case for case in range(6)], cases=cases) for name in ("salun", "finetune"))]
    assert not any(one.against.found.significant for one in compared(rows, "amun")[1:])
    _, salun, finetune = compared(rows, "amun", ("salun",))
    assert salun.against.found.significant
    assert salun.against.found.p_holm == pytest.approx(2 / 64)
    assert finetune.against is None


def test_the_comparisons_of_a_sweep_are_those_that_its_config_names():
    rows = [row(name, [gap] * 8, cases=EIGHT) for name, gap in (("amun", 1.0), ("salun", 2.0), ("finetune", 3.0))]
    final = SimpleNamespace(compared=("finetune",))
    results = SimpleNamespace(plan=SimpleNamespace(sweep=SimpleNamespace(reference="amun", final=final)),
                              _baselines=lambda: iter(()), _contenders=lambda: iter(rows))
    tested = [one.method for one in Results.rows.func(results) if one.against is not None]
    assert tested == ["finetune"]


def test_the_reference_is_not_chosen_by_the_values():
    rows = compared([row("amun", [5.0] * 8, cases=EIGHT), row("salun", [1.0] * 8, cases=EIGHT)], "amun")
    assert rows[1].against.found.difference == -4.0
    assert marks(rows) == {"salun with D_R": "least", "amun with D_R": "reference"}


@pytest.mark.parametrize(("methods", "count", "said"), [
    (1, 5, "with 5 cases no difference from amun can be significant in 1 test(s), which takes 6. Avg. Gap less that of "
           "amun with the same access: method_0 with D_R +2.20 [2.00, 2.40] (95 %)"),
    (1, 6, "not significantly different from amun with the same access, n.s. (paired over 6 cases, Wilcoxon and "
           "Student over random originals and sets, Holm over 1, 5 %): none"),
    (2, 6, "with 6 cases no difference from amun can be significant in 2 test(s), which takes 7. Avg. Gap less that of "
           "amun with the same access: method_0 with D_R +2.25 [2.05, 2.45] (95 %); method_1 with D_R +2.25 "
           "[2.05, 2.45] (95 %)")])
def test_too_few_cases_give_differences_and_enough_a_test(methods, count, said):
    cases = [(k, "final 0") for k in range(count)]
    rows = [row("amun", [1.0] * count, cases=cases), *(
        row(f"method_{k}", [3.0 + 0.1 * case for case in range(count)], cases=cases) for k in range(methods))]
    assert notes(compared(rows, "amun"))[-1] == said


def test_the_column_of_a_forgotten_class_is_there_where_one_is_forgotten():
    whole = [row("retrain", [0.0], access=None), row("amun", [1.0, 3.0])]
    partly = [replace(one, scores=[{term: value for term, value in scores.items() if term != "forgotten_test_accuracy"}
                                   for scores in one.scores]) for one in whole]
    for made, there in ((whole, True), (partly, False)):
        columns = ["Unlearn", "Retain", "Test", *["Class Test"] * there, "FT AUC", "Avg. Gap"]
        as_json = [each.as_json() for each in made]
        assert ("forgotten_test_accuracy" in as_json[1]) is there
        assert "forgotten_test_accuracy" not in as_json[1]["attacks"]
        assert markdown_table(as_json, []).splitlines()[0].replace(" ", "") == (
            "|method|access|" + "|".join(columns).replace(" ", "") + "|")
        assert "  ".join(columns).split() == text_table(made).splitlines()[0].split()[2:-3]
        assert ("Class Test" in data_frame(made)["columns"]) is there
        assert any(note.startswith("whole classes are forgotten: Test is") for note in notes(made)) is there


@pytest.mark.parametrize(("lr", "epochs", "ratio", "ends"), [
    (1e-3, 3, 0.5, []), (0.9e-1, 5, 0.5, ["lr 0.09 (0.0001 to 0.1)", "epochs 5 (1 to 5)"]),
    (1.3e-4, 1, 0.11, ["lr 0.00013 (0.0001 to 0.1)", "mask_ratio 0.11 (0.1 to 0.9)"])])
def test_a_setting_at_an_end_of_its_range_is_marked(lr, epochs, ratio, ends):
    """Three decades of learning rates: 5 % of them is a factor of 1.41. One epoch is the fewest that there can be."""
    space = {"lr": Range(1e-4, 1e-1, log=True), "schedule": Choice(("never",)), "mask_ratio": Range(0.1, 0.9)}
    made = Trial(Contender("salun", "retain"), 0, Hyperparameters(lr, "never", 5, {"mask_ratio": ratio}),
                 Unit("trials", {"cases": [{"original": "a"}]}),
                 {"best_average_gap": 2.0, "best_epoch": epochs, "curves": [[{"average_gap": 2.0}] * 5]})
    found = Searched.of(made, space, 5)
    assert found == (2.0, (None, None), ends)
    rows = [row("retrain", [0.0], access=None), replace(row("salun", [1.0]), searched=found)]
    assert [line for line in notes(rows) if line.startswith("widen")] == [
        "widen: the best setting lies at an end of its range, and a better one may lie beyond: salun with D_R: "
        f"{', '.join(ends)}"] * bool(ends)
    assert json.loads(results_json(rows))[1]["search"] == {
        "value": 2.0, "standard_error": {"cases": None, "bank": None}, "at_an_end": ends}


def test_the_table_says_where_the_attack_on_amun_succeeds():
    def probed(method, access, boundary, label):
        made = row(method, [1.0, 3.0], access=access)
        return replace(made, scores=[one | {"boundary_auc": boundary, "adversarial_label_auc": label}
                                     for one in made.scores])
    rows = [probed("retrain", None, 52.0, 49.0), probed("original", None, 90.0, 10.0),
            probed("amun", "retain", 41.9, 93.24), probed("finetune", "retain", 62.0, 59.0)]
    (line,) = [line for line in notes(rows) if "knows AMUN" in line]
    assert line == ("warning: an attacker who knows AMUN tells what was forgotten, by more than 10 points: "
                    "amun with D_R (Boundary AUC 41.9, Adv. label AUC 93.2)")
    assert not [line for line in notes(rows[:2] + rows[3:]) if "knows AMUN" in line]
    lacking = replace(rows[2], scores=[rows[2].scores[0], row("amun", [1.0]).scores[0]])
    assert "boundary_auc" not in lacking.summary  # some runs have no such score


def test_scores_over_reference_models_stand_beside_those_of_runs():
    """They have an n of their own, and no interval over cases; the retrained row has none."""
    mean = {"ulira_auc": Summary(61.5, 2.0, 8)}
    rows = [row("retrain", [0.0, 0.0], access=None), replace(row("amun", [1.0, 3.0, 5.0, 7.0]), shadows=mean)]
    made = json.loads(results_json(rows))
    assert made[1]["attacks"]["ulira_auc"] == {"mean": 61.5, "std": 2.0, "n": 8}
    assert "average_gap" in made[1]["intervals"]
    assert "ulira_auc" not in made[0]["attacks"] | made[1]["intervals"]
    frame = data_frame(rows)
    place = frame["columns"].index("U-LiRA AUC")
    assert [line[place] for line in frame["data"]] == [None, 61.5]
    lines = text_table(rows).splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("other attacks")]
    assert lines[at].split() == ["other", "attacks", "U-LiRA", "AUC"]
    assert [line.split() for line in lines[at + 3:at + 5]] == [
        ["retrain"], ["amun", "with", "D_R", "61.50", "+-", "2.00"]]
