"""What the hyper-parameter search found: one point or line per trial."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from amun_ray.base.errors import UserError
from amun_ray.plots.style import TARGET, numbers, panels, plain_log, row_name, row_styles

Trial = Mapping[str, Any]
GAP = "Avg. Gap to retrained (points, lower is better)"
IAM = "IAM difference to unseen and test accuracy lost (mean, points, lower is better)"
PROXY = "|FT AUC - 50| and test accuracy lost (mean, points, lower is better)"


def gap_against_lr(trials: Sequence[Trial], *, label: str = GAP) -> Figure:
    """Avg. Gap of each trial at its best epoch count against its learning rate.

    Args:
        trials: each with `method`, `access`, `lr`, `average_gap` (percentage points) and `chosen`, whether its settings
            go to the finals.
        label: axis label, for a search by another number than Avg. Gap.
    """
    groups = _grouped(trials)
    styles = row_styles(trials)
    figure, (axis,) = panels(1, width=7.2, height=4.2)
    for name, group in groups.items():
        lr, gap = numbers([t["lr"] for t in group], "lr"), numbers([t["average_gap"] for t in group], "average_gap")
        axis.scatter(lr, gap, label=name, alpha=0.75, s=28, **styles[name])
        _ring(axis, lr, gap, group, styles[name]["color"])
    axis.set(xscale="log", xlabel="learning rate (log scale)", ylabel=label)
    axis.set_title(f"Search on held-out forget sets: {len(trials)} trials (ring: the chosen one)", loc="left")
    plain_log(axis.xaxis)
    _gap_axis(axis)
    _legend(axis)
    return figure


def gap_against_epochs(trials: Sequence[Trial], *, label: str = GAP) -> Figure:
    """Avg. Gap after each epoch: every trial as a thin line, the chosen trial of each method as a thick one.

    Args:
        trials: each with `method`, `access`, `chosen` and `gaps`, its Avg. Gap (points) after epoch 1, 2, ...; the
            lengths differ if trials were stopped early.
        label: axis label, for a search by another number than Avg. Gap.
    """
    groups = _grouped(trials)
    styles = row_styles(trials)
    figure, (axis,) = panels(1, width=7.2, height=4.2)
    for name, group in groups.items():
        curves = [numbers(trial["gaps"], f"gaps of {name}") for trial in group]
        for curve in curves:
            axis.plot(range(1, len(curve) + 1), curve, color=styles[name]["color"], alpha=0.2, linewidth=0.8)
        for curve in [curve for curve, trial in zip(curves, group, strict=True) if trial["chosen"]]:
            axis.plot(range(1, len(curve) + 1), curve, linewidth=2.2, markersize=4, label=f"{name}, chosen trial",
                      **styles[name])
            at = int(curve.argmin())
            axis.scatter(at + 1, curve[at], s=150, facecolors="none", edgecolors=styles[name]["color"], linewidths=1.5)
    axis.set(xlabel="epochs of unlearning", ylabel=label)
    axis.set_title("Score on held-out forget sets by epoch (ring: the chosen one)", loc="left")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _gap_axis(axis)
    _legend(axis)
    return figure


def pareto_front(trials: Sequence[Trial]) -> Figure:
    """The trials that no other trial of the method beats in both objectives; the chosen ones are ringed.

    Args:
        trials: each with `method`, `access`, `average_gap` and `proxy` (percentage points), and `chosen`.
    """
    styles = row_styles(trials)
    figure, (axis,) = panels(1, width=7.2, height=4.2)
    for name, group in _grouped(trials).items():
        group = sorted(group, key=lambda trial: trial["average_gap"])
        gap, proxy = (numbers([trial[key] for trial in group], key) for key in ("average_gap", "proxy"))
        axis.plot(gap, proxy, linewidth=1, label=name, **styles[name])
        _ring(axis, gap, proxy, group, styles[name]["color"])
    axis.set(xlabel=GAP, ylabel=PROXY.replace(" (mean", "\n(mean"), xlim=(0, None), ylim=(0, None))
    axis.set_title("Pareto front of each search (ring: the least mean of both, which is chosen)", loc="left")
    _legend(axis)
    return figure


def trade_off(trials: Sequence[Trial], *, original: Mapping[str, float], retrained: Mapping[str, float]) -> Figure:
    """Utility against privacy of every trial: drop of test accuracy and distance of FT AUC from 50.

    Args:
        trials: each with `method`, `access`, `test_accuracy` and `forget_test_auc`, in percent.
        original: the same two numbers of the original model, where the drop is 0: doing nothing ends there.
        retrained: the same for the retrained model, the target.
    """
    styles = row_styles(trials)

    def place(row: Mapping[str, float]) -> tuple[float, float]:
        return original["test_accuracy"] - row["test_accuracy"], abs(row["forget_test_auc"] - 50)

    figure, (axis,) = panels(1, width=7.2, height=4.6)
    axis.axhline(place(retrained)[1], **TARGET, zorder=1)
    axis.axvline(place(retrained)[0], **TARGET, zorder=1)
    for name, group in _grouped(trials).items():
        points = np.array([place(trial) for trial in group])
        numbers(points, name)
        axis.scatter(points[:, 0], points[:, 1], label=name, alpha=0.75, s=28, **styles[name])
    axis.scatter(*place(original), marker="X", s=110, color="grey", edgecolors="white", label="Original: did nothing")
    axis.scatter(*place(retrained), marker="*", s=220, color="black", edgecolors="white", label="Retrained: the target")
    axis.set(
        xlabel="drop of test accuracy from the original (points; left is better)",
        ylabel="|FT AUC - 50| (points; lower is better)",
    )
    axis.set_title(f"Utility against privacy of {len(trials)} trials (good: near the star)", loc="left")
    _legend(axis)
    return figure


def _grouped(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    if not trials:
        raise UserError("figure: the search has no finished trial to show")
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(row_name(trial), []).append(trial)
    return groups


def _ring(axis: Axes, x: np.ndarray, y: np.ndarray, group: Sequence[Trial], colour: str) -> None:
    """A ring around the chosen trials of `group`, which stand at `x` and `y`."""
    chosen = [place for place, trial in enumerate(group) if trial["chosen"]]
    axis.scatter(x[chosen], y[chosen], s=150, facecolors="none", edgecolors=colour, linewidths=1.5)


def _gap_axis(axis: Axes) -> None:
    """A log axis if the gaps span more than a factor of 30, as they do once some trials destroy the model."""
    low, high = axis.dataLim.intervaly
    if low > 0 and high / low > 30:
        axis.set_yscale("log")
        plain_log(axis.yaxis)
    else:
        axis.set_ylim(bottom=0)


def _legend(axis: Axes) -> None:
    axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
