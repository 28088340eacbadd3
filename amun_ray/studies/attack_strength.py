"""How much the attack matters: cost, distance and Avg. Gap of each (the appendix's table), by settings found before.

Cost: for each attack the adversarial sets of the final cases, and the final runs of every method that uses them.
"""

from collections.abc import Mapping
from typing import Any

from amun_ray import plots
from amun_ray.attacks import AttackSettings
from amun_ray.config.readings import PGD
from amun_ray.reporting.finding import Finding
from amun_ray.stages.again import Sets, attacked, unlearned_again
from amun_ray.studies.done import Done, gap, named, row
from amun_ray.unlearn import Contender, find
from amun_ray.work.units import Hyperparameters, Unlearned

SAYS = ("for each attack what it cost, how many of the images that the original gets right it flips, how near they are "
        "then, and the Avg. Gap that the settings found with the sweep's own attack give, with the interval of its "
        "mean. Transferred images were found on another original, and have its labels.")
ATTACKS: dict[str, dict[str, Any]] = {
    **{f"PGD-{steps}": PGD | {"steps": steps} for steps in (10, 20, 50)},
    "fast FGSM": {"name": "fast_fgsm"}, "nearest": {"name": "nearest"},
    "nearest, 1 logit beyond": {"name": "nearest", "kappa": 1.0}}
HEAD = ["attack", "device-seconds", "flipped (%)", "mean L2", "method", "Avg. Gap"]


def study(done: Done) -> Finding:
    """Every attack of ATTACKS, and PGD-50 of another original where there are several."""
    made: dict[str, Sets] = {name: attacked(done.experiment, done.models, AttackSettings(**content))
                             for name, content in ATTACKS.items()}
    if len(done.models.originals) > 1:
        made["transferred"] = transferred(made["PGD-50"], len(done.models.originals))
    runs = {name: again(done, sets) for name, sets in made.items()}
    return Finding("attack_strength", SAYS, HEAD, [line for name, sets in made.items() for line in lines(
        name, sets, runs[name])], figures(runs))


def figures(runs: Mapping[str, Mapping[Contender, list[Unlearned]]]) -> dict[str, bytes]:
    """Avg. Gap of every method by each attack; of those alone that no attack made fail."""
    rows = {name: {contender: row(some) for contender, some in by_method.items()} for name, by_method in runs.items()}
    sound = [contender for contender in next(iter(rows.values()))
             if all(by_method[contender].failed is None for by_method in rows.values())]
    drawn = {name: {named(contender): by_method[contender].summary["average_gap"].mean for contender in sound}
             for name, by_method in rows.items()}
    return {} if not sound else {"attack_strength": plots.png(plots.bars(
        drawn, ylabel=plots.GAP, title="Avg. Gap by the attack that made D_A"))}


def transferred(sets: Sets, originals: int) -> Sets:
    """The sets of the next original in the place of each one's own."""
    return {(original, name): sets[(original + 1) % originals, name] for original, name in sets}


def again(done: Done, sets: Sets) -> dict[Contender, list[Unlearned]]:
    """The final runs of every method that uses adversarial images, from these."""
    settings = adversarial_settings(done)
    made = unlearned_again(done.experiment, done.models, sets, settings)
    return {contender: [one for one in made if one.run.contender == contender] for contender in settings}


def adversarial_settings(done: Done) -> dict[Contender, Hyperparameters]:
    """What the search found for the methods that use adversarial images."""
    return {contender: chosen for contender, chosen in done.settings.items()
            if find(contender.method).needs_adversarial}


def lines(name: str, sets: Sets, made: Mapping[Contender, list[Unlearned]]) -> list[list[str]]:
    """A line for each method."""
    different = {one.unit.digest: one for one in sets.values()}.values()
    reports = [one.report for one in different]
    right = sum(100 - report["already_wrong_percent"] for report in reports)
    flipped = f"{100 * sum(report['flipped_percent'] for report in reports) / right:.1f}" if right else ""
    l2 = [report["l2_mean"] for report in reports if "l2_mean" in report]  # of no image, if none was flipped
    cost = sum(one.seconds for one in different)
    near = f"{sum(l2) / len(l2):.4f}" if l2 else ""
    return [[name, f"{cost:.1f}", flipped, near, named(contender), gap(runs)]
            for contender, runs in made.items()]
