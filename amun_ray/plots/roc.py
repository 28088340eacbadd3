"""ROC curves of membership inference on log axes, which show an attack's few confident hits."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from amun_ray.plots.style import COLOURS, TARGET, line_style, numbers, panels


def roc_curves(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], *, title: str,
               rows: Mapping[str, Mapping[str, Any]] | None = None) -> Figure:
    """The `curves`, name -> `(fpr, tpr)` in percent as returned by `metrics.roc`, and the random guess.

    `rows`: the method and access of a name, whose colour its curve has; other names have colours of their own.

    The title names the two sets, such as "RMIA: forgotten against unseen samples".
    """
    points = {name: (numbers(fpr, name), numbers(tpr, name)) for name, (fpr, tpr) in curves.items()}
    # Rates below one sample cannot occur; the axes start at the smallest rate that does, but not below 0.01 %.
    positive = np.concatenate([rates[rates > 0] for pair in points.values() for rates in pair])
    floor = float(np.clip(positive.min(), 0.01, 10.0))
    figure, (axis,) = panels(1, width=5.6, height=5.2)
    known = rows or {}
    for i, (name, (fpr, tpr)) in enumerate(points.items()):
        area = float((np.diff(fpr) * (tpr[1:] + tpr[:-1])).sum()) / 200  # trapezoids, in percent
        style = line_style(known[name]) if name in known else {
            "color": COLOURS[i % len(COLOURS)], "linestyle": ("-", "-.")[i // len(COLOURS) % 2]}
        shown = np.maximum(fpr, floor), np.maximum(tpr, floor)
        axis.plot(*shown, drawstyle="steps-post", label=f"{name}: AUC {area:.1f} %", **style)
    axis.plot([floor, 100], [floor, 100], label="random guess: AUC 50 %, the ideal for FT", **TARGET)
    axis.set(
        title=title,
        xlabel="false positive rate (%): called members, but not",
        ylabel="true positive rate (%): members found",
        xscale="log",
        yscale="log",
        xlim=(floor, 100),
        ylim=(floor, 100),
    )
    for scale in (axis.xaxis, axis.yaxis):
        scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.legend(fontsize=8, frameon=False, loc="lower right")
    return figure
