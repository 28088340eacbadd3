"""Every attack on every model of the table, from stored predictions; no model runs again.

Cost, on the driver, with N samples: two passes over the reference predictions; then for each model O(N log N) for RMIA,
LiRA and the thresholds, and MIS's support vector classifier, quadratic in its at most 2,000 samples per side and linear
in the forget set: a second or two, most of it the classifier's, which holds no lock of Python. So as many models are
attacked at once as the driver has cores, each with a few arrays (N,) in memory. KLOM and forgetting quality read
`audit.models` models of each row and forget set again, and hold their confidences; the latter takes O(forget set x
models^2).
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import NamedTuple, TypeVar

import numpy as np

from amun_ray.base.progress import bar
from amun_ray.base.seeds import generator
from amun_ray.data.images import threads
from amun_ray.metrics import (
    GAP_TERMS,
    GAP_TERMS_MIS,
    Split,
    accuracy,
    auc,
    audit,
    average_gap,
    forgetting_quality,
    klom,
    lira,
    logit_scaled,
    memorisation,
    rmia_scores,
    thirds,
    tug_of_war,
    unlearning_score,
)
from amun_ray.metrics.scoring import ATTACKS, UNINFORMATIVE
from amun_ray.storage.store import Unit
from amun_ray.work.artifacts import read_logits, stream_logits
from amun_ray.work.evidence import Models
from amun_ray.work.units import Unlearned

Scores = dict[str, float]
T = TypeVar("T")
Stored = tuple[Unit, str]  # a finished model, and its name in messages
PERCENTILE = 95  # of KLOM over the samples of a set


class Crowd(NamedTuple):
    """Several models of one forget set."""

    values: np.ndarray  # (models, N) logit-scaled confidence
    accuracy: float  # mean retain accuracy times mean test accuracy


@dataclass(frozen=True)
class Audit:
    """The attacks, the models made from scratch, and the final forget sets by name."""

    models: Models
    sets: Mapping[str, np.ndarray]
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # of a core for each attack, so far
    lock: Lock = field(default_factory=Lock)  # of `seconds`

    @cached_property
    def chosen(self) -> frozenset[str]:
        """The attacks of the config that have what they need."""
        settings, originals = self.models.evidence.workspace.sweep.audit, len(self.models.originals)
        return frozenset(settings.chosen()).difference(
            settings.left_out(originals, min(map(len, self.sets.values())), len(self.models.references)))

    @cached_property
    def normals(self) -> lira.Lira | None:
        """What LiRA and IAM ask of the reference models; None if neither is chosen."""
        if not self.chosen & {"lira", "iam"}:
            return None
        with self._timed("lira"):
            return lira.fit(self._references(), self.models.evidence.labels, members=self.models.halves,
                            variance=self.models.evidence.workspace.sweep.audit.lira_variance)

    @cached_property
    def memorised(self) -> np.ndarray | None:
        """(N, 2), see `metrics.memorisation`; None if it is not chosen."""
        if "memorisation" not in self.chosen:
            return None
        with self._timed("memorisation"):
            return memorisation(self._references(), self.models.evidence.labels, members=self.models.halves)

    @cached_property
    def before(self) -> list[tuple[np.ndarray, Scores]]:
        """Of each original: its logit-scaled confidence (N,), and its RT AUC by forget set."""
        evidence = self.models.evidence
        return [(logit_scaled(logits, evidence.labels),
                 {name: evidence.scores(logits, rows)["retain_test_auc"] for name, rows in self.sets.items()})
                for logits in stream_logits(evidence.workspace, self.models.originals)]

    @cached_property
    def retrained(self) -> dict[str, list[Scores]]:
        """For each forget set the scores of the models retrained without it: the target."""
        workspace = self.models.evidence.workspace
        for name in ("before", "normals", "memorised"):  # read once, before threads do so at the same time
            getattr(self, name)
        targets = [(name, k, model) for name in self.sets for k, model in enumerate(self.models.retrained[name])]
        scores = iter(_at_once(lambda target: self._attacked(
            read_logits(workspace, target[2].unit, target[2].name), *target[:2]), targets, "retrained models"))
        return {name: [next(scores) for _ in self.models.retrained[name]] for name in self.sets}

    def scores(self, logits: np.ndarray, name: str, original: int) -> Scores:
        """Every score of a model that should have forgotten the set `name`, made from the `original`-th one, in
        percent, and its distance to the retrained models: Avg. Gap with FT AUC, with MIS instead, and ToW."""
        scores = self._attacked(logits, name, original)
        return scores | _gaps(scores, self.retrained[name])

    def every(self, models: Sequence[Unlearned]) -> list[Scores]:
        """`scores` of each of the `models`, which have finished, and what those of one method have `together`."""
        workspace, runs = self.models.evidence.workspace, [model.run for model in models]
        sets = self.retrained  # made before the threads start
        every = _at_once(lambda run: self.scores(read_logits(workspace, run.unit, str(run.contender)), run.case.name,
                                                 run.case.original), runs, "models")
        ordered = sorted(runs, key=lambda run: (run.number, run.case.original))  # other originals before other runs
        crowds = {contender: self.together({name: [
            (run.unit, str(contender)) for run in ordered if (run.contender, run.case.name) == (contender, name)]
            for name in sets}) for contender in dict.fromkeys(run.contender for run in runs)}
        return [scores | crowds[run.contender][run.case.name] for run, scores in zip(runs, every, strict=True)]

    def retrained_scores(self, name: str, k: int) -> Scores:
        """The scores of the k-th model retrained without the set `name`. Its Avg. Gap to the other retrained models is
        the noise floor: no method can be measured to be better. It is 0 if there are no others."""
        scores = self.retrained[name][k]
        others = [*self.retrained[name][:k], *self.retrained[name][k + 1:]]
        return scores | _gaps(scores, others or [scores])

    def together(self, models: Mapping[str, Sequence[Stored]]) -> dict[str, Scores]:
        """KLOM and forgetting quality of the first `audit.models` of the `models` of each forget set against as many
        retrained ones; nothing where some set has fewer, or neither is chosen."""
        count = self.models.evidence.workspace.sweep.audit.models
        if not self.chosen & {"klom", "forgetting_quality"} or any(len(models[name]) < count for name in self.sets):
            return {name: {} for name in self.sets}
        return {name: self._compared(self._crowd(models[name][:count], name), name) for name in self.sets}

    def retrained_together(self) -> dict[str, Scores]:
        """The same of as many further retrained models: the floor that so few models leave."""
        count = self.models.evidence.workspace.sweep.audit.models
        return self.together({name: [(model.unit, model.name) for model in self.models.retrained[name][count:]]
                              for name in self.sets})

    @cached_property
    def _targets(self) -> dict[str, Crowd]:
        count = self.models.evidence.workspace.sweep.audit.models
        return {name: self._crowd([(model.unit, model.name) for model in self.models.retrained[name][:count]], name)
                for name in self.sets}

    def _crowd(self, models: Iterable[Stored], name: str) -> Crowd:
        evidence, values, right = self.models.evidence, [], []
        split = self._split(name)
        for unit, title in models:
            logits = read_logits(evidence.workspace, unit, title)
            values.append(logit_scaled(logits, evidence.labels))
            right.append([accuracy(logits[rows], evidence.labels[rows]) for rows in (split.retain, split.test)])
        return Crowd(np.stack(values), float(np.prod(np.mean(right, axis=0))))

    def _compared(self, crowd: Crowd, name: str) -> Scores:
        scores: Scores = {}
        split, target = self._split(name), self._targets[name]
        if "klom" in self.chosen:
            with self._timed("klom"):
                divergence = klom(crowd.values, target.values)
                for part in ("forget", "retain", "test"):
                    scores[f"klom_{part}"] = float(np.percentile(divergence[getattr(split, part)], PERCENTILE))
        if "forgetting_quality" in self.chosen:
            with self._timed("forgetting_quality"):
                quality = forgetting_quality(crowd.values[:, split.forget], target.values[:, split.forget])
                scores |= {"forgetting_quality": quality,
                           "challenge_score": quality * crowd.accuracy / target.accuracy if target.accuracy else 0.0}
        return scores

    def _attacked(self, logits: np.ndarray, name: str, original: int) -> Scores:
        evidence = self.models.evidence
        workspace, split = evidence.workspace, self._split(name)
        scores, normals = evidence.scores(logits, self.sets[name]), self.normals
        for attack in ATTACKS:
            if attack in self.chosen | {"rmia"}:
                with self._timed(attack):
                    scores |= audit(logits, evidence.labels, split, evidence.mean, normals=normals,
                                    settings=workspace.sweep.rmia, attacks=(attack,),
                                    generator=generator(workspace.sweep.seed, "audit", name))
        del scores["rmia_forget_test_auc"]  # it is FT AUC
        value, known = self.before[original]
        scores["retain_test_auc_change"] = scores["retain_test_auc"] - known[name]
        if "iam" in self.chosen and normals is not None:
            with self._timed("iam"):
                rows = split.forget
                score = unlearning_score(value[rows], logit_scaled(logits[rows], evidence.labels[rows]),
                                         normals.mean_out[rows], normals.std_out[rows])
                scores["iam"] = 100 * float(score.mean())
        return scores | self._by_memorisation(logits, split)

    def _by_memorisation(self, logits: np.ndarray, split: Split) -> Scores:
        """Unlearn accuracy and FT AUC of each third of D_F, if chosen."""
        evidence, memorised = self.models.evidence, self.memorised
        scores: Scores = {}
        if memorised is None:
            return scores
        with self._timed("memorisation"):
            settings = evidence.workspace.sweep.rmia
            values = rmia_scores(settings.confidence(logits, evidence.labels), evidence.mean, np.concatenate(split),
                                 gamma=settings.gamma)
            for group, rows in thirds(memorised, split.forget).items():
                scores[f"unlearn_accuracy_{group}"] = accuracy(logits[rows], evidence.labels[rows])
                scores[f"forget_test_auc_{group}"] = auc(values[rows], values[split.unseen], constant=UNINFORMATIVE)
        return scores

    def _split(self, name: str) -> Split:
        return self.models.evidence.workspace.split(self.sets[name], self.models.evidence.labels)

    def _references(self) -> Iterator[np.ndarray]:
        return stream_logits(self.models.evidence.workspace, self.models.references)

    @contextmanager
    def _timed(self, attack: str) -> Iterator[None]:
        started = time.thread_time()
        yield
        with self.lock:
            self.seconds[attack] += time.thread_time() - started


def _at_once(attacked: Callable[[T], Scores], models: Sequence[T], what: str) -> list[Scores]:
    """`attacked` of each of the `models`, in their order."""
    with ThreadPoolExecutor(threads()) as pool, bar("attacks", len(models), what) as progress:
        results = []
        for scores in pool.map(attacked, models):
            results.append(scores)
            progress.advance()
        return results


def _gaps(scores: Scores, retrained: Sequence[Scores]) -> Scores:
    """The distance of `scores` to the mean scores of the retrained models."""
    target = {term: float(np.mean([each[term] for each in retrained])) for term in scores}
    with_mis = {"average_gap_mis": average_gap(scores, target, GAP_TERMS_MIS)} if "mis" in scores else {}
    return {"average_gap": average_gap(scores, target, GAP_TERMS), **with_mis,
            "tug_of_war": tug_of_war(scores, target)}
