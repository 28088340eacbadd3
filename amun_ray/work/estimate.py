"""How long a sweep will take on a calibrated device: all pieces of work counted, divided by the device's rates.

    seconds of a worker = sum over the kinds of work of  units / (units per second)

How the units of each stage scale, for N training images, M images in all, n of them to be forgotten:

    models       trained    epochs x (originals x N + retrained x (N - n) + references x M / 2)
                 predicted  models x M
    adversaries  attacked   originals x forget sets x n
    search       unlearned  methods and accesses x trials x held-out cases x (gradients of one run, see `passes`)
                 predicted  the same runs x (epochs x M + forward passes of the run without a gradient)
                 scored     the same runs x epochs
                 with `score_samples: s` M is n + min(s, N - n) + min(s, M - N) here, and a scored run less accordingly
    final        as the search, with final cases x runs instead of trials x held-out cases, and all M images

    audit        predicted  models read x images of the probes that are on (a backward pass is two forward ones)
                 trained    relearning: models read x its epochs x (N - n + images shown again)
                 attacked, unlearned   U-LiRA: references x n; references x methods and accesses x a run on M / 2 images

A final run is counted with all of `search.epochs`, because the search has not yet found the best number: the figure for
that stage is an upper bound; so is AutoAttack's, which takes every image to withstand. Not counted: the start of Ray
and its workers, storage, MLflow, the report, and an attack's calibration of its first radius. Workers that share a GPU
are each taken to be as fast as the single one that was calibrated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from amun_ray.config.schema import Sweep
from amun_ray.training.augment import Augmentation
from amun_ray.training.parts import Part
from amun_ray.training.recipe import Recipe
from amun_ray.unlearn import Contender, RunReport, Sets, unlearn
from amun_ray.work import apollo, audited
from amun_ray.work.plan import Plan, trial_count
from amun_ray.work.weights import POINTS

BOUNDARY_PASSES = 24  # forward ones of `nearest` on an image: about eight forward and eight backward


class Work(NamedTuple):
    """Units of each kind of work; as a result of a calibration, units per second of one worker."""

    trained: float = 0.0  # images in training steps
    unlearned: float = 0.0  # images in unlearning steps, with their batch size and precision
    predicted: float = 0.0  # images in forward passes
    attacked: float = 0.0  # images for which an adversarial neighbour is searched
    scored: float = 0.0  # models whose predictions on all images are turned into metrics

    def seconds(self, rates: "Work") -> float:
        """The time of one worker that does `rates` units of each kind per second."""
        return sum(units / rate for units, rate in zip(self, rates, strict=True) if units)

    def plus(self, other: "Work", times: float = 1.0) -> "Work":
        return Work(*(mine + times * theirs for mine, theirs in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Pieces:
    """The pieces of work of a plan, or those still to do."""

    trainings: tuple[int, ...]  # of each model, its rows times its epochs; 0 for a loaded one
    attacked: int  # images
    trials: Mapping[Contender, int]
    final: Mapping[Contender, int]  # unlearned models

    @property
    def counts(self) -> dict[str, tuple[int, str]]:
        """How many pieces each stage has, and their name."""
        return {"models": (len(self.trainings), "trainings"), "adversaries": (self.attacked, "adversarial images"),
                "search": (sum(self.trials.values()), "trials"),
                "final": (sum(self.final.values()), "unlearned models")}


def pieces(plan: Plan) -> Pieces:
    """Everything that a plan asks for."""
    sweep, train_size = plan.sweep, plan.dataset.train_size
    sets = {case.name: len(case.rows) for case in plan.cases}
    epochs = sweep.training.epochs
    originals = [0 if sweep.originals.checkpoints else epochs * train_size] * sweep.originals.count
    retrained = [epochs * (train_size - sets[name]) for name, count in plan.retrained.items() for _ in range(count)]
    halves = [(sweep.references.epochs or epochs) * half for half in (
        len(plan.dataset) // 2, len(plan.dataset) - len(plan.dataset) // 2)] * (sweep.references.count // 2)
    return Pieces((*originals, *retrained, *halves), sum(len(case.rows) for case in plan.cases),
                  {contender: trial_count(sweep, contender) for contender in sweep.contenders},
                  dict.fromkeys(sweep.contenders, len(plan.final) * sweep.final.runs))


def works(plan: Plan, todo: Pieces, runs: Mapping[Contender, Work]) -> dict[str, Work]:
    """The work of the pieces `todo` of `plan`, by stage (formulas at the top of this file); `runs` is the `run_work` of
    each contender."""
    samples, cases = len(plan.dataset), len(plan.held_out)
    few, search, final = _scored_samples(plan), Work(), Work()
    for contender, run in runs.items():
        trial = run._replace(predicted=run.predicted - run.scored * (samples - few), scored=run.scored * few / samples)
        search = search.plus(trial, todo.trials[contender] * cases)
        final = final.plus(run, todo.final[contender])
    share = sum(todo.final.values()) / sum(pieces(plan).final.values())  # a model that is left has no reading either
    return {"models": Work(trained=sum(todo.trainings),
                           predicted=samples * len(todo.trainings)),
            "adversaries": Work(attacked=todo.attacked), "search": search, "final": final,
            "audit": Work().plus(_audit_work(plan), share)}


def _scored_samples(plan: Plan) -> int:
    """The samples on which an epoch of a trial is scored."""
    samples, train_size, most = len(plan.dataset), plan.dataset.train_size, plan.sweep.search.score_samples
    forgotten = len(plan.sets.final[0])
    return samples if most is None else forgotten + min(most, train_size - forgotten) + min(most, samples - train_size)


def _audit_work(plan: Plan) -> Work:
    """The attacks of the report that run models again: the probes, and U-LiRA's references."""
    sweep, audit = plan.sweep, plan.sweep.audit
    forgotten, half = len(plan.sets.final[0]), len(plan.dataset) // 2
    retained, unseen = plan.dataset.train_size - forgotten, len(plan.dataset) - plan.dataset.train_size
    shown, kept, new = (min(audit.samples, count) for count in (forgotten, retained, unseen))
    never = min(apollo.MODELS, sweep.originals.count)
    images = {"boundary": BOUNDARY_PASSES * (shown + new) + forgotten, "linear_probe": shown + kept,
              "apollo": (never * BOUNDARY_PASSES + (never + 1) * (apollo.POINTS + 1)) * (shown + new),
              "connectivity": 2 * 2 * POINTS * kept, "autoattack": audited.passes(sweep, plan.dataset)}
    taught = audit.relearn_epochs * (retained + min(audit.relearn_samples, forgotten // 5))
    work = Work(predicted=plan.probed * sum(count for name, count in images.items() if name in plan.audited),
                trained=plan.probed * taught if "relearning" in plan.audited else 0.0)
    if "ulira" in plan.audited:
        work = work.plus(Work(attacked=sweep.references.count * forgotten))
        for contender in sweep.contenders:
            once = passes(sweep, contender, retain=half - forgotten, forget=forgotten, classes=plan.dataset.classes)
            work = work.plus(Work(unlearned=once.gradients, predicted=once.forwards), sweep.references.count)
    return work


def run_work(plan: Plan, contender: Contender) -> Work:
    """One unlearning run of `search.epochs` epochs on one case, scored after each epoch."""
    forgotten = len(plan.sets.final[0])
    once = passes(plan.sweep, contender, retain=plan.dataset.train_size - forgotten, forget=forgotten,
                  classes=plan.dataset.classes)
    return Work(unlearned=once.gradients, predicted=once.forwards + once.epochs * len(plan.dataset), scored=once.epochs)


class Passes(NamedTuple):
    """The images in the passes of one unlearning run, and the number of epochs after which it is scored."""

    gradients: float
    forwards: float  # without a gradient
    epochs: float


def passes(sweep: Sweep, contender: Contender, *, retain: int, forget: int, classes: int) -> Passes:
    """The passes of a run on `retain` and `forget` images (and as many adversarial ones as are forgotten).

    Measured by running the method three times on a small network with one-pixel images: an epoch consists of some
    passes over D_R, some over D_F and D_A, and some batches of fixed size, so the counts lie on the plane through those
    three points. A second derivative counts as two gradients, as in a run's own cost.
    """
    small = sweep.unlearning.batch_size
    base, wider, deeper = (_count(sweep, contender, retain=r * small, forget=f * small, classes=classes)
                           for r, f in ((1, 1), (2, 1), (1, 2)))
    return Passes(*(max(0.0, at + (retain / small - 1) * (more - at) + (forget / small - 1) * (again - at))
                    for at, more, again in zip(base, wider, deeper, strict=True)))


def _count(sweep: Sweep, contender: Contender, *, retain: int, forget: int, classes: int) -> Passes:
    """The passes of a real run on black images of one pixel."""
    def part(count: int) -> Part:
        return Part(torch.zeros(count, 1, 1, 1), torch.arange(count) % classes, augment=False)

    method, access = contender
    network, report = nn.Sequential(nn.Conv2d(1, classes, 3, padding=1), nn.Flatten()), RunReport()
    recipe = Recipe(lr=1e-6, epochs=sweep.search.epochs, **sweep.unlearning.model_dump())
    sets = Sets(retain=part(retain) if access == "retain" else None, forget=part(forget), adversarial=part(forget))
    scored = len([*unlearn(method, network, sets, recipe=recipe, augmentation=Augmentation(), report=report,
                           generator=torch.Generator().manual_seed(0), settings=sweep.method_settings(contender))])
    return Passes(report.backward, max(0, report.forward - report.backward), scored)


def describe(plan: Plan, calibrated: tuple[str, Work] | None, todo: Pieces | None) -> str:
    """One line: device-hours of each stage, in total and, if the store already has some results, still to do.

    `calibrated` is a device's name with its units per second. A worker on a GPU counts as its share of the GPU (with
    `gpus: auto` as a whole one, since the share is not measured yet), one on a CPU as its cores.
    """
    if calibrated is None:
        return "  estimate    none: --calibrate measures this machine with this config, in a minute at most"
    device, rates = calibrated
    on_gpu = device.startswith("GPU")
    share = (plan.sweep.resources.whole_gpus if on_gpu else plan.sweep.resources.cpus) / 3600
    runs = {contender: run_work(plan, contender) for contender in plan.sweep.contenders}
    hours = {stage: work.seconds(rates) * share for stage, work in works(plan, pieces(plan), runs).items()}
    rest = "" if todo is None else (
        f", {_hours(sum(work.seconds(rates) for work in works(plan, todo, runs).values()) * share)} of them left to do")
    bounds = {"final"} | ({"audit"} if "autoattack" in plan.audited else set())
    stages = ", ".join(f"{stage} {'at most ' if stage in bounds else ''}{_hours(value)}"
                       for stage, value in hours.items())
    return (f"  estimate    {'GPU' if on_gpu else 'core'}-hours of the device that was calibrated, {device}: {stages}; "
            f"in all {_hours(sum(hours.values()))}{rest}")


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
