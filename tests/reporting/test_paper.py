"""The paper's numbers as the paper prints them, and a sweep's results beside them."""

from types import SimpleNamespace

import pytest

from amun_ray import data
from amun_ray.base.errors import UserError
from amun_ray.config import file as config_file
from amun_ray.config.schema import Sweep
from amun_ray.reporting.grid import grid
from amun_ray.reporting.paper import beside, find, keep_rows, kept_rows
from amun_ray.reporting.paper_tables import TABLES, TERMS
from amun_ray.reporting.protocol import WHATEVER, differences
from amun_ray.reporting.tables import markdown_table
from amun_ray.storage.store import Store
from amun_ray.work.plan import Plan

TABLE_1 = """
Retrain 94.49 100.00 94.33 50.00 0.00 92.09 100.00 91.85 50.01 0.00
FT 95.16 96.64 92.21 52.08 2.06 94.24 95.82 91.21 51.74 2.17
RL 95.54 97.47 92.17 51.33 1.74 94.83 99.79 90.08 50.78 1.38
GA 98.94 99.22 93.39 60.96 4.28 100.00 100.00 94.65 63.39 4.62
BS 99.14 99.89 93.04 57.85 3.48 55.24 55.67 50.16 55.19 32.01
l1 94.29 95.63 91.55 51.21 2.16 98.00 98.71 92.79 54.44 2.67
SalUn 96.25 98.14 93.06 50.88 1.44 96.68 99.89 91.97 50.86 1.36
AMUN 95.45 99.57 93.45 50.18 0.62 93.50 99.71 92.39 49.99 0.33
AMUN+SalUn 95.02 99.58 93.29 50.72 0.68 93.56 99.72 92.52 49.81 0.36
"""
TABLE_2 = """
Retrain 94.49 100.00 94.33 50.00 0.00 92.09 100.00 91.85 50.01 0.00
RL 100.00 100.00 94.45 61.85 4.31 100.00 100.00 94.57 61.99 4.29
GA 4.77 5.07 5.09 49.78 68.53 100.00 100.00 92.65 63.41 5.13
BS 100.00 100.00 94.48 61.41 4.20 100.00 100.00 94.58 62.43 4.40
SalUn 100.00 100.00 94.47 61.09 4.11 100.00 100.00 94.59 62.45 4.40
AMUN 94.28 97.47 91.67 52.24 1.94 92.77 95.66 89.43 52.60 2.51
AMUN+SalUn 94.19 97.71 91.79 51.93 1.77 91.90 96.59 89.98 52.32 2.00
"""
TABLE_4 = """
Retrain 55.93 99.98 55.96 50.06 0
FT 74.99 96.88 56.29 61.66 8.36
RL 59.66 68.19 50.78 51.38 10.50
GA 0.46 0.49 0.50 49.80 52.67
BS 0.50 0.51 0.51 49.80 52.65
l1 55.27 60.64 49.82 54.49 12.80
SalUn 66.54 76.63 49.56 54.64 11.24
AMUN 62.57 93.66 55.52 57.33 5.17
AMUN+SalUn 62.96 94.42 55.80 57.65 5.09
"""
TABLE_5 = """
Retrain 55.93 99.98 55.96 50.06 0
RL 1.36 1.74 1.27 51.17 52.15
GA 0.44 0.51 0.50 50.55 52.81
BS 0.93 0.97 1.02 49.96 52.28
SalUn 2.46 2.89 2.13 52.20 51.63
AMUN 58.54 62.34 43.22 63.05 16.50
AMUN+SalUn 62.37 68.47 45.44 61.24 14.91
"""
NAMES = {"Retrain": "retrain", "FT": "finetune", "RL": "random_label", "GA": "gradient_ascent", "BS": "boundary_shrink",
         "l1": "l1_sparse", "SalUn": "salun", "AMUN": "amun", "AMUN+SalUn": "amun_salun"}


@pytest.mark.parametrize(("name", "printed"), [("paper_table1", TABLE_1), ("paper_table2", TABLE_2)])
def test_the_numbers_are_those_of_the_paper(name, printed):
    lines = [line.split() for line in printed.split("\n") if line]
    for fraction, columns in ((0.1, slice(1, 6)), (0.5, slice(6, 11))):
        assert TABLES[name][0].rows[fraction] == {
            NAMES[line[0]]: tuple(float(cell) for cell in line[columns]) for line in lines}


@pytest.mark.parametrize("name", ["paper_table4", "paper_table5"])
def test_so_are_those_of_tiny_imagenet(name):
    printed = TABLE_4 if name == "paper_table4" else TABLE_5
    lines = [line.split() for line in printed.split("\n") if line]
    assert TABLES[name][0].rows == {0.1: {NAMES[line[0]]: tuple(map(float, line[1:])) for line in lines}}


