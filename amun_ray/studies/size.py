"""How much is forgotten at once: Avg. Gap for forget sets of 1 % to 50 %, by the settings found for the sweep's own.

Cost: for each size and original a retrained model, an adversarial set, and the final runs of every method.
"""

from dataclasses import replace

from amun_ray import plots
from amun_ray.data.splits import random_forget_sets
from amun_ray.reporting.finding import Finding
from amun_ray.stages.adversaries import adversarial_sets
from amun_ray.stages.again import unlearned_again
from amun_ray.stages.originals import train_models
from amun_ray.studies.done import Done, gap, named, row
from amun_ray.work.trainings import retrained_trainings
from amun_ray.work.units import ForgetCase, Target, Unlearned

SAYS = ("Avg. Gap of one random forget set of each size, over originals and runs, with the settings that the search "
        "found for the sweep's own size. Its interval, where there is one, is over originals.")
SIZES = (0.01, 0.05, 0.1, 0.2, 0.5)


def study(done: Done) -> Finding:
    """Every method at every size; the largest set leaves no room for a held-out one beside it, and needs none."""
    experiment, plan = done.experiment, done.plan
    made: dict[float, list[Unlearned]] = {}
    for size in SIZES:
        name = f"size {size:g}"
        rows = random_forget_sets(plan.dataset.train_size, size, sets=1, held_out=1, seed=plan.sweep.seed).final[0]
        cases = [ForgetCase(original, name, rows) for original in range(len(done.models.originals))]
        trainings = retrained_trainings(done.workspace, name, rows, len(cases))
        retrained = train_models(done.workspace, trainings, experiment.options)
        targets = [Target(done.models.originals[case.original], name, rows) for case in cases]
        sets = adversarial_sets(done.workspace, targets, experiment.options, experiment.workers)
        made[size] = unlearned_again(
            experiment, replace(done.models, retrained={name: list(retrained)}),
            {case.key: one for case, one in zip(cases, sets, strict=True)}, done.settings, cases=cases)
    by_method = {contender: {size: [one for one in runs if one.run.contender == contender]
                             for size, runs in made.items()} for contender in done.settings}
    table = [[named(contender), *(gap(runs) for runs in sizes.values())] for contender, sizes in by_method.items()]
    drawn = {named(contender): [row(runs).summary["average_gap"].mean for runs in sizes.values()]
             for contender, sizes in by_method.items() if all(row(runs).failed is None for runs in sizes.values())}
    return Finding("size", SAYS, ["method", *(f"{size:.0%}" for size in SIZES)], table, {
        "size": plots.png(plots.curves({"size of D_F": drawn}, x={"size of D_F": [100 * size for size in SIZES]},
                                       xlabel="share of the training images (%)", ylabel=plots.GAP, log=True,
                                       title="Avg. Gap by what is forgotten at once"))} if drawn else {})
