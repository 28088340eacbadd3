"""Every figure on simulated data of realistic shape: it is drawn, labelled, and marks the target."""

import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from amun_ray import plots
from amun_ray.base.errors import UserError
from amun_ray.plots.style import BASELINES, METHODS, panels, plain_log, row_name, row_styles

RNG = np.random.default_rng(0)
ACCURACIES = ("unlearn_accuracy", "retain_accuracy", "test_accuracy", "forget_test_auc", "average_gap")


def texts(figure: Figure) -> str:
    """All that a reader of the figure can read."""
    words = [figure.get_suptitle()]
    for axis in figure.axes:
        legend = axis.get_legend()
        words += [axis.get_title(), axis.get_title(loc="left"), axis.get_xlabel(), axis.get_ylabel()]
        words += [tick.get_text() for tick in axis.get_yticklabels()]
        words += [text.get_text() for text in legend.get_texts()] if legend else []
        words += [cell.get_text().get_text() for table in axis.tables for cell in table.get_celld().values()]
    return "\n".join(words)


def result(method, access, *means):
    metrics = {name: {"mean": mean, "std": 0.3, "n": 27} for name, mean in zip(ACCURACIES, means, strict=True)}
    return {"method": method, "access": access, **metrics}


ROWS = [
    result("original", None, 100, 100, 94.5, 62.1, 4.6),
    result("retrain", None, 94.49, 100, 94.33, 50.0, 0.0),
    result("finetune", "retain", 95.16, 96.64, 92.21, 52.08, 2.06),
    result("amun", "retain", 95.45, 99.57, 93.45, 50.18, 0.62),
    {**result("amun", "forget_only", 94.28, 97.47, 91.67, 52.24, 1.94), "note": "n.s."},
]


def trials():
    found = []
    for method, access, best in (("finetune", "retain", -2), ("amun", "retain", -2.5), ("amun", "forget_only", -4)):
        for lr in 10 ** RNG.uniform(-6, -1, 20):
            gap = 0.6 + 1.5 * (np.log10(lr) - best) ** 2
            curve = gap + 4 * np.exp(-np.arange(10) / 3) + RNG.normal(0, 0.05, 10)
            found.append(
                {"method": method, "access": access, "lr": lr, "schedule": "never", "average_gap": gap, "gaps": curve,
                 "chosen": False, "test_accuracy": 94.5 - gap / 2, "forget_test_auc": 50 + 12 * np.exp(-gap / 4)}
            )  # fmt: skip
        found[-1]["chosen"] = True
    return found


def confidences(forget):
    means = {"retain": 9, "forget": forget, "test": 5}
    return {key: RNG.normal(mean, 2.5, 5000 if key == "retain" else 1000) for key, mean in means.items()}


def roc_of(shift):
    thresholds = np.linspace(6, -6, 400)
    negative, positive = RNG.normal(0, 1, 1000), RNG.normal(shift, 1.3, 1000)
    return tuple(
        np.concatenate([[0], 100 * (side[:, None] >= thresholds).mean(axis=0), [100]]) for side in (negative, positive)
    )


FIGURES = {
    "confidence": lambda: plots.confidence_histograms(
        {"Original": confidences(9), "AMUN with $D_R$": confidences(5.5), "Retrained": confidences(5)}
    ),
    "eps": lambda: plots.eps_histogram(0.04 * 2.0 ** RNG.poisson(1.5, 900), already_wrong=12, failed=1),
    "eps_many": lambda: plots.eps_histogram(RNG.lognormal(-2, 0.6, 900)),
    "l2": lambda: plots.l2_histogram(np.concatenate([RNG.lognormal(-2, 0.5, 900), np.zeros(30)])),
    "roc": lambda: plots.roc_curves(
        {"Original": roc_of(1.0), "AMUN": roc_of(0.1), "Retrained": roc_of(0.0)}, title="RMIA: forgotten against unseen"
    ),
    "gap_lr": lambda: plots.gap_against_lr(trials()),
    "gap_epochs": lambda: plots.gap_against_epochs(trials()),
    "front": lambda: plots.pareto_front([trial | {"proxy": 20 - trial["average_gap"], "chosen": place % 5 == 0}
                                         for place, trial in enumerate(trials())]),
    "trade_off": lambda: plots.trade_off(
        trials(),
        original={"test_accuracy": 94.5, "forget_test_auc": 62.0},
        retrained={"test_accuracy": 94.3, "forget_test_auc": 50.1},
    ),
    "bars": lambda: plots.comparison_bars(ROWS),
    "table": lambda: plots.results_table(ROWS),
}


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_is_a_png_with_a_title_and_units(name):
    figure = FIGURES[name]()
    assert plots.png(figure).startswith(b"\x89PNG")
    assert any(axis.get_title() or axis.get_title(loc="left") for axis in figure.axes)
    if name != "table":
        assert all(axis.get_xlabel() for axis in figure.axes)


