"""What a report says beside its table: attacks by their definitions, costs by hand, where it ran, and damaged files."""

import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from amun_ray.base.errors import Damaged, UserError
from amun_ray.base.seeds import generator
from amun_ray.config.audit import AuditConfig
from amun_ray.metrics import (
    GAP_TERMS,
    GAP_TERMS_MIS,
    RmiaSettings,
    accuracy,
    audit,
    forgetting_quality,
    klom,
    lira,
    logit_scaled,
    memorisation,
    score,
    thirds,
    unlearning_score,
)
from amun_ray.reporting.columns import ATTACKS, COLUMNS
from amun_ray.reporting.costs import SweepCosts
from amun_ray.reporting.rows import Row
from amun_ray.runtime import environment
from amun_ray.storage.store import Store, Unit
from amun_ray.work.artifacts import read_logits, store_logits, stream_logits
from amun_ray.work.audit import Audit
from amun_ray.work.evidence import Evidence, Models
from amun_ray.work.units import LOGITS, Trained, Workspace

TRAIN, SIZE, CLASSES, MODELS = 200, 400, 5, 8
FORGET = np.arange(40)
FROM_PREDICTIONS = {term for term in ATTACKS if not term.startswith((
    "boundary_", "adversarial_label_", "apollo_", "ulira_", "ruli_", "linear_probe", "distance_", "relearned_",
    "robust_accuracy"))
    and "_barrier_" not in term}


@pytest.fixture
def space(tmp_path):
    """The part of a workspace that predictions and attacks use."""
    sweep = SimpleNamespace(seed=0, rmia=RmiaSettings(), audit=AuditConfig(models=3))
    return Workspace(sweep, Store(str(tmp_path / "store")), "", (1, 1, 1), CLASSES, SIZE, TRAIN, None, None)


