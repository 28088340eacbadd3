"""What a sweep will do, counted before any worker is asked for."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np

from amun_ray import models
from amun_ray.config import Sweep
from amun_ray.data.dataset import Dataset
from amun_ray.data.indices import read_indices
from amun_ray.data.splits import ForgetSets, random_forget_sets, requested_forget_sets
from amun_ray.models import checkpoint


@dataclass(frozen=True, eq=False)
class Plan:
    """A config and its dataset: which forget sets there are, and how much work that makes."""

    sweep: Sweep
    dataset: Dataset

    @cached_property
    def sets(self) -> ForgetSets:
        """The held-out and the final forget sets; no row is in both kinds.

        Raises:
            UserError: an index file that names no valid set, or a set too large for a disjoint one of its size.
        """
        forget, held_out, seed = self.sweep.forget, self.sweep.held_out.sets, self.sweep.seed
        if forget.indices is not None:
            rows = read_indices(forget.indices, self.dataset.train_size)
            return requested_forget_sets(self.dataset.train_size, rows, held_out=held_out, seed=seed)
        return random_forget_sets(self.dataset.train_size, forget.fraction, sets=forget.sets, held_out=held_out,
                                  seed=seed)

    @property
    def held_out(self) -> Iterator[tuple[int, str, np.ndarray]]:
        """`(original, name, rows)` of every case that the search may see."""
        for original in range(self.sweep.held_out.originals):
            for number, rows in enumerate(self.sets.held_out):
                yield original, f"held_out {number}", rows

    @property
    def final(self) -> Iterator[tuple[int, str, np.ndarray]]:
        """`(original, name, rows)` of every case that the results count on."""
        for original in range(self.sweep.originals.count):
            for number, rows in enumerate(self.sets.final):
                yield original, f"final {number}", rows

    def check(self) -> None:
        """Draw the forget sets, build the network, load the checkpoints into it: here, before any worker is asked for.

        Raises:
            UserError: as `sets`; a network that does not fit the data; a checkpoint that does not fit the network.
        """
        assert self.sets.final
        mean, std = self.dataset.statistics
        network = models.build(self.sweep.model.name, channels=self.dataset.channels, classes=self.dataset.classes,
                               size=self.dataset.size, mean=mean, std=std, seed=self.sweep.seed,
                               options=self.sweep.model.options)
        for path in self.sweep.originals.checkpoints or ():
            checkpoint.load_into(network, path)

    def __str__(self) -> str:
        sweep, sets = self.sweep, self.sets
        cases = [*self.held_out, *self.final]
        retrained = sweep.held_out.originals * len(sets.held_out) + sweep.originals.count * len(sets.final)
        shards = sum(ceil(len(rows) / sweep.attack.shard_size) for _, _, rows in cases)
        contenders = len(sweep.contenders)
        each = f"{sweep.resources.cpus:g} CPU and, where the cluster has any, {sweep.resources.gpus:g} GPU each"
        return "\n".join([
            f"sweep {sweep.name}: {self.dataset.name}, {self.dataset.train_size} training and "
            f"{len(self.dataset) - self.dataset.train_size} test images of {self.dataset.classes} classes; "
            f"{len(sets.final[0])} to be forgotten",
            f"  trainings   {sweep.originals.count + retrained + sweep.references.count} "
            f"({sweep.originals.count} original, {retrained} retrained, {sweep.references.count} reference models), "
            f"{sweep.training.epochs} epochs; {each}",
            f"  adversaries {sum(len(rows) for _, _, rows in cases)} images in {shards} shards "
            f"({len(cases)} sets, {sweep.attack.search.name}); {each}",
            f"  search      {contenders * sweep.search.trials} trials ({contenders} methods and accesses x "
            f"{sweep.search.trials}), {sweep.search.epochs} epochs on {len([*self.held_out])} held-out case(s); {each}",
            f"  final       {contenders * len([*self.final]) * sweep.final.runs} unlearned models "
            f"({contenders} x {len([*self.final])} cases x {sweep.final.runs} runs); {each}"])
