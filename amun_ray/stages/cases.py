"""One original model and one forget set: the input of an unlearning run, the run itself, and its scores."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import ray
from torch import nn

from amun_ray.base.seeds import generator
from amun_ray.base.tensors import shared_tensor
from amun_ray.metrics import GAP_TERMS, accuracy, average_gap, iam_gap, lira, logit_scaled, proxy
from amun_ray.runtime.bench import Bench, SharedWorkspace, bench, load_state
from amun_ray.training.parts import Part
from amun_ray.training.recipe import Recipe
from amun_ray.unlearn import Contender, RunReport, Sets, unlearn
from amun_ray.work.artifacts import numpy_state, read_adversaries, read_logits, stream_logits
from amun_ray.work.evidence import Evidence, Models, scored
from amun_ray.work.units import (
    WEIGHTS,
    AdversarialSet,
    Case,
    ForgetCase,
    Hyperparameters,
    Trained,
    Workspace,
    rows_digest,
)


@dataclass(frozen=True, eq=False)
class OpenCase(Case):
    """A case whose arrays are in the object store, as references; each array is sent to a node once."""

    state: "tuple[ray.ObjectRef[Any]]"                         # of the original
    adversarial: "tuple[ray.ObjectRef[Any], ...]"              # images, labels, places in the forget set
    reference_mean: "tuple[ray.ObjectRef[Any]]"
    banks: "tuple[tuple[ray.ObjectRef[Any], dict[str, float] | None], ...]" = ()  # mean and target, of each of `banks`
    never: "tuple[ray.ObjectRef[Any], ...]" = ()  # `objective: iam`: the original, mean and std of those without D_F
    scored: np.ndarray | None = None  # (n,) int64, rising: the samples on which models are scored; None: all


def open_cases(models: Models, sets: Mapping[tuple[int, str], AdversarialSet], wanted: Sequence[ForgetCase], *,
               for_search: bool = False) -> list[OpenCase]:
    """Gather the cases on the driver and put their arrays into the object store.

    A case has a target where there are models that never saw its rows. `for_search`: and what `bank_scores` asks for,
    the scores of its original, and of the samples those that the search scores.
    """
    reference = ray.put(models.evidence.mean)
    banks = [(bank, ray.put(bank.mean)) for bank in models.banks] if for_search else []
    cases = [_open(case, models, sets[case.key], reference, banks, for_search) for case in wanted]
    if not for_search:
        return cases
    by_iam = "iam_gap" in models.evidence.workspace.sweep.search.terms
    return _with_originals(_with_iam(cases, models) if by_iam else cases, models)


def _with_iam(cases: Sequence[OpenCase], models: Models) -> list[OpenCase]:
    """The cases with what IAM asks of the references that never saw their rows, and of the original. One pass over the
    references."""
    evidence = models.evidence
    workspace, labels = evidence.workspace, evidence.labels
    normals = lira.fit(stream_logits(workspace, models.references), labels, members=models.halves)
    before = [logit_scaled(logits, labels) for logits in stream_logits(workspace, models.originals)]
    return [replace(case, never=tuple(ray.put(values[case.rows]) for values in (
        before[case.original], normals.mean_out, normals.std_out))) for case in cases]


def _with_originals(cases: Sequence[OpenCase], models: Models) -> list[OpenCase]:
    """The cases with the scores of their original models, each of which is read once."""
    evidence, before = models.evidence, dict[tuple[int, str], dict[str, float]]()
    for number in {case.original for case in cases}:
        original = models.originals[number]
        logits = read_logits(evidence.workspace, original.unit, original.name)
        before |= {case.key: _scores(evidence.workspace, case, logits if case.scored is None else logits[case.scored],
                                     evidence.labels, (evidence.mean, case.target))
                   for case in cases if case.original == number}
    return [replace(case, before=before[case.key]) for case in cases]


def _target(evidence: Evidence, retrained: Sequence[Trained], rows: np.ndarray,
            chosen: np.ndarray | None) -> dict[str, float] | None:
    """The mean scores, on the samples `chosen`, of the models that never saw `rows`; None where there are none."""
    scores = [evidence.scores(logits, rows, chosen) for logits in stream_logits(evidence.workspace, retrained)]
    return {term: float(np.mean([each[term] for each in scores])) for term in scores[0]} if scores else None


def _open(case: ForgetCase, models: Models, adversaries: AdversarialSet, reference: "ray.ObjectRef[Any]",
          banks: "Sequence[tuple[Evidence, ray.ObjectRef[Any]]]", for_search: bool) -> OpenCase:
    evidence, workspace = models.evidence, models.evidence.workspace
    original, retrained = models.originals[case.original], models.retrained.get(case.name, ())
    labels, split = evidence.labels, workspace.split(case.rows, evidence.labels)
    chosen, test = workspace.scored(case.rows, labels) if for_search else None, split.test
    lineage: dict[str, Any] = {"original": original.weights, "forget": rows_digest(case.rows),
                               "adversarial": adversaries.unit.digest, "references": evidence.digest}
    if split.forgotten_test.size:  # these are scored in their own way, unlike earlier versions
        lineage["whole_classes"] = True
    if workspace.gone:
        lineage["gone"] = rows_digest(np.array(workspace.gone))
    if chosen is not None:
        test, lineage["scored"] = np.intersect1d(test, chosen), rows_digest(chosen)
    if retrained:
        lineage["retrained"] = [model.weights for model in retrained]
    return OpenCase(case.original, case.name, case.rows, _target(evidence, retrained, case.rows, chosen),
                    accuracy(read_logits(workspace, original.unit, original.name)[test], labels[test]),
                    lineage, (ray.put(numpy_state(workspace.store, original.unit, WEIGHTS)),),
                    tuple(map(ray.put, read_adversaries(workspace.store, adversaries))), (reference,),
                    tuple((mean, _target(bank, retrained, case.rows, chosen)) for bank, mean in banks), scored=chosen)


class Epoch(NamedTuple):
    """The state of one unlearning run after one epoch."""

    scores: dict[str, float]  # percent; with `average_gap` if the case has a target
    logits: np.ndarray        # (N, classes) on every sample; (n, classes) where n samples are `scored`
    model: nn.Module          # the live model: copy anything needed after the next epoch
    report: RunReport            # passes, seconds and, for a certified method, its certificate, so far


def run_case(workspace: SharedWorkspace, case: OpenCase, contender: Contender, settings: Hyperparameters,
             run: int) -> Iterator[Epoch]:
    """Unlearn one case in this process, yielding after each epoch.

    Raises:
        Diverged: the loss or a weight is no longer finite.
    """
    here, seed = bench(workspace), case.seed(workspace, run)
    model = load_state(workspace.new_model(0), ray.get(case.state[0])).to(here.device)
    (mean,), labels = ray.get(list(case.reference_mean)), here.labels.cpu().numpy()
    report = RunReport()
    epochs = unlearn(contender.method, model, _sets(workspace, case, contender.access), report=report,
                     recipe=recipe(workspace, settings),
                     settings=workspace.sweep.method_settings(contender) | settings.own,
                     augmentation=workspace.sweep.data.augmentation, generator=generator(seed, "order"))
    for _ in epochs:
        logits = here.logits(model, case.scored)
        yield Epoch(_scores(workspace, case, logits, labels, (mean, case.target)), logits, model, report)


def bank_scores(workspace: SharedWorkspace, case: OpenCase, logits: np.ndarray) -> list[dict[str, float]]:
    """The scores of one epoch as each of the case's `banks` gives them."""
    labels = bench(workspace).labels.cpu().numpy()
    means = ray.get([mean for mean, _ in case.banks])
    return [_scores(workspace, case, logits, labels, (mean, target))
            for mean, (_, target) in zip(means, case.banks, strict=True)]


