"""What a sweep will do, counted before any worker is requested."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from amun_ray.base.errors import UserError
from amun_ray.base.seeds import derive
from amun_ray.config.schema import Sweep
from amun_ray.config.search import OBJECTIVES, SELECTED
from amun_ray.data import requests
from amun_ray.data.dataset import Dataset
from amun_ray.data.keep import Keep
from amun_ray.data.requests import Request
from amun_ray.data.splits import ForgetSets
from amun_ray.data.twins import forgotten_near_copies, forgotten_twins, unseen_twins
from amun_ray.storage.pixels import keep_in
from amun_ray.storage.store import Store
from amun_ray.unlearn import Contender
from amun_ray.work import audited
from amun_ray.work.asked_for import choice, request_of, sets_of
from amun_ray.work.checkpoints import Checkpoint, read_checkpoint
from amun_ray.work.network import Network
from amun_ray.work.units import ForgetCase, Workspace, rows_digest

WARNING = "warning: "
UNLIKE = 2  # a held-out set should not be larger or smaller than the request by this factor
ELSEWHERE = ("storage", "tracking", "resources", "requests")  # where it runs and writes: results do not depend on it
BEGUN = ("every training begins at these weights, the retrained and the reference models' too: retraining means from "
         "there on, and what the weights know of D_F, all models keep")


@dataclass(frozen=True, eq=False)
class Plan:
    """A config and its dataset: the forget sets and the amount of work."""

    sweep: Sweep
    dataset: Dataset
    memorised: np.ndarray | None = None  # (N, 2) as in `metrics.memorisation`, where `forget.choose` asks for it

    @cached_property
    def request(self) -> Request | None:
        """As in `asked_for.request_of`."""
        return request_of(self.sweep, self.dataset)

    @cached_property
    def sets(self) -> ForgetSets:
        """As in `asked_for.sets_of`; rows of -1 while the plan `waits`: only their number is known.

        Raises:
            UserError: as in `request`, or a set too large for disjoint ones like it.
        """
        return sets_of(self.sweep, self.dataset, self.request, self.memorised)

    @property
    def waits(self) -> bool:
        """Whether the forget sets follow from reference models that are not there yet (`forget.choose`)."""
        return self.sweep.forget.choose != "random" and self.memorised is None

    @property
    def choice(self) -> list[str]:
        """As in `asked_for.choice`."""
        return choice(self.sweep, self.dataset, self.sets, self.memorised)

    def remembering(self, memorised: np.ndarray) -> "Plan":
        """The plan with the forget sets that follow from `memorised`; what it has read is not read again."""
        plan = replace(self, memorised=memorised)
        vars(plan).update({name: value for name, value in vars(self).items()
                           if name in ("checkpoints", "start", "network")})
        return plan

    @property
    def held_out(self) -> list[ForgetCase]:
        """The cases of the search."""
        return [ForgetCase(original, f"held_out {number}", rows) for original in range(self.sweep.held_out.originals)
                for number, rows in enumerate(self.sets.held_out)]

    @property
    def final(self) -> list[ForgetCase]:
        """The cases of the results."""
        return [ForgetCase(original, f"final {number}", rows) for original in range(self.sweep.originals.count)
                for number, rows in enumerate(self.sets.final)]

    @property
    def cases(self) -> list[ForgetCase]:
        """All cases, the held-out ones first."""
        return [*self.held_out, *self.final]

    @property
    def shards(self) -> int:
        """How many shards the adversarial sets have."""
        return sum(ceil(len(case.rows) / self.sweep.attack.shard_size) for case in self.cases)

    @property
    def retrained(self) -> dict[str, int]:
        """How many models are retrained without each forget set, by name: one for each original that forgets it."""
        cases = [*(self.held_out if self.sweep.search.needs_retrained else ()), *self.final]
        return Counter(case.name for case in cases)

    @property
    def searched(self) -> str:
        """For readers of the results: by what and on which sets the settings were chosen."""
        names = ", ".join(dict.fromkeys(case.name for case in self.held_out))
        return (f"Settings were searched by {OBJECTIVES[self.sweep.search.objective]}, mean over the forget set(s) "
                f"{names} of {self.sweep.held_out.originals} original(s); these share no sample with the final ones."
                f"{SELECTED[self.sweep.search.select]}{self._on_few}"
                + (f" Weights: {self.start.source}; {BEGUN}." if self.start else ""))

    @property
    def _on_few(self) -> str:
        """A sentence on the samples that score the trials, unless these are all."""
        few = self.sweep.search.score_samples
        return "" if few is None else (f" Trials were scored on D_F and at most {few:,} samples of D_R and of D_T, and "
                                       "the retrained models on the same; the results are on all.")

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two starts the same sweep: everything except where it runs and writes.

        Checkpoints and forget lists count by content: a registry alias may move to another model, and a list may be
        rewritten under its old name.
        """
        settings = self.sweep.inputs(mode="json", exclude=set(ELSEWHERE))
        settings["model"] = self.network.identity["model"]
        read: dict[str, Any] = {}
        if self.checkpoints:
            read["checkpoints"] = [checkpoint.digest for checkpoint in self.checkpoints]
        if self.start is not None:
            read["start"] = self.start.digest
        if self.request is not None:
            read["forget"] = rows_digest(self.sets.final[0])
        return {"sweep": settings, "dataset": self.dataset.digest} | read

    @cached_property
    def warnings(self) -> list[str]:
        """Probable mistakes in the data, the request or its reading, one line each, for the plan and the report."""
        final = () if self.waits else self.sets.final
        warnings = [unseen_twins(self.dataset), *(forgotten_twins(self.dataset, rows) for rows in final)]
        if self.request is not None:
            warnings += [forgotten_near_copies(self.dataset, self.sets.final[0]), *self._unlike()]
        if self.sweep.forget.choose != "random":
            warnings.append(f"{WARNING}the {self.sweep.forget.choose} images are forgotten, and unseen ones are not "
                            "like them: the retrained models are the target of every column, also where 50 is called "
                            "a good value")
        return [*(note for note in self.dataset.notes if note.startswith(WARNING)), *filter(None, warnings)]

    def _unlike(self) -> Iterator[str]:
        """A warning for each held-out set of groups whose size differs a lot from the request's."""
        for number, (rows, name) in enumerate(zip(self.sets.held_out, self.sets.groups, strict=False)):
            if not 1 / UNLIKE <= len(rows) / len(self.sets.final[0]) <= UNLIKE:
                yield (f"{WARNING}held-out set {number} ({name}) has {len(rows)} images, the request "
                       f"{len(self.sets.final[0])}, and no others are nearer: settings that suit it may not suit the "
                       "request")

    @property
    def not_audited(self) -> dict[str, str]:
        """The attacks of the report that lack what they need, with the reason."""
        return self.sweep.audit.left_out(self.sweep.originals.count, min(len(rows) for rows in self.sets.final),
                                         self.sweep.references.count)

    @property
    def audited(self) -> list[str]:
        """The attacks of the report that have it."""
        return [name for name in self.sweep.audit.chosen() if name not in self.not_audited]

    @property
    def probed(self) -> int:
        """The models that each of PROBES reads: unlearned ones, an original and a retrained one of each final case."""
        return len(self.final) * (len(self.sweep.contenders) * self.sweep.final.runs + 2)

    def store(self, output: Path) -> Store:
        """Where finished work is stored: the config's storage, or a folder in `output`."""
        return Store(self.sweep.storage or str(output.absolute() / "store"))

    @cached_property
    def checkpoints(self) -> list[Checkpoint]:
        """The originals that are loaded, not trained; UserError as in `read_checkpoint`."""
        if not (sources := self.sweep.originals.checkpoints):
            return []
        model = self.new_model()
        return [read_checkpoint(source, self.sweep.tracking.uri, model) for source in sources]

    @cached_property
    def start(self) -> Checkpoint | None:
        """The weights from which every training starts; UserError as in `read_checkpoint`."""
        if not (source := self.sweep.model.weights):
            return None
        return read_checkpoint(source, self.sweep.tracking.uri, self.new_model(), self.network.head)

    @cached_property
    def network(self) -> Network:
        """The sweep's network for these data; UserError as in `Network.of`."""
        return Network.of(self.sweep, self.dataset)

    def workspace(self, store: Store) -> Workspace:
        """What every piece of work of the sweep needs to know."""
        return Workspace.of(self.sweep, store, self.dataset, self.start)

    def new_model(self) -> nn.Module:
        """The sweep's network on the CPU, initialised from the sweep's seed, normalisation in front."""
        return self.network.build(self.sweep.seed)

    def check(self) -> None:
        """Draw the forget sets, build the network, read the checkpoints, before any worker is requested.

        Raises:
            UserError: as in `sets`; a network or a crop that does not fit the data; a checkpoint that does not fit the
                network.
        """
        assert self.sets.final
        if (crop := self.sweep.data.crop) >= self.dataset.size:
            raise UserError(f"data.crop: must be less than the {self.dataset.size} pixels of a side, but got {crop}")
        network = self.new_model()
        audited.check(self.sweep, self.dataset, network)
        wanted = str(network.normalize)
        for checkpoint in [*self.checkpoints, *filter(None, [self.start])]:
            checkpoint.begin(network)
            if self.sweep.data.normalize is not None and str(network.normalize) != wanted:
                raise UserError(f"{checkpoint.source}: brings a normalisation of its own, {network.normalize}, and "
                                f"data.normalize says {wanted}; leave data.normalize out, or give these numbers")

    def __str__(self) -> str:
        sweep, sets, cases = self.sweep, self.sets, self.cases
        retrained, many = sum(self.retrained.values()), sweep.resources.together
        contenders, trials = len(sweep.contenders), [trial_count(sweep, contender) for contender in sweep.contenders]
        where = "" if sweep.resources.needs_gpu else ", where the cluster has any,"
        gpus = "a measured share of a" if sweep.resources.gpus == "auto" else f"{sweep.resources.whole_gpus:g}"
        each = f"{sweep.resources.cpus:g} CPU and{where} {gpus} GPU each"
        return "\n".join([
            f"sweep {sweep.name}: {self.dataset.name}, {self.dataset.train_size} training and "
            f"{len(self.dataset) - self.dataset.train_size} test images of {self.dataset.classes} classes; "
            f"{len(sets.final[0])} to be forgotten",
            *(f"  {note}" for note in self.dataset.notes if not note.startswith(WARNING)),
            *([f"  forget      {self.request}", f"  by class    {requests.by_class(self.dataset, sets.final[0])}"]
              if self.request else self.choice),
            *(f"  held out    set {number}: {len(rows)} rows of {name}"
              for number, (rows, name) in enumerate(zip(sets.held_out, sets.groups, strict=False))),
            *(f"  original {k}  {checkpoint.source}: {'; '.join(checkpoint.notes)}"
              for k, checkpoint in enumerate(self.checkpoints) if checkpoint.notes),
            *([f"  weights     {self.start}", f"  {BEGUN}"] if self.start else []),
            *([f"  normalise   {self.new_model().normalize}, {self.network.why}"] if self.start or self.checkpoints
              else []),
            *(f"  {warning}" for warning in self.warnings),
            f"  trainings   {sweep.originals.count + retrained + sweep.references.count} "
            f"({sweep.originals.count} original, {retrained} retrained, {sweep.references.count} reference models), "
            f"{sweep.training.epochs} epochs{_others(sweep)}; "
            f"{f'{many} workers each, of ' if many > 1 else ''}{each}"
            f"{'; the first by several workers, where all end earlier so' if sweep.resources.widen else ''}",
            f"  adversaries {sum(len(case.rows) for case in cases)} images in {self.shards} shards "
            f"({len(cases)} sets, {sweep.attack.search.name}); {each}",
            f"  search      {sum(trials)} trials ({contenders} methods and accesses x "
            f"{'-'.join(map(str, dict.fromkeys([min(trials), max(trials)])))}), {sweep.search.epochs} epochs on "
            f"{len(self.held_out)} held-out case(s), by {OBJECTIVES[sweep.search.objective]}{_rates(sweep)}"
            f"{_few(sweep)}; {each}",
            f"  final       {contenders * len(self.final) * sweep.final.runs} unlearned models "
            f"({contenders} x {len(self.final)} cases x {sweep.final.runs} runs); {each}",
            *audited.lines(self, each)])