def logits_of(seen: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Of a model that is surer of what it has seen."""
    logits = np.random.default_rng(seed).normal(size=(SIZE, CLASSES)).astype(np.float32)
    logits[np.arange(SIZE), labels] += np.where(seen, 6, 2)
    return logits


@pytest.fixture
def bank(space):
    """Labels, and all models from scratch: references, six originals and six retrained models, stored."""
    labels = np.random.default_rng(1).integers(0, CLASSES, SIZE)
    halves = np.repeat(np.repeat([[True], [False]], MODELS // 2, axis=0), SIZE, axis=1)
    halves = np.random.default_rng(2).permuted(halves, axis=0)
    rows = np.arange(SIZE)

    def stored(name: str, seen: np.ndarray, seed: int) -> Trained:
        unit = Unit("models", {"name": name})
        store_logits(space.store, unit, logits_of(seen, labels, seed))
        space.store.finish(unit, {}, [LOGITS])
        return Trained(name, unit, None, 1.0)
    references = [stored(f"reference {k}", half, 10 + k) for k, half in enumerate(halves)]
    retrained = [stored(f"retrained {k}", (rows >= len(FORGET)) & (rows < TRAIN), 30 + k) for k in range(6)]
    originals = [stored(f"original {k}", rows < TRAIN, 60 + k) for k in range(6)]
    return labels, Models(originals, {"final 0": retrained}, references, halves,
                          Evidence.of(space, labels, references, halves))


@pytest.fixture
def attacks(bank):
    return Audit(bank[1], {"final 0": FORGET})


def test_scores_are_those_of_the_attack_that_the_config_sets(space, bank):
    labels, models = bank
    space.sweep.rmia = RmiaSettings(gamma=1.1, temperature=5.0)
    logits = logits_of(np.arange(SIZE) < TRAIN, labels, 50)
    wanted = score(logits, labels, space.split(FORGET, labels), models.evidence.mean, settings=space.sweep.rmia)
    assert models.evidence.scores(logits, FORGET) == wanted
    assert wanted != score(logits, labels, space.split(FORGET, labels), models.evidence.mean)


def test_evidence_of_a_sample_that_every_reference_saw_is_refused(space, bank):
    labels, models = bank
    halves = models.halves.copy()
    halves[:, 3] = True
    with pytest.raises(UserError, match=f"sample 3 is out 0 of {MODELS} models"):
        Evidence.of(space, labels, models.references, halves)


def test_a_bank_without_a_pair_is_the_mean_over_the_other_references(space, bank):
    labels, models = bank
    each = [space.sweep.rmia.confidence(read_logits(space, one.unit, one.name), labels) for one in models.references]
    assert len(models.banks) == MODELS // 2
    for pair, found in enumerate(models.banks):
        others = [one for place, one in enumerate(each) if place // 2 != pair]
        np.testing.assert_allclose(found.mean, np.mean(others, axis=0))


def test_an_audit_is_score_and_audit_with_the_distance_to_the_retrained_models(space, bank, attacks):
    labels, models = bank
    logits, parts = logits_of(np.arange(SIZE) < TRAIN, labels, 50), space.split(FORGET, labels)
    stack = [read_logits(space, one.unit, one.name) for one in models.references]
    normals, mean = lira.fit(stack, labels, members=models.halves), models.evidence.mean
    groups = thirds(memorisation(stack, labels, members=models.halves), FORGET)

    def every(one: np.ndarray, original: int) -> dict[str, float]:
        first = read_logits(space, models.originals[original].unit, "")
        found = score(one, labels, parts, mean) | audit(one, labels, parts, mean, normals=normals,
                                                        generator=generator(0, "audit", "final 0"))
        found["retain_test_auc_change"] = found["retain_test_auc"] - score(
            first, labels, parts, mean)["retain_test_auc"]
        known, now = (logit_scaled(each, labels)[FORGET] for each in (first, one))
        found["iam"] = 100 * unlearning_score(known, now, normals.mean_out[FORGET], normals.std_out[FORGET]).mean()
        for group, rows in groups.items():
            part = score(one, labels, parts._replace(forget=rows, retain=np.setdiff1d(np.arange(TRAIN), rows)), mean)
            found |= {f"{term}_{group}": part[term] for term in ("unlearn_accuracy", "forget_test_auc")}
        return found
    targets = [every(read_logits(space, one.unit, one.name), k) for k, one in
               enumerate(models.retrained["final 0"])]
    wanted = every(logits, 1)
    target = {term: np.mean([one[term] for one in targets]) for term in wanted}
    for name, terms in (("average_gap", GAP_TERMS), ("average_gap_mis", GAP_TERMS_MIS)):
        wanted[name] = np.mean([abs(wanted[term] - target[term]) for term in terms])
    wanted["tug_of_war"] = 100 * np.prod([1 - abs(wanted[term] - target[term]) / 100 for term in GAP_TERMS[:3]])
    del wanted["rmia_forget_test_auc"]
    assert attacks.scores(logits, "final 0", 1) == pytest.approx(wanted)
    together = attacks.retrained_together()["final 0"]
    assert set(wanted) | set(together) == (FROM_PREDICTIONS | set(COLUMNS)) - {"forgotten_test_accuracy"}
    assert set(attacks.seconds) == set(AuditConfig().chosen()) - {
        "boundary", "linear_probe", "distance"} | {"rmia"}


def test_several_models_are_compared_with_as_many_retrained_ones(space, bank, attacks):
    labels, models = bank
    stored = {name: [(one.unit, one.name) for one in group]
              for name, group in {"original": models.originals, **models.retrained}.items()}

    def values(group: list[tuple[Unit, str]]) -> np.ndarray:
        return np.stack([logit_scaled(read_logits(space, *one), labels) for one in group])
    parts, target = space.split(FORGET, labels), stored["final 0"][:3]
    kept = attacks.together({"final 0": stored["original"]})["final 0"]
    floor = attacks.retrained_together()["final 0"]
    for found, group in ((kept, stored["original"][:3]), (floor, stored["final 0"][3:])):
        divergence = klom(values(group), values(target))
        for part in ("forget", "retain", "test"):
            assert found[f"klom_{part}"] == np.percentile(divergence[getattr(parts, part)], 95)
        quality = forgetting_quality(values(group)[:, FORGET], values(target)[:, FORGET])
        right = [[np.mean([accuracy(read_logits(space, *one)[rows], labels[rows]) for one in some])
                  for rows in (parts.retain, parts.test)] for some in (group, target)]
        assert found["forgetting_quality"] == quality
        assert found["challenge_score"] == pytest.approx(quality * np.prod(right[0]) / np.prod(right[1]))
    assert kept["forgetting_quality"] < floor["forgetting_quality"]
    assert attacks.together({"final 0": target[:2]}) == {"final 0": {}}  # a run or two failed


def test_what_is_switched_off_is_not_computed(space, bank):
    space.sweep.audit = AuditConfig(**dict.fromkeys(AuditConfig().chosen(), False))
    attacks = Audit(bank[1], {"final 0": FORGET})
    found = attacks.retrained_scores("final 0", 0) | attacks.retrained_together()["final 0"]
    assert set(found) == set(COLUMNS) - {"forgotten_test_accuracy"} | {
        "forget_retain_auc", "retain_test_auc", "retain_test_auc_change", "tug_of_war",
        "rmia_forget_test_tpr_at_1pct_fpr", "rmia_forget_test_tpr_at_0.1pct_fpr"}
    assert set(attacks.seconds) == {"rmia"}


def test_attacks_that_lack_what_they_need_are_named_and_left_out():
    settings = AuditConfig(models=4, forgetting_quality=False)
    assert settings.left_out(originals=8, forgotten=3, references=4) == {}
    assert settings.left_out(originals=7, forgotten=2, references=4) == {
        "klom": "needs 2 x 4 (audit.models) retrained models of each forget set, and originals.count is 7",
        "memorisation": "needs a forget set of at least 3 samples, and one has 2"}


def test_the_noise_floor_is_the_distance_of_a_retrained_model_to_the_others(bank):
    models = replace(bank[1], retrained={"final 0": bank[1].retrained["final 0"][:2]})
    first, second = (Audit(models, {"final 0": FORGET}).retrained_scores("final 0", k) for k in (0, 1))
    between = np.mean([abs(first[term] - second[term]) for term in GAP_TERMS])
    assert first["average_gap"] == second["average_gap"] == pytest.approx(between)
    assert between > 0
    alone = Audit(replace(models, retrained={"final 0": models.retrained["final 0"][:1]}), {"final 0": FORGET})
    assert alone.retrained_scores("final 0", 0)["average_gap"] == 0


def test_every_attack_tells_what_remembers_from_what_never_saw(bank, attacks):
    labels, rows = bank[0], np.arange(SIZE)
    kept = attacks.scores(logits_of(rows < TRAIN, labels, 50), "final 0", 0)
    forgotten = attacks.scores(logits_of((rows < TRAIN) & (rows >= len(FORGET)), labels, 51), "final 0", 0)
    for term in FROM_PREDICTIONS:
        good = ATTACKS[term][1]
        if term.endswith("_auc") and good == "50":
            assert kept[term] > 85, term
            assert forgotten[term] == pytest.approx(50, abs=12), term
    assert kept["average_gap_mis"] > 3 * forgotten["average_gap_mis"]
    assert kept["iam"] + 20 < forgotten["iam"]
    assert kept["tug_of_war"] < forgotten["tug_of_war"]


def damage(kind: str, path: Path) -> None:
    logits = np.load(path)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "gone":
        path.unlink()
    elif kind == "nan":
        logits[:3] = np.nan
        np.save(path, logits)
    else:
        np.save(path, logits[:-1] if kind == "samples" else logits[:, 1:])


@pytest.mark.parametrize(("kind", "message"), [
    ("samples", r"predictions of shape \(399, 5\), this sweep has 400 samples and 5 classes"),
    ("classes", r"predictions of shape \(400, 4\), this sweep has 400 samples and 5 classes"),
    ("nan", "the predictions of 3 of 400 samples are not finite"),
    ("cut", "cannot be read as predictions"),
])
def test_stored_predictions_that_do_not_fit_are_named_with_their_model(space, bank, kind, message):
    """A checksum says that they are what was written, not that they are predictions of these samples."""
    references = bank[1].references
    damage(kind, Path(space.store.path(references[3].unit, LOGITS)))
    space.store.finish(references[3].unit, {}, [LOGITS])
    with pytest.raises(UserError, match=f"^reference 3: .*{LOGITS}.*{message}.*; delete its folder"):
        list(stream_logits(space, references))


@pytest.mark.parametrize("kind", ["samples", "cut", "gone"])
def test_predictions_that_are_not_those_that_were_written_are_not_read(space, bank, kind):
    path = Path(space.store.path(bank[1].references[3].unit, LOGITS))
    damage(kind, path)
    with pytest.raises(Damaged, match=f"^{path}: .*; the same command makes it again"):
        list(stream_logits(space, bank[1].references))


def test_costs_are_seconds_times_devices_and_know_what_was_made_before():
    costs, whole, packed = SweepCosts(), {"num_cpus": 2, "num_gpus": 1.0}, {"num_cpus": 2, "num_gpus": 0.25}
    costs.add("references", 8.0, whole, reused=True)
    costs.add("references", 4.0, whole, reused=False)
    costs.add("search", 2.0, packed, reused=False)
    costs.add("on CPUs", 1.5, {"num_cpus": 2, "num_gpus": 0.0}, reused=False)
    costs.stages["models"], costs.wall, costs.attacks = 3.0, 2.5, {"mis": 7.0}
    assert costs.metrics() == {
        "seconds.models": 3.0, "device_seconds.references": 12.0, "device_seconds.search": 0.5,
        "device_seconds.on CPUs": 3.0, "device_seconds_reused.references": 8.0, "device_seconds_reused.search": 0.0,
        "device_seconds_reused.on CPUs": 0.0, "core_seconds.mis": 7.0}
    assert costs.sums == {"seconds": 2.5, "device_seconds": 15.5}


def test_the_commit_is_that_of_the_repository_that_tracks_the_package(tmp_path):
    def git(*command: str) -> str:
        return subprocess.run(["git", "-C", tmp_path, "-c", "user.name=t", "-c", "user.email=t@t", *command],
                              check=True, capture_output=True, text=True).stdout.strip()
    package, installed = tmp_path / "package", tmp_path / ".venv" / "package"
    for folder in (package, installed):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
    assert environment.revision(package) == {}
    git("init", "--quiet")
    git("add", "package")
    git("commit", "--quiet", "--message", "first")
    commit = git("rev-parse", "HEAD")
    assert environment.revision(package) == {"mlflow.source.git.commit": commit,
                                             "environment.uncommitted_changes": "no"}
    assert environment.revision(installed) == {}
    (package / "__init__.py").write_text("changed = True")
    assert environment.revision(package)["environment.uncommitted_changes"] == "yes"


def test_devices_are_counted_by_their_kind(monkeypatch):
    nodes = [{"GPU": 2.0, "accelerator_type:H100": 1.0}, {"GPU": 4.0, "accelerator_type:H100": 1.0}, {"CPU": 8.0},
             {"GPU": 1.0}]
    monkeypatch.setattr(environment, "live_nodes", lambda: [{"Resources": one} for one in nodes])
    assert environment.devices() == "6 x H100; 1 x GPU"
    monkeypatch.setattr(environment, "live_nodes", lambda: [{"Resources": {"CPU": 2.0}}])
    assert environment.devices() == "no GPU"


def test_a_row_without_other_attacks_has_none_in_json():
    row = Row("amun", "retain", None, [dict.fromkeys(COLUMNS, 1.0)], [(0, "final 0")], [])
    assert row.as_json()["attacks"] == {}
