"""One request after another, with the settings of a finished sweep and no new search (Figure 2 of the AMUN paper).

    python amun_ray/sweep.py --config continuous
    python examples/continuous.py --config continuous [--requests 25 --share 0.004 --every 5] [--json FILE]

Every method and access of the sweep goes through the same requests, each on the model that it made before. Methods that
use adversarial images do so twice: found on the current model (AMUN-A), and on the first original (AMUN). A model is
judged on all rows forgotten so far, beside a model that is retrained without them.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import claims  # noqa: F401  (first: it puts the package on the path)
import numpy as np

from amun_ray import data
from amun_ray.base.errors import UserError
from amun_ray.base.log import say, speaking
from amun_ray.config.file import load
from amun_ray.data.splits import random_forget
from amun_ray.ledger import History
from amun_ray.metrics import average_gap
from amun_ray.plots import png
from amun_ray.plots.style import panels
from amun_ray.reporting.grid import grid
from amun_ray.stages.experiment import Experiment
from amun_ray.stages.originals import train_models
from amun_ray.stages.steps import Step, Steps
from amun_ray.work.plan import Plan
from amun_ray.work.production import Chosen, choose, table
from amun_ray.work.trainings import retrained_trainings, settled
from amun_ray.work.units import Trained

SHOWN = {"difference": "FR AUC - FT AUC", "average_gap": "Avg. Gap", "test_accuracy": "Test"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="continuous")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--requests", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.02, help="of the training set, in each request")
    parser.add_argument("--every", type=int, default=1, help="judge, and retrain, after each EVERYth request")
    parser.add_argument("--methods", nargs="*", help="METHOD:ACCESS; every row of the sweep's table if not given")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    config = load(options.config)
    output = (options.output or Path("amun_output", config.name)).absolute()
    plan = Plan(config, data.load(config.data.name, **config.data.settings))
    plan = settled(plan, plan.store(output))
    rows = table(plan, plan.store(output), History(()))
    if rows is None:
        raise UserError(f"no finished sweep; first: python amun_ray/sweep.py --config {options.config}")
    names = options.methods or [f"{row['method']}:{row['access']}" for row in rows
                                if row["access"] and "failed" not in row]
    with speaking(), Experiment.open(plan, output) as experiment:
        study = Study(Steps(experiment), requests(plan, options.requests, options.share), options.every)
        found = {"retrain": study.retrained, "original": study.original}
        found |= study.chains([choose(rows, name) for name in names])
    for term, title in SHOWN.items():
        head = [title, *(f"{one['request']:g}" for one in study.retrained)]
        print(grid(head, [[name, *(f"{one[term]:.2f}" for one in line)] for name, line in found.items()]), end="\n\n")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    if options.picture:
        options.picture.write_bytes(picture(found))


def requests(plan: Plan, count: int, share: float) -> list[np.ndarray]:
    """Disjoint random sets of training rows, none of which the search has seen."""
    size, train = round(share * plan.dataset.train_size), plan.dataset.train_size
    seen = np.unique(np.concatenate(plan.sets.held_out))
    rows = random_forget(train, count * size, plan.sweep.seed, "continuous", exclude=seen)
    mixed = np.random.default_rng(plan.sweep.seed).permutation(rows)
    return [np.sort(mixed[start:start + size]) for start in range(0, len(mixed), size)]


class Chain:
    """The models that one method makes, one from another, and their scores; it ends early where a run diverges."""

    def __init__(self, chosen: Chosen, first: Trained, *, adaptive: bool) -> None:
        self.chosen, self.first, self.adaptive = chosen, first, adaptive
        self.current, self.failed = first, False
        self.scores: list[dict[str, float]] = []

    def step(self, number: int, rows: np.ndarray, gone: np.ndarray) -> Step:
        return Step(f"request {number}", self.current, self.current if self.adaptive else self.first, rows, gone)


class Study:
    """The same requests, one after another, by every method."""

    def __init__(self, steps: Steps, asked: list[np.ndarray], every: int) -> None:
        self.steps, self.asked, self.every = steps, asked, every
        self.first = steps.trained(steps.wanted.originals[0])
        experiment = steps.experiment
        trainings = [retrained_trainings(experiment.workspace, f"{number} requests", rows, 1)[0]
                     for number, rows in self._so_far()]
        models = train_models(experiment.workspace, trainings, experiment.options, lambda _: None)
        self.retrained = [self._scores(model, rows) | {"request": number}
                          for model, (number, rows) in zip(models, self._so_far(), strict=True)]
        self.original = [self._judged(self.first, rows, number) for number, rows in self._so_far()]

    def chains(self, methods: list[Chosen]) -> dict[str, list[dict[str, float]]]:
        """The scores after each request; twice, adaptive and not, where the method uses adversarial images."""
        chains = {}
        for chosen in methods:
            name, attacks = str(chosen.contender), chosen.contender.method.startswith("amun")
            if attacks:
                chains[f"{name} adaptive"] = Chain(chosen, self.first, adaptive=True)
            chains[name] = Chain(chosen, self.first, adaptive=False)
        gone = np.empty(0, np.int64)
        for number, rows in enumerate(self.asked, 1):
            self._take(number, rows, gone, [chain for chain in chains.values() if not chain.failed])
            gone = np.union1d(gone, rows)
        return {name: chain.scores for name, chain in chains.items()}

    def _take(self, number: int, rows: np.ndarray, gone: np.ndarray, chains: list[Chain]) -> None:
        """Every chain by one request; all of them at the same time."""
        taken = [(chain.step(number, rows, gone), chain.chosen.contender, chain.chosen.settings) for chain in chains]
        for chain, (step, *_), (_, made) in zip(chains, taken, self.steps.take_together(taken), strict=True):
            chain.failed = "failed" in made.result
            if not chain.failed:
                chain.current = Trained(step.name, made.run.unit, made.result["weights"], 0.0)
            if not chain.failed and number % self.every == 0:
                chain.scores.append(self._judged(chain.current, np.union1d(gone, rows), number))
        say(f"request {number} of {len(self.asked)}")

    def _so_far(self) -> list[tuple[int, np.ndarray]]:
        """The numbers of the requests after which models are judged, with all rows asked for by then."""
        return [(number, np.sort(np.concatenate(self.asked[:number])))
                for number in range(self.every, len(self.asked) + 1, self.every)]

    def _judged(self, model: Trained, rows: np.ndarray, number: int) -> dict[str, float]:
        scores = self._scores(model, rows)
        (wanted,) = (one for one in self.retrained if one["request"] == number)
        return scores | {"average_gap": average_gap(scores, wanted), "request": number}

    def _scores(self, model: Trained, rows: np.ndarray) -> dict[str, float]:
        scores = self.steps.scores(model, rows, np.empty(0, np.int64))
        return scores | {"difference": scores["forget_retain_auc"] - scores["forget_test_auc"], "average_gap": 0.0}


def picture(found: dict[str, list[dict[str, Any]]]) -> bytes:
    """A panel for each measure, a line for each method over the requests: colour is the method, dashed is without D_R,
    a circle is AMUN-A."""
    figure, axes = panels(len(SHOWN) + 1, width=4.2, height=4.6)
    methods = list(dict.fromkeys(name.split(" ")[0] for name in found))
    for axis, (term, title) in zip(axes, SHOWN.items(), strict=False):
        for name, line in found.items():
            method = name.split(" ")[0]
            colour = "black" if method == "retrain" else f"C{methods.index(method)}"
            axis.plot([one["request"] for one in line], [one[term] for one in line], label=name, color=colour,
                      linestyle=":" if method == "original" else "--" if "forget_only" in name else "-",
                      marker="o" if "adaptive" in name else ".", fillstyle="none" if "adaptive" in name else "full")
        axis.set_title(title)
        axis.set_xlabel("request")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[-1].axis("off")
    axes[-1].legend(*axes[0].get_legend_handles_labels(), fontsize=7, loc="center left")
    return png(figure)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
