"""Stage 3: learning rate, schedule and number of epochs of every method, searched on the held-out forget sets only.

One Tune experiment serves all methods. A trial runs `search.epochs` epochs and thereby scores every smaller number too,
because no schedule depends on the total. Each score is the mean over all cases: the held-out forget sets of the
originals that the config selects. With two terms in the objective, a trial is represented by the epoch with the
smallest mean of both, and the finals use the trial with the smallest mean: both are in points, and that trial is on the
Pareto front. Cost: (methods and accesses) x trials x cases x epochs passes over the data.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import ray
import torch
from ray import tune
from ray.exceptions import RayError

from amun_ray.base.device import gpu_memory
from amun_ray.base.errors import Diverged, UserError, in_words
from amun_ray.base.log import hushed
from amun_ray.base.progress import bar
from amun_ray.metrics import jackknife_error
from amun_ray.runtime.bench import SharedWorkspace
from amun_ray.runtime.cluster import fit_on_gpu
from amun_ray.runtime.neighbours import Neighbours, Share
from amun_ray.stages.cases import OpenCase, bank_scores, run_case, with_terms
from amun_ray.stages.packing import shared
from amun_ray.stages.studies import BROKEN, FAILED, InOrder, Studies
from amun_ray.storage.sharing import overtaken
from amun_ray.unlearn import Contender
from amun_ray.work.artifacts import cpu_state, store_weights
from amun_ray.work.plan import trial_count
from amun_ray.work.stopping import Limits
from amun_ray.work.trials import Job, Trial, curve, cut, shortened
from amun_ray.work.units import Hyperparameters, case_weights

LOST_WORKERS = 2  # retries of a trial whose worker was lost


@dataclass(frozen=True)
class SearchResult:
    """The result of a search: for every (method, access) its best trial and its Pareto front."""

    best: dict[Contender, Trial]
    fronts: dict[Contender, list[Trial]]
    lost: dict[Contender, str]  # those without a successful trial, with the first one's reason


def best_settings(workspace: SharedWorkspace, cases: Sequence[OpenCase], options: dict[str, Any], at_once: int,
                  on_trial: Callable[[Trial, bool], None]) -> SearchResult:
    """Search; `on_trial` is called with each trial that is over, and whether the store already had it.

    Raises:
        UserError: no method has a successful trial (with the reasons), or the store can no longer be written.
    """
    total = sum(trial_count(workspace.sweep, contender) for contender in workspace.sweep.contenders)
    with bar("search", total, "trials") as progress:
        def over(trial: Trial, stored: bool) -> None:
            progress.stored += stored
            on_trial(trial, stored)
            progress.advance()
        studies = Studies(workspace, cases, over)
        if studies.unfinished:
            _run_tune(workspace, cases, studies, options, at_once)
    return SearchResult(studies.winners(), studies.fronts(), studies.lost())


def unlearners(workspace: SharedWorkspace, cases: Sequence[OpenCase], options: dict[str, float], trials: int,
               finals: int) -> tuple[dict[str, float], dict[str, float]]:
    """The options of the worker of a trial, of which so many run at a time, and of a final model.

    Where several would share a GPU (`resources.gpus: auto`), the first trial missing from the store runs alone, on a
    whole GPU, and tells how many fit by the memory that it takes. Its result is kept.
    """
    fit = cache(partial(_fit, workspace, cases, options))
    return (shared(workspace, options, trials, "trials at a time", fit),
            shared(workspace, options, finals, "final models", fit))


def _fit(workspace: SharedWorkspace, cases: Sequence[OpenCase], options: dict[str, float]) -> int:
    seen = measure_first(workspace, cases, options)
    return 1 if seen is None else fit_on_gpu(*seen)


def measure_first(workspace: SharedWorkspace, cases: Sequence[OpenCase],
                  options: dict[str, float]) -> tuple[int, int] | None:
    """Run the first trial missing from the store; returns its peak GPU memory and the GPU's total, in bytes. None if
    there is no such trial, it failed, or its worker has no GPU."""
    studies = Studies(workspace, cases, lambda trial, stored: None)
    if not studies.unfinished:
        return None
    return ray.get(_measure.options(**options).remote(workspace, tuple(cases), studies.next_job))


@ray.remote(max_calls=1)  # the process ends with the trial and frees its GPU memory
def _measure(workspace: SharedWorkspace, cases: Sequence[OpenCase], job: Job) -> tuple[int, int] | None:
    try:
        score_trial(workspace, cases, job, report=lambda metrics: None)
    except Exception:
        return None  # the search runs into the error again and reports it
    return gpu_memory()


def _run_tune(workspace: SharedWorkspace, cases: Sequence[OpenCase], studies: Studies, options: dict[str, Any],
              at_once: int) -> None:
    """One Tune experiment for the trials missing from the store.

    Its files are temporary, and it prints nothing: the sweep has its own output. It takes no snapshots of itself: the
    store has every trial.
    """
    os.environ |= {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
                   "TUNE_DISABLE_SIGINT_HANDLER": "1"}  # Ctrl-C ends the sweep, not only the search
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "inf")
    shared = ray.put((workspace, tuple(cases)))
    trainable = tune.with_resources(tune.with_parameters(run_trial, shared=[shared]),
                                    {"cpu": options["num_cpus"], "gpu": options["num_gpus"]})
    studies.share = Share(options)
    with workspace.store.scratch() as folder, Neighbours.wanting(studies.total), hushed():
        tune.Tuner(trainable,
                   tune_config=tune.TuneConfig(search_alg=studies, scheduler=InOrder(studies), reuse_actors=True,
                                               num_samples=2 * studies.total,  # at most: first rounds may run again
                                               max_concurrent_trials=at_once),
                   run_config=tune.RunConfig(verbose=0, name="search", storage_path=folder,
                                             failure_config=tune.FailureConfig(max_failures=LOST_WORKERS))).fit()
    if studies.broken:
        raise UserError(f"search: {studies.broken}; what is finished is kept, and the same command goes on from there")


def run_trial(config: dict[str, Any], shared: "list[ray.ObjectRef[Any]]") -> None:
    """One trial, in a worker. Its result is in the store, or Tune gets the reason why not.

    Out of memory is retried once, since a neighbour on the same GPU may have ended by then. An error in a method is
    not: it would happen again. Neither is stored as the trial's result, since another start may have more memory or the
    error fixed. Tune itself retries lost workers and lost objects.
    """
    workspace, cases = ray.get(shared[0])
    job = Job.of(workspace, cases, Contender(*config["contender"]), 0, Hyperparameters(*config["settings"]),
                 config["limits"] and Limits(*config["limits"]))
    try:
        try:
            score_trial(workspace, cases, job)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            score_trial(workspace, cases, job)
    except RayError:
        raise
    except OSError as error:
        tune.report({BROKEN: in_words(error)})
    except Exception as error:  # from any method's code: it ends only this trial, with its reason
        tune.report({FAILED: in_words(error)})


def score_trial(workspace: SharedWorkspace, cases: Sequence[OpenCase], job: Job,
                report: Callable[[dict[str, float]], None] = tune.report) -> None:
    """Unlearn all cases epoch by epoch, `report` each epoch's score, keep each model's best state, store the result.

    No schedule depends on the total, so a run that diverges counts with its earlier epochs; if it has none, it is a
    finished trial without a score. The reason is stored, also for a trial that ended early.
    """
    terms, store, started = workspace.sweep.search.terms, workspace.store, time.monotonic()
    runs = [run_case(workspace, case, job.contender, job.settings, run=0) for case in cases]
    unit, best = job.whole, []
    result: dict[str, Any] = {term: [] for term in terms} | {"curves": [[] for _ in cases]}
    try:
        for number, epochs in enumerate(zip(*runs, strict=True), 1):
            for scores, case, epoch in zip(result["curves"], cases, epochs, strict=True):
                scores.append(with_terms(case, epoch.scores, terms))
            for term in terms:
                result[term].append(float(np.mean([scores[-1][term] for scores in result["curves"]])))
            values = curve(result)
            if values.index(min(values)) == number - 1:  # of equal epochs the first, which is the one that is named
                best = [(cpu_state(epoch.model), epoch.logits) for epoch in epochs]
            report({"value": values[-1], "best_value": min(values)})
            if (over := job.end(values)) is None:
                continue
            if over.hopeless:
                store.finish(job.stopped, cut(result, over) | spent(started))
                return
            unit, result = job.past, shortened(result, over)
            break
    except Diverged as error:
        reason = f"epoch {len(result[terms[0]]) + 1}: {error}"
        if not best:
            store.finish(job.whole, {"failed": reason} | result | spent(started))
            return
        result["diverged"] = reason
    if overtaken(store, unit):
        return
    kept = best if workspace.sweep.tracking.models == "all" else []
    weights = [store_weights(store, unit, state, case_weights(place)) for place, (state, _) in enumerate(kept)]
    at = int(np.argmin(values))
    result |= _bank_error(workspace, cases, [logits for _, logits in best])
    store.finish(unit, {f"best_{term}": result[term][at] for term in terms} | result | {
        "best_epoch": at + 1, "weights": weights} | spent(started), [case_weights(place) for place in range(len(kept))])


def _bank_error(workspace: SharedWorkspace, cases: Sequence[OpenCase],
                logits: Sequence[np.ndarray]) -> dict[str, float]:
    """The standard error that the finite reference bank makes in the objective of models with these `logits`, one a
    case: by the jackknife over pairs of references. Cost: as many scores as there are pairs, for each case."""
    terms = workspace.sweep.search.terms
    if terms == ("iam_gap",):  # its references are those without each sample: no pair can be left out of these few
        return {}
    scored = [[with_terms(case, scores, terms) for scores in bank_scores(workspace, case, unlearned)]
              for case, unlearned in zip(cases, logits, strict=True)]
    values = [float(np.mean([scores[term] for scores in bank for term in terms])) for bank in zip(*scored, strict=True)]
    return {"bank_error": jackknife_error(values)} if len(values) > 1 else {}


def spent(started: float) -> dict[str, float]:
    """The cost in a result: the seconds since `started`."""
    return {"seconds": time.monotonic() - started}
