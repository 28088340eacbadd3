"""Distributions: a model's confidence on the three sets, and the size of the adversarial changes."""

from collections.abc import Mapping
from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from amun_ray.plots.style import COLOURS, SETS, TARGET, numbers, panels, plain_log

BINS = 60
SHOWN = (0.1, 99.9)  # percentiles of all values that bound the axis, since a few extremes would squeeze the rest


def confidence_histograms(models: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Logit-scaled confidence on D_R, D_F and D_T, a panel per model, with fitted normals.

    Args:
        models: title -> {"retain" | "forget" | "test": (N,) values of log(p / (1 - p))}, such as "Original", "AMUN with
            D_R" and "Retrained". After good unlearning the forget set looks like unseen data, as after retraining.

    Returns:
        Densities on shared axes.
    """
    values = {title: {key: numbers(sets[key], f"{title} {key}") for key in sets} for title, sets in models.items()}
    everything = np.concatenate([part for sets in values.values() for part in sets.values()])
    low, high = np.percentile(everything, SHOWN)
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    rows = 1 + (len(values) > 3)  # four panels side by side are too small where MLflow shows them
    figure, axes = panels(ceil(len(values) / rows), rows=rows, width=4.8, sharex=True, sharey=True)
    for axis in axes[len(values):]:
        axis.set_axis_off()
    for axis, (title, sets) in zip(axes, values.items(), strict=False):
        for key, part in sets.items():
            _density_with_normal(axis, part, edges, *SETS[key])
        axis.set(title=title, xlabel=r"confidence in the true class, $\log\,p/(1-p)$")
        axis.legend(fontsize=9, frameon=False, loc="upper left")
    figure.supylabel("density (lines: fitted normals)", fontsize=10)
    axes[0].set_ylim(top=1.35 * axes[0].get_ylim()[1])  # room for the legends
    figure.suptitle("Good: forgotten samples look like unseen ones", fontsize=11)
    return figure


def _density_with_normal(axis: Axes, values: np.ndarray, edges: np.ndarray, label: str, colour: str) -> None:
    mean, std = values.mean(), values.std()
    counts, _ = np.histogram(values, edges)
    density = counts / (len(values) * np.diff(edges))  # over all values, so that those off the axis still count
    axis.stairs(density, edges, fill=True, alpha=0.3, color=colour)
    name = f"{label}: {mean:.1f} ± {std:.1f}, n = {len(values):,}"
    if std == 0:
        axis.axvline(mean, color=colour, label=name)
        return
    x = np.linspace(edges[0], edges[-1], 400)
    axis.plot(x, np.exp(-(((x - mean) / std) ** 2) / 2) / (std * np.sqrt(2 * np.pi)), color=colour, label=name)


def eps_histogram(eps: np.ndarray, *, already_wrong: int = 0, failed: int = 0) -> Figure:
    """How many samples were flipped at each search radius.

    Args:
        eps: (N,) radius in pixel units at which the search flipped each sample, > 0. The search doubles it, so there
            are few distinct values, and each gets a bar; more than 16 are binned on the log axis.
        already_wrong: samples that needed no attack, for the caption.
        failed: samples that could not be flipped, for the caption.
    """
    eps = numbers(eps, "eps")
    eps = eps[eps > 0]
    figure, (axis,) = panels(1, width=6.4)
    values, counts = np.unique(eps.astype(np.float32), return_counts=True)
    if len(values) <= 16:
        bars = axis.bar(range(len(values)), counts, color=COLOURS[0])
        axis.bar_label(bars, [f"{count:,}" for count in counts], fontsize=8)
        axis.set_xticks(range(len(values)), [f"{value:.3g}" for value in values])
    else:
        axis.hist(eps, np.geomspace(eps.min(), eps.max(), BINS // 2).tolist(), color=COLOURS[0])
        axis.set_xscale("log")
        plain_log(axis.xaxis)
    axis.set(
        title=f"Search radius that flipped the label: {len(eps):,} samples\n"
        f"({already_wrong:,} were wrong already, {failed:,} could not be flipped)",
        xlabel=r"final $\epsilon$ (L2, pixel units in [0, 1])",
        ylabel="samples",
    )
    return figure


def l2_histogram(l2: np.ndarray) -> Figure:
    """Distance (N,) of each adversarial image from its clean image, pixel units; zeros (already wrong) are counted."""
    l2 = numbers(l2, "l2")
    moved = l2[l2 > 0]
    figure, (axis,) = panels(1, width=6.4)
    if moved.size:
        axis.hist(moved, BINS, color=COLOURS[0])
        for quantile, height in ((0.5, 0.95), (0.95, 0.85)):
            at = float(np.quantile(moved, quantile))
            axis.axvline(at, **TARGET)
            axis.text(at, height, f" {quantile:.0%} below {at:.3g}", transform=axis.get_xaxis_transform(), fontsize=8)
    axis.set(
        title=f"How far the {len(moved):,} adversarial images moved\n"
        f"({len(l2) - len(moved):,} at distance 0: wrong already)",
        xlabel="L2 distance from the clean image (pixel units in [0, 1])",
        ylabel="samples",
    )
    return figure
