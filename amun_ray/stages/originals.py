"""Stage 1: every model trained from scratch (originals, retrained models, RMIA references) or loaded.

Cost: `originals x (1 + forget sets) + references` training runs, all independent, so time falls with the number of
workers until each has one run. With `resources.gpus` above 1, or `resources.widen`, a run takes several workers, which
exchange all gradients in each step; with `auto`, several runs may share a GPU. Storage: one weights file per original
and retrained model, and for every model, references included, its logits on all samples: `N x classes` float32.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ray

from amun_ray.base.errors import Diverged, UserError
from amun_ray.base.seeds import generator
from amun_ray.runtime.bench import SharedWorkspace, bench
from amun_ray.runtime.queue import IN_FLIGHT, make_missing
from amun_ray.stages.together import gpus_now, run_together
from amun_ray.stages.widening import widths_of
from amun_ray.storage.sharing import make_once, overtaken
from amun_ray.storage.store import Store, Unit
from amun_ray.training.group import ALONE, Group
from amun_ray.training.loop import fit
from amun_ray.work import bounded
from amun_ray.work.artifacts import cpu_state, store_logits, store_weights
from amun_ray.work.units import LOGITS, WEIGHTS, Trained, Training


def train_models(workspace: SharedWorkspace, trainings: Sequence[Training], options: dict[str, Any],
                 over: Callable[[Training, Trained, dict[str, Any]], None] = lambda *_: None) -> list[Trained]:
    """Train the models that the store lacks, as Ray tasks; the result is in the order of `trainings`.

    `over` is called with each training, its model and the options of its worker, or of each of them, as soon as the
    model exists.

    Raises:
        UserError: a checkpoint that does not fit the model, or a training that diverged, with its name.
    """
    jobs = [(training, training.unit(workspace)) for training in trainings]
    shared, widths = ray.put(workspace), widths_of(workspace, jobs, options)

    def width(job: tuple[Training, Unit]) -> int:
        return math.ceil(widths[job[1].digest])

    def held(job: tuple[Training, Unit]) -> dict[str, Any]:
        return options | {"num_gpus": options["num_gpus"] * min(1, widths[job[1].digest])}

    def submit(job: tuple[Training, Unit]) -> "ray.ObjectRef[Any]":
        if width(job) > 1:
            return _train_together.remote(shared, *job, width(job), options)
        return _train.options(max_retries=3, **held(job)).remote(shared, *job)

    models: dict[str, Trained] = {}

    def finished(job: tuple[Training, Unit], new: bool) -> None:
        training, unit = job
        models[training.name] = _trained(workspace.store, training.name, unit, reused=not new)
        over(training, models[training.name], held(job))

    verb = "loading" if all(training.checkpoint for training in trainings) else "training"
    several = any(number > 1 for number in widths.values())
    make_missing(workspace.store, jobs, lambda job: job[1], submit, shown=(verb, "models"), over=finished,
                 limit=gpus_now if several else lambda: IN_FLIGHT, weight=width)
    return [models[training.name] for training in trainings]


@ray.remote
def _train(workspace: SharedWorkspace, training: Training, unit: Unit) -> bool:
    return make_once(workspace.store, unit, lambda: make_model(workspace, training, unit))


@ray.remote(num_cpus=0, max_retries=3)
def _train_together(workspace: SharedWorkspace, training: Training, unit: Unit, workers: int,
                    options: dict[str, Any]) -> bool:
    return make_once(workspace.store, unit, lambda: run_together(
        workspace.store, partial(make_model, workspace, training, unit), workers, options))


def make_model(workspace: SharedWorkspace, training: Training, unit: Unit, group: Group = ALONE) -> None:
    """Train or load one model, predict every sample with it, and store both; the last two in one process of `group`."""
    here, started = bench(workspace), time.monotonic()
    loaded = training.checkpoint
    model = workspace.beginner(training.seed) if loaded is None else workspace.new_model(training.seed)
    model.to(here.device)
    try:
        if loaded is not None:
            model.load_state_dict(loaded.state)
            bounded.check(model, here.pixels, training.name)
        else:
            for _ in fit(model, [here.part(training.rows)], recipe=training.recipe(workspace),
                         augmentation=workspace.sweep.data.augmentation,
                         generator=generator(training.seed, "order"), group=group):
                pass
        if group.rank:
            return
        seconds, logits = group.size * (time.monotonic() - started), here.logits(model)
        layers = bounded.measured(model, here.pixels)
    except Diverged as error:
        raise UserError(f"{training.name}: {error}. Lower training.lr, or fix the checkpoint") from error
    if overtaken(workspace.store, unit):
        return
    store_logits(workspace.store, unit, logits)
    weights = store_weights(workspace.store, unit, cpu_state(model)) if training.keep_weights else None
    workspace.store.finish(unit, {"name": training.name, "weights": weights, "seconds": seconds,
                                  "samples": len(training.rows)} | layers,
                           [LOGITS] if weights is None else [LOGITS, WEIGHTS])


def _trained(store: Store, name: str, unit: Unit, *, reused: bool) -> Trained:
    result = store.made(unit)
    return Trained(name, unit, result["weights"], result["seconds"], reused)
