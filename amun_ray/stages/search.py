"""Stage 3: learning rate, schedule and number of epochs of every method, searched on the held-out forget sets alone.

One Tune experiment serves all methods. A trial runs `search.epochs` epochs and so scores every smaller number of epochs
too, because no schedule looks at the total.
Cost: (methods and accesses) x trials x cases x epochs passes over the data.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import ray
from ray import tune

from amun_ray.errors import Diverged
from amun_ray.stages.cases import Case, Contender, Settings, run_case
from amun_ray.stages.originals import cpu_state, store_weights
from amun_ray.stages.progress import bar
from amun_ray.stages.studies import METRIC, Studies, Trial, trial_unit
from amun_ray.stages.workspace import Workspace

LOST_WORKERS = 2  # how often a trial is tried again when its worker is lost


def best_settings(workspace: Workspace, cases: Sequence[Case], options: dict, workers: int,
                  on_trial: Callable[[Trial], None]) -> dict[Contender, Trial]:
    """The best trial of every (method, access); `on_trial` is called with each trial as it finishes.

    Raises:
        UserError: a method has no successful trial; the reason of its first one is in the message.
    """
    with bar("search", len(workspace.sweep.contenders) * workspace.sweep.search.trials, "trials") as progress:
        def finished(trial: Trial) -> None:
            progress.update()
            on_trial(trial)
        studies = Studies(workspace, cases, finished)
        if studies.unfinished:
            _run_tune(workspace, cases, studies, options, workers)
    return studies.winners()


def _run_tune(workspace: Workspace, cases: Sequence[Case], studies: Studies, options: dict, workers: int) -> None:
    """One Tune experiment for the trials that the store does not hold.

    Its files are of no further use, and it stays silent: a sweep speaks with one voice.
    """
    os.environ |= {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
                   "TUNE_DISABLE_SIGINT_HANDLER": "1"}  # Ctrl-C ends the sweep, not the search alone
    shared = ray.put((workspace, tuple(cases)))
    trainable = tune.with_resources(tune.with_parameters(run_trial, shared=[shared]),
                                    {"cpu": options["num_cpus"], "gpu": options["num_gpus"]})
    with workspace.store.scratch() as folder, open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        tune.Tuner(trainable,
                   tune_config=tune.TuneConfig(search_alg=studies, num_samples=studies.total, reuse_actors=True,
                                               max_concurrent_trials=workers),
                   run_config=tune.RunConfig(verbose=0, name="search", storage_path=folder,
                                             failure_config=tune.FailureConfig(max_failures=LOST_WORKERS))).fit()


def run_trial(config: dict[str, Any], shared: list[ray.ObjectRef]) -> None:
    """One trial, in a worker: unlearn every case in step, score after each epoch, keep each model's best state.

    A run that diverges is a finished trial without a score, and its reason is stored.
    """
    workspace, cases = ray.get(shared[0])
    contender, settings = Contender(*config["contender"]), Settings(*config["settings"])
    unit, started = trial_unit(workspace, cases, contender, settings), time.monotonic()
    runs = [run_case(workspace, case, contender, settings, run=0) for case in cases]
    gaps, curves, best = [], [[] for _ in cases], []
    try:
        for epochs in zip(*runs, strict=True):
            for curve, epoch in zip(curves, epochs, strict=True):
                curve.append(epoch.scores)
            gaps.append(float(np.mean([epoch.scores["average_gap"] for epoch in epochs])))
            if gaps[-1] == min(gaps):
                best = [cpu_state(epoch.model) for epoch in epochs]
            tune.report({METRIC: min(gaps), "average_gap": gaps[-1]})
    except Diverged as error:
        workspace.store.finish(unit, {"failed": f"epoch {len(gaps) + 1}: {error}"})
        return
    weights = [store_weights(workspace.store, unit, state, f"weights-{place}.safetensors")
               for place, state in enumerate(best)] if workspace.sweep.tracking.models == "all" else []
    workspace.store.finish(unit, {
        METRIC: min(gaps), "best_epoch": 1 + int(np.argmin(gaps)), "average_gap": gaps, "curves": curves,
        "weights": weights, "seconds": time.monotonic() - started})
