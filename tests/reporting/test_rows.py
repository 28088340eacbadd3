"""The table's numbers, by hand."""

import json

import pytest

from amun_ray.reporting.columns import COLUMNS
from amun_ray.reporting.rows import Row, comparisons, data_frame, marks, notes, results_json
from amun_ray.reporting.tables import markdown_table, text_table
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
    """Of up to five values it is their range: 2, 6 and 4, whatever runs they are the means of."""
    cases = [(0, "final 0"), (1, "final 0"), (0, "final 1"), (0, "final 0"), (1, "final 0")]
    made = row("amun", [1.0, 5.0, 4.0, 3.0, 7.0], cases=cases)
    assert made.intervals["average_gap"] == (2.0, 6.0)
    assert made.intervals["unlearn_accuracy"] == (95.0, 95.0)


def test_the_interval_of_equal_values_is_that_value():
    assert row("amun", [2.0, 2.0, 2.0, 2.0]).intervals["average_gap"] == (2.0, 2.0)


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
    assert marks(rows)["salun with D_R"] != "unchanged"


def test_methods_are_compared_over_the_cases_they_share():
    cases = [(k, "final 0") for k in range(8)]
    best = row("amun", [1.0] * 8, cases=cases)
    worse = row("finetune", [3.0, 3.1, 3.2, 3.3, 3.4, 3.5, 3.6, 3.7], cases=cases)
    same = row("salun", [1.1, 0.9, 1.2, 0.8, 1.05, 0.95, 1.15, 0.9], cases=cases)
    found, others = comparisons([best, worse, same])
    assert found.method in ("amun", "salun")
    assert others["finetune with D_R"].significant
    assert others["finetune with D_R"].n == 8
    assert not others["salun with D_R" if found is best else "amun with D_R"].significant
    assert comparisons([best]) is None


@pytest.mark.parametrize(("count", "said"), [
    (5, "with 5 cases no difference from it can be significant, which takes 6"),
    (6, "not significantly different from it, n.s. (paired Wilcoxon over 6 cases, Holm, 5 %): none")])
def test_five_cases_can_show_no_difference_and_six_can(count, said):
    cases = [(k, "final 0") for k in range(count)]
    rows = [row("amun", [1.0] * count, cases=cases),
            row("finetune", [3.0 + 0.1 * k for k in range(count)], cases=cases)]
    assert notes(rows)[-1] == f"least Avg. Gap: amun with D_R; {said}"