def test_no_global_state_of_pyplot():
    FIGURES["eps"]()
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
    assert matplotlib.rcParams["figure.dpi"] == matplotlib.rcParamsDefault["figure.dpi"]


def test_the_comparison_names_targets_and_rows():
    words = texts(plots.comparison_bars(ROWS))
    assert "Unlearn accuracy\ntarget 94.49" in words
    assert "Avg. Gap\ntarget 0.00" in words
    assert "AMUN with $D_R$" in words
    assert "AMUN only $D_F$" in words
    assert "n = 27" in words


def test_bars_have_the_means_as_widths():
    axis = plots.comparison_bars(ROWS, ["forget_test_auc"]).axes[0]
    assert [bar.get_width() for bar in axis.patches] == [row["forget_test_auc"]["mean"] for row in ROWS]


def test_a_gap_far_beyond_that_of_doing_nothing_leaves_the_others_readable():
    worthless = result("boundary_shrink", "forget_only", 50, 50, 45, 55, 46)
    axis = plots.comparison_bars([*ROWS, worthless], ["average_gap"]).axes[0]
    assert [bar.get_width() for bar in axis.patches] == [4.6, 0.0, 2.06, 0.62, 1.94, 9.2]  # twice the original's gap
    assert [text.get_text().strip() for text in axis.texts[-2:]] == ["1.94", "46.00 \N{RIGHTWARDS ARROW}"]
    assert axis.get_xlim()[1] < 15


def test_a_long_name_fits_its_column():
    best = {**result("amun_without_forget", "retain", 95, 99, 93, 50, 0.5), "note": "least, reference"}
    figure = plots.results_table([*ROWS, best])
    FigureCanvasAgg(figure).draw()
    cell = figure.axes[0].tables[0][len(ROWS) + 1, 0]
    assert cell.get_text().get_window_extent().x1 <= cell.get_window_extent().x1


def test_the_table_holds_every_number_and_marks_the_best():
    figure = plots.results_table(ROWS)
    words = texts(figure)
    assert "95.45 ± 0.30" in words
    assert "AMUN only $D_F$ (n.s.)" in words
    cells = figure.axes[0].tables[0].get_celld()
    bold = {line for (line, _), cell in cells.items() if cell.get_text().get_weight() == "bold"}
    assert bold == {0, 4}  # the head and AMUN with D_R


def test_eps_bars_count_samples():
    figure = plots.eps_histogram(np.array([0.04, 0.04, 0.08, 0.0]), already_wrong=1)
    assert [bar.get_height() for bar in figure.axes[0].patches] == [2, 1]
    assert "3 samples" in texts(figure)
    assert "1 were wrong already" in texts(figure)


def test_nothing_flipped_is_still_a_figure():
    assert "0 samples" in texts(plots.eps_histogram(np.zeros(3), already_wrong=3))
    assert "3 at distance 0" in texts(plots.l2_histogram(np.zeros(3)))


def test_roc_prints_the_area():
    words = texts(plots.roc_curves({"sure": (np.array([0, 0, 100]), np.array([0, 100, 100]))}, title="T"))
    assert "sure: AUC 100.0 %" in words
    assert "random guess" in words


