"""How many images per second one worker of a sweep trains, predicts and attacks on this machine's device."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from amun_ray.attacks import craft
from amun_ray.base.device import device_name, take_device
from amun_ray.base.seeds import generator
from amun_ray.base.tensors import shared_tensor, to_unit
from amun_ray.metrics import Split, predict, score
from amun_ray.storage.store import Store, Unit
from amun_ray.training.loop import fit
from amun_ray.training.parts import Part
from amun_ray.training.recipe import TRADES, Recipe
from amun_ray.work.estimate import Work
from amun_ray.work.plan import Plan

ENOUGH_SECONDS = 1.5  # least duration of a measured run
ATTACKED_FIRST = 2  # images in the first run: an attack takes as long as hundreds of predictions


def calibrate(plan: Plan, store: Store) -> None:
    """Measure this machine and store the result for `calibrated`: takes half a minute, a minute if the machine is slow.

    The work is that of the plan: its network, images, batch sizes and precisions, with a worker's number of threads.
    The attacked network has seen only a few batches, and is easier to flip than a trained one.
    """
    device = take_device(plan.sweep.resources.threads)
    store.check_writable()
    store.finish(_unit(plan), {"device": device_name(device), "rates": _measure(plan, device)._asdict()})


def calibrated(plan: Plan, store: Store) -> tuple[str, Work] | None:
    """The device last calibrated for the work of this plan, and its units per second; None if there is none."""
    rates = store.result(_unit(plan))
    return None if rates is None else (rates["device"], Work(**rates["rates"]))


def _unit(plan: Plan) -> Unit:
    """A calibration's address: everything its rates depend on except the device."""
    sweep, dataset = plan.sweep, plan.dataset
    settings = sweep.inputs(mode="json")
    recipe = settings["training"]
    return Unit("calibrations", {
        "images": list(dataset.pixels.shape), "classes": dataset.classes, "model": plan.network.identity["model"],
        "training": {key: recipe[key] for key in ("batch_size", "precision", "compile", "loss", *TRADES)
                     if key in recipe},
        "unlearning": settings["unlearning"], "attack": settings["attack"], "rmia": settings["rmia"],
        "augmentation": sweep.data.augmentation.inputs, "threads": sweep.resources.threads})


def _measure(plan: Plan, device: torch.device) -> Work:
    sweep, dataset = plan.sweep, plan.dataset
    network = plan.new_model().to(device)
    pixels, labels = shared_tensor(dataset.pixels), torch.from_numpy(dataset.labels)

    def part(count: int) -> Part:
        rows = torch.arange(count) % dataset.train_size
        return Part(pixels[rows].to(device), labels[rows].to(device), augment=True)

    def attack(count: int) -> None:
        given = part(count)
        craft(network, to_unit(given.images), given.labels, settings=sweep.attack.search)

    recipe = sweep.training
    unlearning = Recipe(lr=1e-6, epochs=1, **sweep.unlearning.model_dump())
    once = Recipe(lr=recipe.lr, epochs=1, batch_size=recipe.batch_size, momentum=recipe.momentum,
                  weight_decay=recipe.weight_decay, precision=recipe.precision, compile=recipe.compile,
                  **{key: getattr(recipe, key) for key in ("loss", *TRADES)})
    everything = pixels.to(device)
    speed = partial(_per_second, clock=_clock(device))
    return Work(
        trained=speed(lambda count: _train(network, part(count), once, plan), recipe.batch_size),
        unlearned=speed(lambda count: _train(network, part(count), unlearning, plan), unlearning.batch_size),
        predicted=speed(lambda count: predict(network, everything[:count]), min(128, len(pixels)), len(pixels)),
        attacked=speed(attack, ATTACKED_FIRST, sweep.attack.shard_size),
        scored=speed(lambda count: _score(plan, count), 1))


def _clock(device: torch.device) -> Callable[[], float]:
    """Seconds: wall-clock time on a GPU; CPU time of this process on a CPU, since other programs running now need not
    run later."""
    if device.type == "cuda":
        return time.perf_counter
    return lambda: time.process_time() / torch.get_num_threads()


def _per_second(work: Callable[[int], Any], start: int, most: int | None = None, *,
                clock: Callable[[], float]) -> float:
    """Units per second of `work(count)`: after a warm-up run, `count` doubles until a run takes long enough.

    `count` never exceeds `most`: such runs are repeated instead.
    """
    work(start)
    count, times = start, 1
    while True:
        begun = clock()
        for _ in range(times):
            work(count)
        took = clock() - begun
        if took >= ENOUGH_SECONDS:
            return count * times / took
        if most is not None and 2 * count > most:
            times *= 2
        else:
            count *= 2


def _train(network: nn.Module, part: Part, recipe: Recipe, plan: Plan) -> None:
    for _ in fit(network, [part], recipe=recipe, augmentation=plan.sweep.data.augmentation,
                 generator=generator(plan.sweep.seed, "calibration")):
        pass


def _score(plan: Plan, count: int) -> None:
    """Score random predictions `count` times."""
    dataset, rng = plan.dataset, np.random.default_rng(0)
    logits = rng.standard_normal((len(dataset), dataset.classes), dtype=np.float32)
    forget = np.arange(len(plan.sets.final[0]))  # which rows these are does not matter
    rows = Split.of(forget, labels=dataset.labels, train_size=dataset.train_size)
    for _ in range(count):
        score(logits, dataset.labels, rows, np.full(len(dataset), 0.1), settings=plan.sweep.rmia)