@pytest.mark.parametrize(("name", "off"), [("paper_table1", 0.08), ("paper_table2", 0.08), ("paper_table4", 0.2),
                                           ("paper_table5", 0.2)])
def test_the_average_gap_at_10_percent_follows_from_the_columns(name, off):
    rows = TABLES[name][0].rows[0.1]
    for method, numbers in rows.items():
        mean = sum(abs(one - goal) for one, goal in zip(numbers[:4], rows["retrain"][:4], strict=True)) / 4
        assert numbers[4] == pytest.approx(mean, abs=off), method  # the mean of gaps is not quite the gap of means


def test_an_unknown_table_suggests_a_known_one():
    with pytest.raises(UserError, match=r"--compare: unknown table 'paper_tabel1'; did you mean 'paper_table1'\?"):
        find("paper_tabel1")
    with pytest.raises(UserError, match=r"Known: paper_table1, paper_table2, paper_table3"):
        find("x")


@pytest.fixture
def plan(tmp_path) -> Plan:
    path = tmp_path / "mine.yaml"
    path.write_text("{name: mine, data: {name: digits, train_size: 300}, model: {name: small_cnn}, "
                    "training: {epochs: 200, lr: 0.1}, forget: {fraction: 0.4}, methods: {amun: , scrub: }}")
    sweep = config_file.load(str(path))
    return Plan(sweep, data.load(sweep.data.name, **sweep.data.settings))


def row(method: str, access: str | None, *means: float) -> dict:
    return {"method": method, "access": access, "mlflow_run_ids": ["a run"],
            **{term: {"mean": mean, "std": 0.5, "n": 2} for term, mean in zip(TERMS, means, strict=True)}}


ROWS = [row("retrain", None, 90.0, 100.0, 91.0, 50.0, 0.0), row("amun", "retain", 91.0, 99.0, 90.0, 51.0, 1.0),
        row("amun", "forget_only", 92.0, 98.0, 89.0, 52.0, 2.0), row("scrub", "retain", 93.0, 97.0, 88.0, 53.0, 3.0)]


def test_results_stand_beside_the_nearest_column_of_the_table_of_their_access(plan):
    text = beside(["paper_table2"], ROWS, plan)
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
             for line in text.splitlines() if line.startswith("|")}
    assert cells["amun"] == ["92.00 ± 0.50", "92.77", "98.00 ± 0.50", "95.66", "89.00 ± 0.50", "89.43", "52.00 ± 0.50",
                             "52.60", "2.00 ± 0.50", "2.51"]
    assert cells["retrain"][:2] == ["90.00 ± 0.50", "92.09"]
    assert cells["salun"] == ["", "100.00", "", "100.00", "", "94.59", "", "62.45", "", "4.40"]  # not run here
    assert "scrub" not in cells  # another access
    assert "Table 2" in text
    assert "50% forgotten, only D_F" in text


def test_a_table_of_both_accesses_and_other_columns(plan):
    rows = [{**each, "attacks": {"forget_retain_auc": {"mean": 54.0, "std": 0.25, "n": 2}}} for each in ROWS]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]]
             for line in beside(["paper_table3"], rows, plan).splitlines() if line.startswith(("| amun", "| method"))]
    assert lines == [
        ["method", "FT AUC", "paper", "FR AUC", "paper", "Test", "paper"],
        ["amun", "51.00 ± 0.50", "49.41", "54.00 ± 0.25", "54.22", "90.00 ± 0.50", "87.38"],
        ["method", "FT AUC", "paper", "FR AUC", "paper", "Test", "paper"],
        ["amun", "52.00 ± 0.50", "49.64", "54.00 ± 0.25", "53.23", "89.00 ± 0.50", "87.39"]]


def test_what_is_not_in_the_paper_stands_alone(plan):
    line = next(line for line in beside(["paper_table1"], ROWS, plan).splitlines() if line.startswith("| scrub"))
    assert [cell.strip() for cell in line.split("|")[2:6]] == ["93.00 ± 0.50", "", "97.00 ± 0.50", ""]


