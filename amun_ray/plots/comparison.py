"""The final comparison, as bars and as a table: every method next to the retrained model, the target."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator
from matplotlib.transforms import Bbox

from amun_ray.base.errors import UserError
from amun_ray.plots.style import METRICS, TARGET, mean_and_std, method_colour, panels, row_name

SHOWN = ("unlearn_accuracy", "retain_accuracy", "test_accuracy", "forget_test_auc", "average_gap")
RETRAINED, ORIGINAL = "retrain", "original"
WORTHLESS = 2  # times the gap of doing nothing: how much worse a method is than that matters no more


def comparison_bars(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str] = SHOWN) -> Figure:
    """A panel per metric, a bar per method: mean, and std over originals x forget sets x runs.

    Args:
        rows: as in results.json: `method`, `access`, and for each metric `{"mean", "std", "n"}` in percent. Optional
            `{"low", "high", "level"}` (an interval at that level) replaces the std. The row with method "retrain" sets
            the target lines; Avg. Gaps beyond WORTHLESS times that of the row "original" are cut off, and say so.
        metrics: the panels, from left to right.

    Raises:
        UserError: no rows, or a row without one of the metrics.
    """
    _check(rows, metrics)
    target, nothing = (next((row for row in rows if row["method"] == name), None) for name in (RETRAINED, ORIGINAL))
    figure, axes = panels(len(metrics), width=2.5, height=1.6 + 0.36 * len(rows), sharey=True)
    for axis, metric in zip(axes, metrics, strict=True):
        cut = inf if nothing is None or metric != "average_gap" else WORTHLESS * nothing[metric]["mean"]
        for i, row in enumerate(rows):
            _bar(axis, i, row, row[metric], cut)
        goal: float | None = None if target is None else target[metric]["mean"]
        goal = 0.0 if metric == "average_gap" else goal
        if goal is not None:
            axis.axvline(goal, **TARGET)
        axis.set_title(METRICS.get(metric, metric) + ("" if goal is None else f"\ntarget {goal:.2f}"), fontsize=10)
        axis.set_xlabel("points" if metric == "average_gap" else "%")
        _limits(axis, [row[metric] for row in rows], goal, cut)
    axes[0].set_yticks(range(len(rows)), [row_name(row) for row in rows])
    axes[0].set_ylim(len(rows) - 0.4, -0.6)  # the first row on top
    spread = _spread([row[metric] for row in rows for metric in metrics])
    words = ("Near the dashed target is good;", f"bars: mean, lines: {spread} ({_runs(rows)})")
    figure.suptitle(("\n" if len(metrics) < 3 else " ").join(words), fontsize=11)
    return figure


def _spread(values: Sequence[Mapping[str, float]]) -> str:
    """What the lines show: `95 % interval`, `84 to 95 % interval` or `std`."""
    if not all("level" in value for value in values):
        return "std"
    levels = sorted({f"{100 * value['level']:.0f}" for value in values})
    return f"{' to '.join(dict.fromkeys((levels[0], levels[-1])))} % interval"


def results_table(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str] = SHOWN) -> Figure:
    """The same numbers as a table, mean ± std; the retrained row (the target) is shaded, the smallest Avg. Gap bold.

    `rows` as in `comparison_bars`; a row may have a `note`, such as "unchanged" or "n.s.", shown after its name.
    """
    _check(rows, metrics)
    names = [row_name(row) + (f" ({row['note']})" if row.get("note") else "") for row in rows]
    name, number = max(2.4, 0.08 * max(map(len, names))), 1.5  # inches
    figure, (axis,) = panels(1, width=name + number * len(metrics), height=0.9 + 0.3 * (len(rows) + 1))
    axis.set_axis_off()
    cells = [[name, *(mean_and_std(row[metric]) for metric in metrics)] for name, row in zip(names, rows, strict=True)]
    head = ["Method", *(f"{METRICS.get(m, m)}\n({'points' if m == 'average_gap' else '%'})" for m in metrics)]
    widths = [name, *[number] * len(metrics)]
    table = axis.table(cells, colLabels=head, colWidths=widths, bbox=Bbox.unit(), cellLoc="center")
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    best = _best(rows)
    for (line, column), cell in table.get_celld().items():
        cell.set_edgecolor("0.8")
        if column == 0:
            cell.set_text_props(ha="left")
        if line == 0 or line - 1 == best:
            cell.set_text_props(weight="bold")
        if line > 0 and rows[line - 1]["method"] == RETRAINED:
            cell.set_facecolor("0.9")
    axis.set_title(f"Mean ± std ({_runs(rows)}); target: the shaded row, Avg. Gap 0; bold: least Avg. Gap", fontsize=10)
    return figure


def _bar(axis: Axes, place: int, row: Mapping[str, Any], value: Mapping[str, float], cut: float) -> None:
    baseline, alone = row["method"] in (RETRAINED, ORIGINAL), row.get("access") == "forget_only"
    mean = value["mean"]
    low, high = value.get("low", mean - value["std"]), value.get("high", mean + value["std"])
    axis.barh(place, min(mean, cut), color="0.75" if baseline else method_colour(row["method"]), height=0.72,
              alpha=0.55 if alone else 1)  # paler without D_R
    axis.plot([min(low, cut), min(high, cut)], [place, place], color="black", linewidth=1.2)
    paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
    beyond = " \N{RIGHTWARDS ARROW}" if max(mean, high) > cut else ""
    axis.text(min(max(mean, high), cut), place, f" {mean:.2f}{beyond}", va="center", fontsize=8, bbox=paper)


def _limits(axis: Axes, values: Sequence[Mapping[str, float]], goal: float | None, cut: float) -> None:
    """Start the axis at a multiple of 10 below all values, and say so: accuracies near 100 differ by a few points.
    It ends at `cut` where values lie beyond."""
    ends = [] if goal is None else [goal]
    for value in values:
        ends += [value.get("low", value["mean"] - value["std"]), value.get("high", value["mean"] + value["std"])]
    start, stop = max(0.0, 10 * ((min(ends) - 1) // 10)), min(max(ends), cut)
    axis.set_xlim(start, start + 1.45 * max(stop - start, 1e-6))  # space for the numbers
    ticks = MaxNLocator(3, integer=stop - start > 3).tick_values(start, stop)
    axis.xaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick <= 100]))
    if start:
        axis.set_xlabel(f"{axis.get_xlabel()} (axis from {start:g})")


def _best(rows: Sequence[Mapping[str, Any]]) -> int | None:
    judged = [i for i, row in enumerate(rows) if row["method"] not in (RETRAINED, ORIGINAL) and "average_gap" in row]
    return min(judged, key=lambda i: rows[i]["average_gap"]["mean"], default=None)


def _runs(rows: Sequence[Mapping[str, Any]]) -> str:
    counts = sorted({row[metric]["n"] for row in rows for metric in METRICS if metric in row})
    return f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"


def _check(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> None:
    if not rows or not metrics:
        raise UserError("figure: the comparison needs at least one row and one metric")
    for row in rows:
        missing = [metric for metric in metrics if metric not in row]
        if missing:
            raise UserError(f"figure: the row of {row_name(row)} lacks {', '.join(missing)}")
