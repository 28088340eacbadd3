"""Tables and arrays in, figures out. Each figure says in its title what to look for, and marks the target."""

from amun_ray.plots.comparison import comparison_bars, results_table
from amun_ray.plots.histograms import confidence_histograms, eps_histogram, l2_histogram
from amun_ray.plots.roc import roc_curves
from amun_ray.plots.search import GAP, IAM, PROXY, gap_against_epochs, gap_against_lr, pareto_front, trade_off
from amun_ray.plots.studies import bars, confidence_violins, curves, maps, paired
from amun_ray.plots.style import mean_and_std, png, row_name

__all__ = [
    "GAP",
    "IAM",
    "PROXY",
    "bars",
    "comparison_bars",
    "confidence_histograms",
    "confidence_violins",
    "curves",
    "eps_histogram",
    "gap_against_epochs",
    "gap_against_lr",
    "l2_histogram",
    "maps",
    "mean_and_std",
    "paired",
    "pareto_front",
    "png",
    "results_table",
    "roc_curves",
    "row_name",
    "trade_off",
]
