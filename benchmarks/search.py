"""What the search costs beside training, attacks and evaluation; and the default sweep, by stage.

    python benchmarks/search.py [--json FILE]

About 6 minutes on two cores that nothing else uses. Measured are
- overhead: searches of one trial and of 1 + FURTHER trials on one worker, each beside the seconds that its trials
  themselves took; the rest is the search's own. The first trial pays for Tune, its worker and its imports.
- memory: what one more trial beside others adds, in a worker of its own and at its peak, to the proportional set size
  (PSS) of the driver, Ray and all workers, in which memory that processes share counts once; programs and libraries
  are left out. On 40,000 images, minus that on 4,000: how much of the data a further trial on the same node holds;
  model and batches are the same. Three times, beside two to seven trials that stay.
- epochs: one run of 10 epochs that scores each, beside a grid over 1 to 10 epochs, each run from the start and scored
  at its end, alternating in one process.
- the default sweep, as `python amun_ray/sweep.py` runs it: its wall time, that of each stage, and how much of both
  cores' time is inside trainings, attacks and trials, unlearning and evaluation included. Libraries must have compiled
  bytecode, which pip makes and uv does not (`uv pip install --compile-bytecode`).
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112, Ray spells it so

import numpy as np
import psutil
import ray
import torch
from claims import ROOT, Row, at_least, at_most, command, end, row, show

from amun_ray import data
from amun_ray.base.errors import UserError
from amun_ray.base.seeds import generator
from amun_ray.config.schema import Sweep
from amun_ray.data.dataset import Dataset
from amun_ray.metrics import GAP_TERMS, score
from amun_ray.runtime.bench import SharedWorkspace, bench, load_state
from amun_ray.runtime.cluster import start_here
from amun_ray.stages.cases import OpenCase, recipe, run_case
from amun_ray.stages.search import best_settings
from amun_ray.storage.store import Store
from amun_ray.unlearn import Contender, Sets, unlearn
from amun_ray.work.artifacts import cpu_state
from amun_ray.work.units import Hyperparameters

SWEEP = ROOT / "amun_ray" / "sweep.py"
FURTHER = 12  # trials
EPOCHS = 10
MANY, FEW, SIZE = 40_000, 4_000, 32  # images of the memory measurement; pixels of a side
AT_ONCE = 3  # pairs of trials in that measurement, after a first one
OPTIONS = {"num_cpus": 1, "num_gpus": 0}
STAGE = re.compile(r"\[(\d)/5 (.*)\]")
FINETUNE = Contender("finetune", "retain")


def make_sweep(trials: int, epochs: int, **options: int) -> Sweep:
    """Fine-tuning alone, on a network whose epoch of digits takes a moment."""
    return Sweep(name="search", data={"name": "digits"}, model={"name": "small_cnn", "options": options},
                 forget={"fraction": 0.1}, training={"lr": 0.1, "epochs": 1}, methods={"finetune": None},
                 tracking={"models": "final"},
                 search={"trials": trials, "epochs": epochs, "lr": {"low": 1e-4, "high": 1e-2}})


def noise(train: int, test: int) -> Dataset:
    """Colour images of noise; no time or memory here depends on what they show."""
    rng = np.random.default_rng(0)
    return Dataset("noise", rng.integers(0, 256, (train + test, 3, SIZE, SIZE), np.uint8),
                   rng.integers(0, 10, train + test), train, 10)


def make_case(workspace: SharedWorkspace) -> OpenCase:
    """A held-out case with a network of random weights and a made-up target."""
    state = {key: value.numpy() for key, value in cpu_state(workspace.new_model(0)).items()}
    pixels, labels = ray.get(list(workspace.samples))
    return OpenCase(0, "held_out 0", np.arange(workspace.train_size // 10), dict.fromkeys(GAP_TERMS, 50.0), 50.0,
                {"made by": "benchmarks/search.py"}, (ray.put(state),),
                (ray.put((pixels[:1] / 255).astype(np.float32)), ray.put(labels[:1]), ray.put(np.zeros(1, np.int64))),
                (ray.put(np.full(workspace.size, 0.1, np.float32)),))


def search(dataset: Dataset, trials: int, *, workers: int, epochs: int = 1) -> tuple[float, float]:
    """Search in an empty store; returns the wall time, and the seconds that the trials themselves took."""
    with tempfile.TemporaryDirectory() as folder:
        workspace, inside = SharedWorkspace.open(make_sweep(trials, epochs), Store(folder), dataset), []
        begun = time.time()
        best_settings(workspace, [make_case(workspace)], OPTIONS, workers,
                      lambda trial, stored: inside.append(trial))
        return time.time() - begun, sum(trial.result["seconds"] for trial in inside)


def overheads() -> tuple[float, float]:
    """The overhead of the first trial, and of each further one, in seconds."""
    dataset = data.load("digits", train_size=700)
    wall, inside = search(dataset, 1, workers=1)
    first = wall - inside
    wall, inside = search(dataset, 1 + FURTHER, workers=1)
    return first, (wall - inside - first) / FURTHER


@ray.remote(num_cpus=0)
class Held:
    """A worker whose trial stays as it is after its first epoch."""

    def run(self, workspace: SharedWorkspace, case: OpenCase) -> None:
        self.epochs = run_case(workspace, case, FINETUNE, Hyperparameters(1e-3, "never", 2, {}), run=0)
        self.last = next(self.epochs)


def tree_mib() -> float:
    """Anonymous and shared memory (PSS) of this process and of all that it has started, without workers of Ray that
    wait for work: these come and go."""
    total = 0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.Error, OSError):  # it has ended since
            if not "".join(process.cmdline()[:1]).startswith("ray::IDLE"):
                lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return total / 1024


def one_more(workspace: SharedWorkspace, case: OpenCase) -> tuple[Any, float]:
    """(a new worker with a trial, the MiB that both add, at their peak, to what is there before them)."""
    before = peak = tree_mib()
    worker = Held.remote()
    running = worker.run.remote(workspace, case)
    while not ray.wait([running], timeout=0)[0]:
        peak = max(peak, tree_mib())
    ray.get(running)
    return worker, peak - before


def memory() -> tuple[list[float], float]:
    """(MiB that each further trial on MANY images adds beyond one on FEW, MiB by which the many images are more)."""
    with tempfile.TemporaryDirectory() as folder:
        rounds, spaces, sizes = [], [], []
        for count in (FEW, MANY):
            dataset = noise(count, count // 5)
            workspace = SharedWorkspace.open(make_sweep(1, 2, width=4), Store(folder), dataset)
            spaces.append((workspace, make_case(workspace)))
            sizes.append(dataset.pixels.nbytes / 2**20)
        for _ in range(1 + AT_ONCE):
            rounds.append([one_more(*space) for space in spaces])
        for worker, _ in chain.from_iterable(rounds):
            ray.kill(worker)
    return [many - few for (_, few), (_, many) in rounds[1:]], sizes[1] - sizes[0]


def epoch_costs() -> tuple[float, float]:
    """(seconds of one run that scores each of its epochs, seconds of a run for each number of epochs)."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = SharedWorkspace.open(make_sweep(1, EPOCHS), Store(folder), noise(2000, 400))
        case = make_case(workspace)

        def once(epochs: int) -> float:
            begun = time.perf_counter()
            for _ in run_case(workspace, case, FINETUNE, Hyperparameters(1e-3, "never", epochs, {}), run=0):
                pass
            return time.perf_counter() - begun

        once(1)
        scored = [once(EPOCHS) for _ in range(2)]
        return min(scored), _grid_seconds(workspace, case)