def test_every_difference_to_the_protocol_is_named(plan):
    last = beside(["paper_table1"], ROWS, plan).splitlines()[-1]
    assert last == ("Otherwise than in the paper: forgotten: 40.0% (paper: 50%); data: digits (paper: cifar10); "
                    "training images: 300 (paper: 50000); network: small_cnn (paper: resnet18); "
                    "augmentation: crop 0, flip off (paper: crop 4, flip on); "
                    "training: sgd, lr 0.1, momentum 0.9, weight decay 0.0005 (paper: sgd, lr 0.1 x 0.1 every 40 "
                    "epochs, momentum 0.9, weight decay 0.0005); arithmetic: bfloat16 on a GPU that has it (paper: "
                    "float32); "
                    "original models: 1 (paper: 3); forget sets: 1 (paper: 3); reference models: 8 (paper: 128); "
                    "attack: nearest (paper: pgd_l2); batch norm in passes without D_R: kept (paper: updated). "
                    + WHATEVER)


def test_where_paper_and_scripts_differ_both_are_named(plan):
    def last(**changed):
        sweep = Sweep.model_validate(plan.sweep.model_dump(exclude=changed) | changed)
        return beside(["paper_table1"], ROWS, Plan(sweep, plan.dataset)).splitlines()[-1]

    as_text = last(rmia={"as": "paper"}, references={"as": "paper"}, attack={"search": {"as": "paper"}}, methods={
        "l1_sparse": {"as": "paper"}, "boundary_shrink": {"as": "paper"}, "gradient_ascent": {"as": "scripts"}})
    for what in ("RMIA", "epochs of reference", "attack:", "Algorithm 1", "first radius", "weight of", "labels of"):
        assert what not in as_text
    assert "batch norm in passes without D_R: kept or updated (paper: updated)" in as_text
    as_scripts = last(rmia={"as": "scripts"}, references={"as": "scripts"}, attack={"search": {"as": "scripts"}},
                      methods={name: {"as": "scripts"} for name in ("l1_sparse", "boundary_shrink", "gradient_ascent")})
    for line in ("epochs of reference models: 161, as in its scripts (paper: 200)",
                 "RMIA: Taylor order 3, margin 0.6, temperature 2, gamma 2, as in its scripts (paper: Taylor order 4, ",
                 "stopped at the first flip, cross_entropy, as in its scripts (paper: 50 steps of 0.1 eps, each ",
                 "weight of the l1 norm: compounded over 10 epochs, as in its scripts (paper: falls linearly to 0 ",
                 "labels of boundary_shrink: by a copy after the pass over D_R, augmented and rounded, as in its scr"):
        assert line in as_scripts
    assert "batch norm" not in as_scripts
    neither = last(rmia={"order": 2}, methods={"salun": {}, "boundary_shrink": {"settings": {"labelled_by": 2}}})
    assert "RMIA: Taylor order 2, margin 0.6, temperature 2, gamma 2 (paper: Taylor order 4, " in neither
    assert "gamma 2; its scripts: Taylor order 3, " in neither
    assert "share of weights that a mask moves: not searched for salun (paper: searched from 0.1 to 0.9)" in neither
    assert "labels of boundary_shrink: by the original (paper: " in neither


@pytest.mark.parametrize("table", ["paper_table1", "paper_table2"])
def test_the_shipped_tables_name_what_is_left(table):
    """Of each config that is made for a table, all that it does otherwise."""
    sweep = config_file.load(table)
    like = SimpleNamespace(name="cifar10", classes=10, size=32, train_size=50_000)
    made = SimpleNamespace(sweep=sweep, dataset=like, sets=SimpleNamespace(final=[range(5000)] * 3))
    left = [line.partition(":")[0] for line in differences(made, TABLES[table][0].protocol)]
    assert left == ["arithmetic", "batch norm in passes without D_R"]  # which their headers say


def test_rows_are_found_by_the_same_sweep_alone(plan, tmp_path):
    store = Store(str(tmp_path / "store"))
    assert kept_rows(plan, store) is None
    keep_rows(plan, store, ROWS)
    assert kept_rows(plan, store) == [{key: value for key, value in one.items() if key != "mlflow_run_ids"}
                                      for one in ROWS]
    assert kept_rows(Plan(plan.sweep.model_copy(update={"seed": 1}), plan.dataset), store) is None
    assert kept_rows(Plan(plan.sweep.model_copy(update={"storage": "elsewhere"}), plan.dataset), store) is not None


def test_markdown_is_aligned_and_escaped():
    assert grid(["a", "method"], [["|x|", "y"]]) == ("| a     | method |\n"
                                                     "|-------|--------|\n"
                                                     "| \\|x\\| | y      |")


def test_the_table_to_be_pasted_marks_the_least_gap():
    text = markdown_table(ROWS, ["", "n = 2"])
    assert [line for line in text.splitlines() if "**" in line] == [
        "| amun    | with D_R | 91.00 ± 0.50 | 99.00 ± 0.50  | 90.00 ± 0.50 | 51.00 ± 0.50 | **1.00 ± 0.50** |"]
    assert text.endswith("\n- n = 2\n")
