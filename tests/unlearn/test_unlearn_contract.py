"""What every row of METHODS promises, in every setting it declares."""

from dataclasses import replace

import pytest
import torch

from amun_ray.base.errors import UserError
from amun_ray.training.augment import Augmentation
from amun_ray.training.recipe import Recipe
from amun_ray.unlearn import METHODS, RunReport, copy_model, unlearn

CASES = [(name, access) for name, method in METHODS.items() for access in sorted(method.access)]
BATCH_NORM = ("1.running_mean", "1.running_var", "1.num_batches_tracked")
QUICK = {"certified": {"steps": 10, "scale": 100}}  # enough for a contract, and no eigenvalue to measure first
CALM = {"certified": {"damping": 10, "steps": 10, "scale": 100}}
every_case = pytest.mark.parametrize(("name", "access"), CASES)


def run(name, access, model, sets, *, seed=0, report=None, settings=None, epochs=2, **options):
    """The epochs yielded and the unlearned copy of `model`."""
    copied = copy_model(model)
    sets = sets if access == "retain" else replace(sets, retain=None)
    steps = unlearn(name, copied, sets, recipe=Recipe(**({"lr": 0.01, "epochs": epochs, "batch_size": 16} | options)),
                    augmentation=Augmentation(crop=1, flip=True), generator=torch.Generator().manual_seed(seed),
                    settings=settings or QUICK.get(name), report=report)
    return list(steps), copied


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@every_case
def test_it_counts_its_epochs_from_one(name, access, model, sets):
    epochs, _ = run(name, access, model, sets)
    assert epochs == ([1] if METHODS[name].run else [1, 2])


@every_case
def test_it_changes_the_copy_and_not_the_model_it_came_from(name, access, model, sets):
    before = state(model)
    _, unlearned = run(name, access, model, sets)
    assert same(before, state(model))
    assert not same(before, state(unlearned))


@every_case
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(name, access, model, sets):
    first, again, other = (state(run(name, access, model, sets, seed=seed)[1]) for seed in (0, 0, 1))
    assert same(first, again)
    assert not same(first, other)


@every_case
def test_weights_and_statistics_stay_finite(name, access, model, sets):
    _, unlearned = run(name, access, model, sets)
    assert all(value.isfinite().all() for value in unlearned.state_dict().values())


@every_case
def test_it_reports_its_own_cost(name, access, model, sets):
    report = RunReport()
    run(name, access, model, sets, report=report)
    assert report.seconds > 0
    assert report.forward >= len(sets.forget.labels)
    assert report.backward >= len(sets.forget.labels)
    assert (report.certificate is not None) == (name == "certified")


@every_case
def test_its_sets_are_left_as_they_are(name, access, model, sets):
    before = [part.images.clone() for part in (sets.retain, sets.forget, sets.adversarial)]
    run(name, access, model, sets)
    after = [part.images for part in (sets.retain, sets.forget, sets.adversarial)]
    assert all(map(torch.equal, before, after))


@every_case
def test_batch_norm_statistics_move_only_where_retained_samples_are_seen(name, access, model, sets):
    _, unlearned = run(name, access, model, sets)
    before, after = state(model), state(unlearned)
    moved = not same({key: before[key] for key in BATCH_NORM}, {key: after[key] for key in BATCH_NORM})
    assert moved == (access == "retain" and name != "certified")


@pytest.mark.parametrize("name", [name for name, access in CASES if access == "forget_only"])
def test_a_setting_lets_them_move_without_retained_samples_too(name, model, sets):
    _, unlearned = run(name, "forget_only", model, sets, settings={"forget_statistics": 1})
    assert not torch.equal(unlearned[1].running_mean, model[1].running_mean)


@every_case
def test_every_setting_that_counts_does_something_and_the_others_are_refused(name, access, model, sets):
    row, plain = METHODS[name], state(run(name, access, model, sets, epochs=3, settings=CALM.get(name))[1])
    for key, setting in row.settings.items():
        value = setting.low if setting.default != setting.low else setting.high
        changed = CALM.get(name, {}) | {key: value}
        if key in row.settings_in(access):
            report = RunReport()
            other = state(run(name, access, model, sets, epochs=3, settings=changed, report=report)[1])
            assert not same(plain, other) or report.certificate is not None, key
        else:
            with pytest.raises(UserError, match=f"'{key}' has no effect on {name} with '{access}'"):
                run(name, access, model, sets, settings=changed)


@every_case
def test_one_run_passes_through_every_shorter_run(name, access, model, sets):
    if METHODS[name].run is None:
        copied = copy_model(model)
        steps = unlearn(name, copied, sets if access == "retain" else replace(sets, retain=None),
                        recipe=Recipe(lr=0.01, epochs=4, batch_size=16, decay_every=1),
                        augmentation=Augmentation(crop=1, flip=True), generator=torch.Generator().manual_seed(0))
        next(steps), next(steps)
        assert same(state(copied), state(run(name, access, model, sets, decay_every=1)[1]))


@pytest.mark.parametrize("name", [name for name, access in CASES if access == "forget_only"])
def test_a_forget_set_of_one_sample_can_be_unlearnt(name, model, sets):
    def first(part):
        return part._replace(images=part.images[:1], labels=part.labels[:1])

    single = replace(sets, forget=first(sets.forget), adversarial=first(sets.adversarial))
    _, unlearned = run(name, "forget_only", model, single)
    assert all(value.isfinite().all() for value in unlearned.state_dict().values())


def test_costs_are_passes_over_the_data(model, sets):
    wanted = {("finetune", "retain"): (120, 120), ("amun", "retain"): (180, 180), ("amun", "forget_only"): (60, 60),
              ("gradient_ascent", "retain"): (150, 150), ("salun", "forget_only"): (60, 60),
              ("boundary_shrink", "forget_only"): (90, 60), ("neggrad_plus", "retain"): (240, 240),
              ("scrub", "retain"): (300, 150), ("sfr_on", "retain"): (300, 300),
              ("lotus", "retain"): (162, 66)}
    for (name, access), (forward, backward) in wanted.items():
        report = RunReport()
        run(name, access, model, sets, report=report, epochs=1)
        assert (report.forward, report.backward) == (forward, backward), (name, access)
