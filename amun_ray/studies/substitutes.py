"""What D_A is replaced by: whether other images or labels leave the model useful (Figure 1 of the paper).

Cost: for each original and final forget set, and each substitute, three runs of EPOCHS epochs, times `final.runs`.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from amun_ray import plots
from amun_ray.base.seeds import generator
from amun_ray.reporting.finding import Finding
from amun_ray.stages.again import Arrays, unlearned_again
from amun_ray.studies.done import Done, gap
from amun_ray.unlearn import Contender
from amun_ray.work.units import ForgetCase, Hyperparameters, Unlearned

SAYS = ("test accuracy after the last epoch, mean over cases and runs, and Avg. Gap. Adv is D_A; Orig the forgotten "
        "images themselves; RS a random point at the same distance, before its pixels are cut off at 0 and 1; RL a "
        "random wrong label; AdvL the adversarial label.")
EPOCHS, LR, SCHEDULE = 20, 0.01, "every_5"  # of the paper's ablation
PANELS = {"with D": Contender("amun", "retain"), "with D_F": Contender("amun", "forget_only"),
          "alone": Contender("amun_without_forget", "forget_only")}


class Samples:
    """D_A of a case, and what can take its place: each a set of images (M, C, H, W) and labels (M,)."""

    def __init__(self, clean: np.ndarray, true: np.ndarray, given: Arrays, classes: int,
                 stream: torch.Generator) -> None:
        self.clean, self.true, self.classes, self.stream = clean, true, classes, stream
        self.images, self.labels, self.places = given

    def adv(self) -> Arrays:
        return self.images, self.labels, self.places

    def orig(self) -> Arrays:
        return self.clean, self.true, self.places

    def adv_rs(self) -> Arrays:
        away = torch.randn(self.images.shape, generator=self.stream).numpy()
        radius, size = (np.sqrt((moved**2).sum(axis=(1, 2, 3), keepdims=True)) for moved in (
            self.images - self.clean, away))
        return np.clip(self.clean + away * (radius / size), 0, 1).astype(np.float32), self.labels, self.places

    def adv_rl(self) -> Arrays:
        return self.images, self._wrong(self.labels), self.places

    def orig_rl(self) -> Arrays:
        return self.clean, self._wrong(), self.places

    def orig_advl(self) -> Arrays:
        return self.clean, self.labels, self.places

    def _wrong(self, *also: np.ndarray) -> np.ndarray:
        """A random label (M,) that is neither the true one nor one of `also`."""
        free = np.ones((len(self.true), self.classes))
        for taken in (self.true, *also):
            free[np.arange(len(taken)), taken] = 0
        return torch.multinomial(torch.from_numpy(free), 1, generator=self.stream)[:, 0].numpy()


SUBSTITUTES: Mapping[str, Callable[[Samples], Arrays]] = {
    "Adv": Samples.adv, "Orig": Samples.orig, "Adv-RS": Samples.adv_rs, "Adv-RL": Samples.adv_rl,
    "Orig-RL": Samples.orig_rl, "Orig-AdvL": Samples.orig_advl}


def study(done: Done) -> Finding:
    """Every substitute in every panel; with two classes there is no other wrong label."""
    classes = done.plan.dataset.classes
    settings = dict.fromkeys(PANELS.values(), Hyperparameters(LR, SCHEDULE, EPOCHS, {}))
    made: dict[str, list[Unlearned]] = {}
    for name, substitute in SUBSTITUTES.items():
        if name == "Adv-RL" and classes < 3:
            continue

        def swap(case: ForgetCase, given: Arrays, substitute: Callable[[Samples], Arrays] = substitute,
                 name: str = name) -> Arrays:
            rows = np.sort(case.rows)[given[2]]
            stream = generator(done.plan.sweep.seed, "substitutes", name, case.name, case.original)
            return substitute(Samples(done.images(rows), done.labels[rows], given, classes, stream))

        made[name] = unlearned_again(done.experiment, done.models, done.sets, settings, swapped=(name, swap))
    curves = {panel: {name: accuracy_by_epoch(runs) for name, every in made.items() if (
        runs := _of(every, contender))} for panel, contender in PANELS.items()}
    rows = [[panel, name, f"{curves[panel][name][-1]:.2f}" if name in curves[panel] else "diverged",
             gap([one for one in every if one.run.contender == contender])]
            for panel, contender in PANELS.items() for name, every in made.items()]
    return Finding("substitutes", SAYS, ["fine-tuned on", "in the place of D_A", "Test", "Avg. Gap"], rows, {
        "substitutes": plots.png(plots.curves(curves, xlabel="epochs", ylabel="test accuracy (%)",
                                              title="Test accuracy by what takes the place of D_A"))})


def accuracy_by_epoch(runs: Sequence[Unlearned]) -> list[float]:
    """Mean test accuracy after each epoch, percent."""
    return np.mean([[scores["test_accuracy"] for scores in one.result["curve"]] for one in runs], axis=0).tolist()


def _of(every: Sequence[Unlearned], contender: Contender) -> list[Unlearned]:
    return [one for one in every if one.run.contender == contender and "failed" not in one.result]