def _others(sweep: Sweep) -> str:
    """The epochs of the reference models, where they have their own number."""
    return "" if sweep.references.epochs is None else f" ({sweep.references.epochs} of the reference models)"


def _few(sweep: Sweep) -> str:
    """The samples on which trials are scored, unless these are all."""
    few = sweep.search.score_samples
    return "" if few is None else f", scored on D_F and at most {few:,} samples of D_R and of D_T"


def _rates(sweep: Sweep) -> str:
    """The range of learning rates, unless it is that of the paper's optimiser."""
    low, high = sweep.search.lr.low, sweep.search.lr.high
    return "" if sweep.unlearning.optimizer == "sgd" else f"; {sweep.unlearning.optimizer}, lr {low:g} to {high:g}"


def kept_pixels(sweep: Sweep, output: Path) -> Keep:
    """Where the decoded pixels of a sweep are: in its storage or, if that cannot be memory-mapped, in `output`."""
    local = str(output.absolute() / "store")
    store = Store(sweep.storage or local)
    return keep_in(store if store.local else Store(local))


def given_points(sweep: Sweep, contender: Contender) -> list[dict[str, Any]]:
    """The settings of a contender to try before asking a sampler: its known-good points, then a grid."""
    points = (*sweep.search.earlier(*contender), *sweep.chosen(contender.method).points)
    return sweep.search.given(sweep.space(contender), points, seed=derive(sweep.seed, "grid", *contender))


def trial_count(sweep: Sweep, contender: Contender) -> int:
    """How many trials a contender gets; a grid may have fewer points than the limit."""
    return len(given_points(sweep, contender)) if sweep.search.sampler == "grid" else sweep.search.trials
