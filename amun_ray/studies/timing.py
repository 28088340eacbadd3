"""What every method costs, its attack, search and references included (the timing table), and Avg. Gap by epochs.

Cost: none; all of it was measured while the sweep made it, by whichever start of it.
"""

from collections.abc import Mapping

import numpy as np

from amun_ray import plots
from amun_ray.reporting.finding import Finding
from amun_ray.studies.done import Done, gap, named
from amun_ray.studies.sensitivity import by_epoch
from amun_ray.unlearn import Contender, find
from amun_ray.work.units import Unlearned

SAYS = ("seconds of a worker for one forget set of one original. Unlearn: the run itself with its mask, not scored; "
        "attack: D_A of the set; search: all trials of the method, once for all sets; references: those of RMIA, by "
        "which the search judges, once for all methods. The row retrain is one training. Workers of this cluster: ")
HEAD = ["method", "unlearn", "attack", "unlearn and attack", "of retraining (%)", "search", "references", "Avg. Gap"]


def study(done: Done) -> Finding:
    """A row for each method, and retraining."""
    seconds = {case.key: done.sets[case.key].seconds for case in done.plan.final}
    retrain = float(np.mean([model.seconds for models in done.models.retrained.values() for model in models]))
    references = sum(model.seconds for model in done.models.references)
    search: dict[Contender, float] = {}
    for trial in done.experiment.trials:
        search[trial.contender] = search.get(trial.contender, 0.0) + trial.result.get("seconds", 0.0)
    runs = {contender: [one for one in done.sound if one.run.contender == contender] for contender in done.settings}
    table = [["retrain", f"{retrain:.2f}", "", f"{retrain:.2f}", "100.0", "", "", ""]]
    table += [line(contender, made, seconds, retrain, search.get(contender, 0.0), references)
              for contender, made in runs.items() if made]
    return Finding("timing", f"{SAYS}{done.experiment.options}, {done.experiment.cluster}.", HEAD, table, {
        "timing_epochs": plots.png(plots.curves({"all final models": by_epoch(done.sound)}, xlabel="epochs",
                                                ylabel=plots.GAP, title="Avg. Gap after each epoch"))})


def line(contender: Contender, made: list[Unlearned], attack: Mapping[tuple[int, str], float], retrain: float,
         search: float, references: float) -> list[str]:
    """The row of a method, of runs that did not fail."""
    own = float(np.mean([one.result["cost"]["seconds"] for one in made]))
    needs = find(contender.method).needs_adversarial
    crafted = float(np.mean([attack[one.run.case.key] for one in made])) if needs else 0.0
    return [named(contender), f"{own:.2f}", f"{crafted:.2f}" if needs else "", f"{own + crafted:.2f}",
            f"{100 * (own + crafted) / retrain:.1f}", f"{search:.1f}", f"{references:.1f}", gap(made)]
