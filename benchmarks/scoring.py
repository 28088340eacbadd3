"""What scoring costs in a trial of the search, and what `search.score_samples` saves and loses.

    python benchmarks/scoring.py [--config NAME] [--samples N] [--store FOLDER] [--json FILE]

Seconds for the digits, minutes for CIFAR-10. N is by default the size of D_T, which leaves only D_R smaller.
- CPU seconds of one process with one thread and without Ray, so that other work beside it changes little: one trial of
  each method and access of the config, on its data with its network at random weights, 2 epochs, each scored; and the
  same with `score_samples: N`.
- with --store, of a finished sweep by the same config, in the place of these: Avg. Gap of its final models on so many
  samples, minus that on all, over 5 draws for each forget set.
"""

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import ray
from claims import Row, at_most, command, count, end, row, show

from amun_ray import data
from amun_ray.base.errors import UserError
from amun_ray.config import file as config_file
from amun_ray.metrics import GAP_TERMS, Split, average_gap, reference_mean, score
from amun_ray.runtime.bench import SharedWorkspace, bench
from amun_ray.stages.cases import OpenCase, bank_scores, run_case
from amun_ray.storage.store import Store
from amun_ray.unlearn import Contender
from amun_ray.work.artifacts import cpu_state
from amun_ray.work.plan import Plan
from amun_ray.work.units import Hyperparameters, rows_digest

EPOCHS, ROUNDS, DRAWS = 2, 3, 5
GOAL = 0.1  # points of Avg. Gap


@contextmanager
def without_ray() -> Iterator[None]:
    """In this context what is put into the object store stands for itself."""
    with patch.object(ray, "put", lambda value: value), patch.object(ray, "get", lambda value: value):
        yield


def make_case(workspace: SharedWorkspace, forget: np.ndarray) -> OpenCase:
    """A held-out case with a network of random weights, noise round D_F as D_A, and a made-up target."""
    pixels, labels = workspace.samples
    noise = np.random.default_rng(0).normal(0, 0.1, (len(forget), *workspace.shape))
    near = np.clip(pixels[forget] / 255 + noise, 0, 1).astype(np.float32)
    state = {key: value.numpy() for key, value in cpu_state(workspace.new_model(0)).items()}
    mean = np.full(workspace.size, 0.1)
    return OpenCase(0, "held_out 0", forget, dict.fromkeys(GAP_TERMS, 50.0), 50.0, {"made by": "benchmarks/scoring.py"},
                    (state,), (near, (labels[forget] + 1) % workspace.classes, np.arange(len(forget))), (mean,),
                    ((mean, None),))


