"""How sure the models are of D_R, D_F and D_T, before and after: histograms, and the violins of the rebuttal.

Cost, on the driver: one pass over the stored predictions of every final model.
"""

import numpy as np

from amun_ray import plots
from amun_ray.metrics import Split, logit_scaled
from amun_ray.reporting.finding import Finding
from amun_ray.studies.done import Done, named
from amun_ray.work.artifacts import read_logits

SAYS = ("the logit-scaled confidence log p / (1 - p) of the true class, mean over images, and how far D_F is from D_T "
        "and from D_R: the largest difference of the two distribution functions (Kolmogorov and Smirnov), in percent, "
        "mean over cases. A model that has forgotten has D_F where D_T is.")
Parts = dict[str, np.ndarray]  # "retain", "forget", "test" -> (n,)


def study(done: Done) -> Finding:
    """Every contender by its first run of each final case, beside the originals and the retrained models."""
    workspace, models = done.workspace, done.models
    read: dict[str, list[Parts]] = {}

    def add(title: str, name: str, logits: np.ndarray) -> None:
        read.setdefault(title, []).append(parts(logit_scaled(logits, done.labels), done.splits[name]))

    for case in done.plan.final:
        for title, model in (("original", models.originals[case.original]),
                             ("retrain", models.retrained[case.name][case.original])):
            add(title, case.name, read_logits(workspace, model.unit, model.name))
    for made in done.sound:
        if made.run.number == 0:
            add(named(made.run.contender), made.run.case.name,
                read_logits(workspace, made.run.unit, str(made.run.contender)))
    pooled = {title: {part: np.concatenate([one[part] for one in cases]) for part in cases[0]}
              for title, cases in read.items()}
    return Finding("confidence", SAYS, ["model", "D_R", "D_F", "D_T", "D_F to D_T (%)", "D_F to D_R (%)"],
                   [line(title, cases) for title, cases in read.items()],
                   {"confidence_histograms": plots.png(plots.confidence_histograms(pooled)),
                    "confidence_violins": plots.png(plots.confidence_violins(pooled))})


def parts(values: np.ndarray, split: Split) -> Parts:
    """The values (N,) of the samples of each set."""
    return {"retain": values[split.retain], "forget": values[split.forget], "test": values[split.unseen]}


def line(title: str, cases: list[Parts]) -> list[str]:
    """The row of a model in the table."""
    means = [f"{np.mean([one[part].mean() for one in cases]):.2f}" for part in ("retain", "forget", "test")]
    apart = [f"{np.mean([distance(one['forget'], one[other]) for one in cases]):.1f}" for other in ("test", "retain")]
    return [title, *means, *apart]


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """The statistic of Kolmogorov and Smirnov of two samples, in percent."""
    at = np.concatenate([first, second])
    shares = [np.searchsorted(np.sort(one), at, side="right") / len(one) for one in (first, second)]
    return 100 * float(np.abs(shares[0] - shares[1]).max())
