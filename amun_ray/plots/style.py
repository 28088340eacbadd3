"""What all figures share: names, colours, sizes, and PNG output. No pyplot, so no state between figures."""

from collections.abc import Iterable, Mapping
from io import BytesIO
from typing import Any
from zlib import crc32

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from amun_ray.base.errors import UserError

# Okabe and Ito's palette, distinguishable with all common forms of colour blindness. Black and grey mark the targets.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F5539", "#8E6FBF")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
TARGET: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1.2}

SETS = {
    "retain": ("retain $D_R$", COLOURS[0]),
    "forget": ("forget $D_F$", COLOURS[1]),
    "test": ("unseen $D_T$", COLOURS[2]),
}
METRICS = {
    "unlearn_accuracy": "Unlearn accuracy",
    "retain_accuracy": "Retain accuracy",
    "test_accuracy": "Test accuracy",
    "forgotten_test_accuracy": "Class Test accuracy",
    "forget_test_auc": "FT AUC",
    "average_gap": "Avg. Gap",
    "mis": "MIS",
    "forget_retain_auc": "FR AUC",
    "retain_test_auc": "RT AUC",
    "robust_accuracy": "Robust accuracy",
}
METHODS = {
    "original": "Original",
    "retrain": "Retrained",
    "finetune": "Fine-tune",
    "random_label": "Random label",
    "gradient_ascent": "Gradient ascent",
    "boundary_shrink": "Boundary shrink",
    "l1_sparse": "l1-sparse",
    "salun": "SalUn",
    "amun": "AMUN",
    "amun_salun": "AMUN + SalUn",
    "amun_without_forget": "AMUN, no $D_F$",
    "certified": "Certified",
    "neggrad_plus": "NegGrad+",
    "scrub": "SCRUB",
    "amun_soft": "AMUN, soft labels",
    "weight_distortion": "Weight distortion",
    "convolution_transpose": "Conv. transpose",
    "sfr_on": "SFR-on",
    "lotus": "LoTUS",
}
ACCESS = {"retain": "with $D_R$", "forget_only": "only $D_F$"}
BASELINES = ("original", "retrain")  # rows that no access applies to


def row_name(row: Mapping[str, Any], separator: str = " ") -> str:
    """`AMUN with $D_R$` for a row with `method` and `access`; names that are not in the tables are kept."""
    method = METHODS.get(row["method"], row["method"])
    access = row.get("access")
    if row["method"] in BASELINES or not access:
        return method
    return f"{method}{separator}{ACCESS.get(access, access)}"


def mean_and_std(summary: Mapping[str, float]) -> str:
    """`mean ± std` of an entry of results.json, both with two decimals."""
    return f"{summary['mean']:.2f} ± {summary['std']:.2f}"


def row_styles(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """A colour and a marker for every distinct row name, the same for a method and access in every figure."""
    return {row_name(row): {"color": method_colour(row["method"]), "marker": _marker(row)} for row in rows}


def method_colour(method: str) -> str:
    """The colour of a method, whatever else is shown; methods that share a colour differ in their markers."""
    return COLOURS[_place(method) % len(COLOURS)]


def line_style(row: Mapping[str, Any]) -> dict[str, Any]:
    """How a row's curve looks: the method's colour, dash-dotted with only D_F; the baselines are grey and black."""
    if row["method"] in BASELINES:
        return {"color": {"original": "0.55", "retrain": "black"}[row["method"]]}
    return {"color": method_colour(row["method"]), "linestyle": "-." if row.get("access") == "forget_only" else "-"}


def _marker(row: Mapping[str, Any]) -> str:
    """One marker for each access, from a pair that depends on how often the colours have been cycled through."""
    pair = 2 * (_place(row["method"]) // len(COLOURS)) + (row.get("access") == "forget_only")
    return MARKERS[pair % len(MARKERS)]


def _place(method: str) -> int:
    known = [name for name in METHODS if name not in BASELINES]
    return known.index(method) if method in known else crc32(method.encode()) % (len(MARKERS) // 2 * len(COLOURS))


def panels(columns: int, *, rows: int = 1, width: float = 4.2, height: float = 3.6,
           **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure with `rows` x `columns` panels, each `width` x `height` inches, without top and right spines."""
    figure = Figure(figsize=(width * columns, height * rows), dpi=150, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).ravel())
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def plain_log(axis: Axis) -> None:
    """Label a logarithmic axis the usual way: 2, 5, 10, and only powers of ten if it is long."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def numbers(values: Any, name: str) -> np.ndarray:
    """`values` as a flat float array; UserError unless there is at least one and all are finite."""
    array = np.asarray(values, dtype=np.float64).ravel()
    if array.size == 0:
        raise UserError(f"figure: {name} holds no values")
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise UserError(f"figure: {bad} of {array.size} values of {name} are not finite")
    return array