def test_a_curve_has_the_colour_that_its_method_has_in_every_figure():
    rows = {"Original": {"method": "original"}, "SalUn": {"method": "salun", "access": "retain"},
            "AMUN": {"method": "amun", "access": "forget_only"}, "Retrained": {"method": "retrain"}}
    (axis,) = plots.roc_curves({name: roc_of(0.5) for name in [*rows, "LiRA"]}, title="T", rows=rows).axes
    lines = {line.get_label().partition(":")[0]: line for line in axis.lines}
    styles = row_styles(rows.values())
    for name in ("SalUn", "AMUN"):
        assert lines[name].get_color() == styles[row_name(rows[name])]["color"]
    assert [lines[name].get_linestyle() for name in ("SalUn", "AMUN")] == ["-", "-."]
    assert (lines["Original"].get_color(), lines["Retrained"].get_color()) == ("0.55", "black")
    assert "LiRA" in lines


def test_trials_that_stopped_early_and_gaps_of_zero():
    rows = [
        {"method": "amun", "access": "retain", "gaps": [3.0, 0.0], "chosen": True},
        {"method": "mine:NEW", "access": "retain", "gaps": [2.0], "chosen": True},
    ]
    words = texts(plots.gap_against_epochs(rows))
    assert "mine:NEW with $D_R$, chosen trial" in words


def test_the_chosen_trial_is_marked_even_where_another_has_a_smaller_gap():
    rows = [{"method": "amun", "access": "retain", "lr": lr, "average_gap": gap, "gaps": [9.0, gap],
             "chosen": lr == 0.01} for lr, gap in ((0.1, 1.0), (0.01, 1.2), (0.001, 1.5))]
    (axis,) = plots.gap_against_lr(rows).axes
    assert axis.collections[-1].get_offsets().tolist() == [[0.01, 1.2]]
    (axis,) = plots.gap_against_epochs(rows).axes
    assert axis.lines[-1].get_ydata().tolist() == [9.0, 1.2]
    assert axis.collections[-1].get_offsets().tolist() == [[2, 1.2]]


def test_missing_or_broken_input_is_one_clear_error():
    with pytest.raises(UserError, match="no finished trial"):
        plots.gap_against_lr([])
    with pytest.raises(UserError, match="AMUN with .* lacks average_gap"):
        plots.results_table([{key: value for key, value in ROWS[3].items() if key != "average_gap"}])
    with pytest.raises(UserError, match="1 of 2 values of l2"):
        plots.l2_histogram(np.array([1.0, np.nan]))
    with pytest.raises(UserError, match="at least one row"):
        plots.comparison_bars([])


def test_a_method_looks_the_same_whatever_else_is_shown():
    amun, salun = {"method": "amun", "access": "retain"}, {"method": "salun", "access": "retain"}
    alone = {"method": "amun", "access": "forget_only"}
    styles = row_styles([salun, amun, alone])
    assert styles[row_name(amun)] == row_styles([amun])[row_name(amun)]
    assert styles[row_name(amun)]["color"] == styles[row_name(alone)]["color"] != styles[row_name(salun)]["color"]
    assert styles[row_name(amun)]["marker"] != styles[row_name(alone)]["marker"]
    every = [{"method": method, "access": access} for method in METHODS for access in ("retain", "forget_only")
             if method not in BASELINES]
    looks = [tuple(style.values()) for style in row_styles(every).values()]
    assert len(set(looks)) == len(looks) == len(every)


def test_many_panels_stand_in_two_rows():
    values = {"retain": np.arange(5.0), "forget": np.arange(4.0), "test": np.arange(3.0)}
    for count, rows in ((2, 1), (3, 1), (4, 2), (5, 2)):
        figure = plots.confidence_histograms({str(model): values for model in range(count)})
        assert len({round(axis.get_position().y0, 3) for axis in figure.axes}) == rows
        assert sum(axis.axison for axis in figure.axes) == count


@pytest.mark.parametrize(("values", "labels"), [((3, 40), {"2", "5", "10", "20", "50"}),
                                               ((1e-6, 0.1), {"0.0001", "0.01"})])
def test_a_log_axis_has_plain_numbers(values, labels):
    axis = panels(1)[1][0]
    axis.plot(values, values)
    axis.set_xscale("log")
    plain_log(axis.xaxis)
    axis.figure.canvas.draw()
    assert labels <= {label.get_text() for label in axis.get_xticklabels()}
