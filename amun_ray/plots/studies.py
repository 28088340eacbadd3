"""The figures of studies: violins, one number against another, lines, and bars."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from amun_ray.plots.style import COLOURS, SETS, TARGET, numbers, panels, plain_log

DOTS = 5000  # most that are drawn


def confidence_violins(models: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """The same values as in `confidence_histograms`, a violin for each set of each model; the line is the median."""
    figure, (axis,) = panels(1, width=2.2 + 1.1 * len(models), height=4.2)
    for place, (key, (label, colour)) in enumerate(SETS.items()):
        at = [4 * number + place for number in range(len(models))]
        values = [numbers(sets[key], f"{title} {key}") for title, sets in models.items()]
        drawn: dict[str, Any] = axis.violinplot(values, at, widths=0.9, showmedians=True, showextrema=False)
        for body in (*drawn["bodies"], drawn["cmedians"]):
            body.set_color(colour)
        axis.plot([], [], color=colour, linewidth=6, alpha=0.4, label=label)
    axis.set_xticks([4 * number + 1 for number in range(len(models))], list(models), rotation=30, ha="right")
    axis.set(ylabel=r"confidence in the true class, $\log\,p/(1-p)$",
             title="Good: forgotten samples look like unseen ones")
    axis.legend(fontsize=9, frameon=False)
    return figure


def paired(distances: Mapping[str, np.ndarray], shown: np.ndarray) -> Figure:
    """Two distances (n,) of each image, one against the other, where `shown` (n,) bool; below the dashed line the
    second is less."""
    (first, x), (second, y) = ((name, numbers(values[shown], name)) for name, values in distances.items())
    figure, (axis,) = panels(1, width=5.2, height=5.0)
    some = slice(None, None, max(1, len(x) // DOTS))
    axis.scatter(x[some], y[some], s=6, alpha=0.4, color=COLOURS[0], linewidths=0)
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    axis.plot(ends, ends, **TARGET)
    axis.set(xlabel=f"L2 distance by {first} (pixel units)", ylabel=f"L2 distance by {second} (pixel units)",
             title=f"{len(x):,} images; {second} is nearer on {100 * (y < x).mean():.0f} %")
    return figure


def curves(panels_: Mapping[str, Mapping[str, Sequence[float]]], *, x: Mapping[str, Sequence[float]] | None = None,
           xlabel: str, ylabel: str, title: str, log: bool = False) -> Figure:
    """Lines by name, a panel for each title; `x`: the places of a panel's points, 1, 2, ... if not given."""
    figure, axes = panels(len(panels_), width=4.6, height=3.8, sharey=True)
    for axis, (heading, lines) in zip(axes, panels_.items(), strict=True):
        for place, (name, values) in enumerate(lines.items()):
            at = range(1, len(values) + 1) if x is None else x[heading]
            axis.plot(at, numbers(values, name), marker="o", markersize=3, label=name,
                      color=COLOURS[place % len(COLOURS)], linestyle=("-", "--")[place // len(COLOURS) % 2])
        axis.set(title=heading, xlabel=xlabel)
        if log:
            axis.set_xscale("log")
            plain_log(axis.xaxis)
        else:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.legend(fontsize=8, frameon=False)
    axes[0].set_ylabel(ylabel)
    figure.suptitle(title, fontsize=11)
    return figure


def bars(groups: Mapping[str, Mapping[str, float]], *, ylabel: str, title: str) -> Figure:
    """A group of bars for each name, one for each of the same keys; below 0 they hang."""
    keys = list(next(iter(groups.values())))
    figure, (axis,) = panels(1, width=2.4 + 1.5 * len(groups), height=4.0)
    width = 0.8 / len(keys)
    for place, key in enumerate(keys):
        at = [number + (place - (len(keys) - 1) / 2) * width for number in range(len(groups))]
        axis.bar(at, numbers([group[key] for group in groups.values()], key), width, label=key,
                 color=COLOURS[place % len(COLOURS)])
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks(range(len(groups)), list(groups))
    axis.set_ylabel(ylabel)
    axis.set_title(title, loc="left", fontsize=10)
    axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    return figure


def maps(picture: np.ndarray, found: Mapping[str, np.ndarray]) -> Figure:
    """A picture (C, H, W) in [0, 1], and beside it a map (H, W) of each model, each on a scale of its own."""
    figure, axes = panels(1 + len(found), width=1.9, height=2.2)
    axes[0].imshow(picture.transpose(1, 2, 0) if len(picture) == 3 else picture[0], cmap="gray", vmin=0, vmax=1)
    axes[0].set_title("forgotten", fontsize=8)
    for axis, (name, values) in zip(axes[1:], found.items(), strict=True):
        axis.imshow(values, cmap="magma")
        axis.set_title(name, fontsize=8)
    for axis in axes:
        axis.set_axis_off()
    figure.suptitle("Where the loss depends on the pixels: size of its gradient", fontsize=9)
    return figure
