"""How much the numbers of the attack and of unlearning matter: its steps, its first radius, epochs; and gradient maps.

Cost: as the study of attacks, for eight settings of the paper's; the maps are a pass of a few models on the driver.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from amun_ray import plots
from amun_ray.attacks import AttackSettings
from amun_ray.config.readings import READINGS
from amun_ray.reporting.finding import Finding
from amun_ray.stages.again import attacked
from amun_ray.stages.subject import loaded
from amun_ray.studies.attack_strength import HEAD, again, lines
from amun_ray.studies.done import Done, named, row
from amun_ray.work.units import Unlearned

SAYS = ("Avg. Gap of the settings found with the sweep's own attack, where the paper's PGD takes other steps or begins "
        "at another radius; the figures have it after each epoch, and what the loss of a forgotten image depends on.")
PAPER = READINGS["attack.search"]["paper"]
STEPS = (5, 10, 20, 50)
RADII = (1.0, 1.2, 1.4, 1.6, 1.8)  # times the paper's: radii are doubled until an image flips, this is one doubling


def study(done: Done) -> Finding:
    """Each axis by itself; the paper's point is on both."""
    axes = {"steps": {float(steps): PAPER | {"steps": steps} for steps in STEPS},
            "first radius": {PAPER["eps_init"] * times: PAPER | {"eps_init": PAPER["eps_init"] * times}
                             for times in RADII}}
    table: list[list[str]] = []
    drawn: dict[str, dict[str, list[float]]] = {}
    for axis, points in axes.items():
        drawn[axis] = {}
        for at, content in points.items():
            sets = attacked(done.experiment, done.models, AttackSettings(**content))
            made = again(done, sets)
            table += lines(f"{axis} {at:g}", sets, made)
            for contender, runs in made.items():
                drawn[axis].setdefault(named(contender), []).append(row(runs).summary["average_gap"].mean)
    places = {axis: list(points) for axis, points in axes.items()}
    return Finding("sensitivity", SAYS, HEAD, table, {
        "sensitivity_attack": plots.png(plots.curves(drawn, x=places, xlabel="value", ylabel=plots.GAP, log=True,
                                                     title="Avg. Gap by the settings of the attack")),
        "sensitivity_epochs": plots.png(plots.curves(
            {"all final models": by_epoch(done.sound)}, xlabel="epochs", ylabel=plots.GAP,
            title="Avg. Gap after each epoch, mean over cases and runs")),
        "sensitivity_maps": plots.png(plots.maps(*_maps(done)))})


def by_epoch(models: Sequence[Unlearned]) -> dict[str, list[float]]:
    """Of each contender the mean Avg. Gap of its runs after each epoch."""
    gaps: dict[str, list[list[float]]] = {}
    for model in models:
        gaps.setdefault(named(model.run.contender), []).append(
            [scores["average_gap"] for scores in model.result["curve"]])
    return {name: np.mean(curves, axis=0).tolist() for name, curves in gaps.items()}


def _maps(done: Done) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
    """The first forgotten image (C, H, W), and of each model of its case how its loss changes with a pixel (H, W)."""
    case, device = done.plan.final[0], torch.device("cpu")
    number = int(np.sort(case.rows)[0])
    image = torch.from_numpy(done.images(np.array([number])))
    label = torch.from_numpy(done.labels[number:number + 1])
    units = {"original": done.models.originals[case.original].unit}
    units |= {named(model.run.contender): model.run.unit for model in done.sound
              if model.run.number == 0 and model.run.case.key == case.key}
    units["retrain"] = done.models.retrained[case.name][case.original].unit
    found = {}
    for name, unit in units.items():
        model, shown = loaded(done.workspace, unit, device).eval(), image.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(shown), label), shown)
        found[name] = slope[0].abs().sum(0).numpy()
    return image[0].numpy(), found