def cpu_seconds(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def trial_seconds(workspace: SharedWorkspace, case: OpenCase, contender: Contender,
                  rows: np.ndarray) -> tuple[float, float, float]:
    """(an epoch of a trial, the part of it that is scoring, the same on `rows` alone), each the least of ROUNDS."""
    settings, here = Hyperparameters(1e-4, "never", EPOCHS, {}), bench(workspace)
    found = []
    for _ in range(ROUNDS):
        epochs = []
        whole = cpu_seconds(lambda into=epochs: into.extend(run_case(workspace, case, contender, settings, 0)))
        few, model = replace(case, scored=rows), epochs[-1].model
        scorings = (cpu_seconds(lambda each=each, model=model: bank_scores(
            workspace, each, here.logits(model, each.scored))) for each in (case, few))
        found.append((whole / len(epochs), *scorings))
    return tuple(map(min, zip(*found, strict=True)))


def times(plan: Plan, samples: int) -> list[Row]:
    """What a trial takes with all samples, and with `samples`."""
    with tempfile.TemporaryDirectory() as folder, without_ray():
        workspace = SharedWorkspace.open(plan.sweep, Store(folder), plan.dataset)
        case = make_case(workspace, plan.sets.held_out[0])
        rows, names = chosen(plan, case.rows, samples, plan.sweep.seed), plan.sweep.contenders
        whole, scoring, few = np.array([trial_seconds(workspace, case, name, rows) for name in names]).T
    share = 100 * scoring / whole
    return [row("samples", workspace.size, "scored of all"), row("samples_few", len(rows), f"of them with {samples}"),
            row("epoch_ms", 1e3 * whole.mean(), f"ms CPU, mean of {len(names)} methods and accesses"),
            row("scoring_ms", 1e3 * scoring.mean(), "ms of them"),
            row("scoring_few_ms", 1e3 * few.mean(), f"ms of them with {samples}"),
            row("scoring_percent", 100 * scoring.sum() / whole.sum(), "% of the time of all trials"),
            row("scoring_percent_each", share.tolist(), "% of each one's time"),
            row("scoring_percent_least", share.min(), f"%: {names[int(share.argmin())]}"),
            row("scoring_percent_most", share.max(), f"%: {names[int(share.argmax())]}"),
            row("saved_percent", 100 * (scoring - few).sum() / whole.sum(), f"% of all trials' time, by {samples}")]


def chosen(plan: Plan, forget: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """The rows that are scored."""
    split = Split.of(forget, labels=plan.dataset.labels, train_size=plan.dataset.train_size)
    return np.sort(np.concatenate(split.sample(samples, seed)))


def logits_of(folder: Path) -> np.ndarray:
    return np.load(folder / "logits.npy").astype(np.float32)


def units(store: Path, kind: str) -> list[tuple[dict, dict, Path]]:
    """(inputs, result, folder) of each unit of a kind that has its logits."""
    found = [(json.loads(path.read_text()), path.parent) for path in sorted((store / kind).glob("*/unit.json"))]
    return [(unit["inputs"], unit["result"], folder) for unit, folder in found if (folder / "logits.npy").is_file()]


def errors(plan: Plan, store: Path, samples: int) -> list[Row]:
    """How far the Avg. Gap of stored final models is from that on all samples."""
    models, labels = units(store, "models"), plan.dataset.labels
    references = {result["name"]: folder for _, result, folder in models if result["name"].startswith("reference")}
    by_weights = {result["weights"]: folder for _, result, folder in models if result["weights"]}
    sets = {rows_digest(rows): rows for rows in plan.sets.final}
    cases = defaultdict(list)
    for inputs, _, folder in units(store, "unlearned"):
        case, = inputs["cases"]
        if case["forget"] in sets and all(weights in by_weights for weights in case.get("retrained", [None])):
            cases[case["forget"], tuple(case["retrained"])].append(folder)
    if not cases or len(references) < plan.sweep.references.count:
        raise UserError(f"--store: {store}: has no finished sweep by this config")
    mean = reference_mean((logits_of(references[name]) for name in sorted(references)), labels)

    def gaps(rows: np.ndarray | None, forget: np.ndarray, targets: list, every: list) -> np.ndarray:
        split = Split.of(forget, labels=labels, train_size=plan.dataset.train_size)
        split, at = (split, slice(None)) if rows is None else (split.within(rows), rows)
        scores = [score(each[at], labels[at], split, mean[at], settings=plan.sweep.rmia) for each in targets + every]
        target = {term: np.mean([each[term] for each in scores[:len(targets)]]) for term in GAP_TERMS}
        return np.array([average_gap(each, target) for each in scores[len(targets):]])

    off = []
    for (forget, retrained), folders in cases.items():
        given = (sets[forget], [logits_of(by_weights[weights]) for weights in retrained], list(map(logits_of, folders)))
        whole = gaps(None, *given)
        off += [gaps(chosen(plan, given[0], samples, draw), *given) - whole for draw in range(DRAWS)]
    off = np.concatenate(off)
    return [row("models", sum(map(len, cases.values())), "final models in the store"),
            row("gap_error", float(np.sqrt((off**2).mean())), f"points of Avg. Gap (rms), {samples}", at_most(GOAL)),
            row("gap_bias", float(off.mean()), "points of Avg. Gap (mean)")]


def main() -> None:
    """Measure, print, and write the rows where asked."""
    parser = command(__doc__)
    parser.add_argument("--config", default="default", help="a name or path, as of the sweep")
    parser.add_argument("--samples", type=count, help="`search.score_samples`")
    parser.add_argument("--store", type=Path, help="of a finished sweep by this config: its errors")
    options = parser.parse_args()
    sweep = config_file.load(options.config)
    plan = Plan(sweep, data.load(sweep.data.name, **sweep.data.settings))
    samples = options.samples or len(plan.dataset) - plan.dataset.train_size
    show(errors(plan, options.store, samples) if options.store else times(plan, samples), options.json)


if __name__ == "__main__":
    end(main)