def _grid_seconds(workspace: SharedWorkspace, case: OpenCase) -> float:
    """Runs of 1, 2, ... EPOCHS epochs, each scored at its end alone."""
    begun, here = time.perf_counter(), bench(workspace)
    (mean,), parts = ray.get(list(case.reference_mean)), workspace.split(case.rows, here.labels.numpy())
    for epochs in range(1, EPOCHS + 1):
        model = load_state(workspace.new_model(0), ray.get(case.state[0]))
        for _ in unlearn("finetune", model, Sets(retain=here.part(parts.retain), forget=here.part(case.rows)),
                         recipe=recipe(workspace, Hyperparameters(1e-3, "never", epochs, {})),
                         augmentation=workspace.sweep.data.augmentation, generator=generator(0, "order")):
            pass
        score(here.logits(model), here.labels.numpy(), parts, mean, settings=workspace.sweep.rmia)
    return time.perf_counter() - begun


def default_sweep() -> tuple[float, dict[str, float], float]:
    """(wall seconds, seconds by stage, percent of both cores' time inside trainings, attacks and trials)."""
    with tempfile.TemporaryDirectory() as folder:
        begun, marks = time.monotonic(), []
        with subprocess.Popen([sys.executable, str(SWEEP), "--output", folder], text=True, stdout=subprocess.PIPE,
                              env=os.environ | {"RAY_ADDRESS": "local"}) as process:
            for line in process.stdout:
                if (stage := STAGE.match(line)) is not None:
                    marks.append((stage[2], time.monotonic()))
        wall, ended = time.monotonic() - begun, time.monotonic()
        assert process.returncode == 0, "the default sweep failed"
        ends = [at for _, at in marks[1:]] + [ended]
        stages = {"start": marks[0][1] - begun} | {
            name: end - at for (name, at), end in zip(marks, ends, strict=True)}
        units = [json.loads(path.read_text()) for path in Path(folder, "store").rglob("unit.json")]
    inside = sum(unit["result"].get("seconds", 0.0) for unit in units)
    return wall, stages, 100 * inside / (2 * wall)


def measure() -> list[Row]:
    """All rows of the benchmark.

    Raises:
        UserError: torch has no compiled bytecode; each process would compile it again, which no user's does.
    """
    if not Path(torch.__cached__).is_file():
        raise UserError("torch has no compiled bytecode, and each start would take seconds longer: "
                        f"{sys.executable} -m compileall -q {Path(torch.__path__[0]).parent}")
    wall, stages, useful = default_sweep()
    start_here(num_cpus=2, log_to_driver=False, logging_level="error")
    first, further = overheads()
    extra, more = memory()
    scored, grid = epoch_costs()
    ray.shutdown()
    return [
        row("overhead_first_trial_seconds", first, "s: Tune, a worker, its imports"),
        row("overhead_further_trial_seconds", further, "s", at_most(0.05)),
        row("memory_per_further_trial_mib", extra, f"MiB, a quarter of {more:.0f} MiB of further images at most",
            at_most(more / 4)),
        row("epoch_search_cost_vs_grid", scored / grid, f"of a grid over 1 to {EPOCHS} epochs", at_most(0.25)),
        row("default_sweep_seconds", wall, "s, the whole command", at_most(60)),
        row("default_sweep_useful_percent", useful, "% of two cores in training, attacks, trials", at_least(80)),
        *(row(f"default_sweep_{name.replace(' ', '_')}_seconds", seconds, "s") for name, seconds in stages.items()),
    ]


def main() -> None:
    """Measure, print, and write the rows where asked."""
    options = command(__doc__).parse_args()
    show(measure(), options.json)


if __name__ == "__main__":
    end(main)