def _scores(workspace: Workspace, case: OpenCase, logits: np.ndarray, labels: np.ndarray,
            against: tuple[np.ndarray, Mapping[str, float] | None]) -> dict[str, float]:
    """What a search reads of a model's logits, `against` a reference mean and the target."""
    mean, target = against
    scores = scored(workspace, logits, labels, mean, case.rows, case.scored)
    kept = {term: scores[term] for term in GAP_TERMS}
    if case.never:
        original, mean, std = ray.get(list(case.never))
        places = case.rows if case.scored is None else np.searchsorted(case.scored, case.rows)
        kept["iam_difference"] = iam_gap(original, logit_scaled(logits[places], labels[case.rows]), mean, std)
    return kept if target is None else kept | {"average_gap": average_gap(scores, target)}


def with_terms(case: Case, scores: Mapping[str, float], terms: Sequence[str]) -> dict[str, float]:
    """The scores of an epoch, with those of the `terms` among them that need no retrained model."""
    complete = dict(scores)
    if "proxy" in terms:
        complete["proxy"] = proxy(scores, case.original_test_accuracy)
    if "iam_gap" in terms:
        lost = max(0.0, case.original_test_accuracy - scores["test_accuracy"])
        complete["iam_gap"] = (complete.pop("iam_difference") + lost) / 2
    return complete


def original_value(cases: Sequence[Case], terms: Sequence[str]) -> float | None:
    """What a search by `terms` minimises, of the original models: what a trial has before its first epoch. None if
    that is unknown, or there is more than one term."""
    scores = [with_terms(case, case.before, terms) for case in cases if case.before is not None]
    known = [each[terms[0]] for each in scores if terms[0] in each]
    return float(np.mean(known)) if len(terms) == 1 and len(known) == len(cases) else None


def recipe(workspace: SharedWorkspace, settings: Hyperparameters) -> Recipe:
    """The unlearning run's recipe: the config's, overridden by the trial's settings."""
    every = 0 if settings.schedule == "never" else int(settings.schedule.removeprefix("every_"))
    return Recipe(lr=settings.lr, epochs=settings.epochs, decay_every=every,
                  **workspace.sweep.unlearning.model_dump())


def _sets(workspace: SharedWorkspace, case: OpenCase, access: str) -> Sets:
    here = bench(workspace)
    retained = np.setdiff1d(np.arange(workspace.train_size, dtype=np.int64), case.rows)
    return forget_sets(here, case.rows, retained if access == "retain" else None, ray.get(list(case.adversarial)))


def forget_sets(here: Bench, forget: np.ndarray, retained: np.ndarray | None,
                adversarial: Sequence[np.ndarray]) -> Sets:
    """D_F and D_R by their rows, D_R None for a method without access; `adversarial` as in `read_adversaries`."""
    images, labels, sources = (shared_tensor(array).to(here.device) for array in adversarial)
    return Sets(retain=None if retained is None else here.part(retained), forget=here.part(forget),
                adversarial=Part(images, labels, augment=False), sources=sources)
