import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, kl_divergence

from amun_ray.base.errors import Diverged, UserError
from amun_ray.training.augment import Augmentation
from amun_ray.training.loop import train
from amun_ray.training.parts import place
from amun_ray.training.recipe import Recipe
from amun_ray.unlearn import BASELINES, Method, Sets, Setting, copy_model, find, lotus, plans, sfr_on, soft, unlearn
from amun_ray.unlearn.method import FORGET_ONLY, RETAIN, RunReport, Task
from amun_ray.unlearn.saliency import salient


def start(method, model, sets, **options):
    return unlearn(method, model, sets, recipe=Recipe(lr=options.pop("lr", 0.01), epochs=4, batch_size=16),
                   augmentation=Augmentation(), generator=torch.Generator().manual_seed(0), **options)


def task_of(model, sets, **settings):
    return Task(model=model, sets=sets, recipe=Recipe(lr=0.1, epochs=4), settings={"forget_statistics": 0} | settings,
                augmentation=Augmentation(), generator=torch.Generator().manual_seed(0), report=RunReport())


def test_random_labels_are_never_true_and_the_wrong_ones_equally_likely():
    labels = torch.arange(4).repeat(5000)
    wrong = plans.wrong_labels(labels, 4, torch.Generator().manual_seed(0))
    counts = torch.zeros(4, 4).index_put_((labels, wrong), torch.ones(()), accumulate=True)
    assert (counts.diagonal() == 0).all()
    assert (counts[~torch.eye(4, dtype=torch.bool)] / 5000 - 1 / 3).abs().max() < 0.03


def test_random_labels_are_drawn_anew_every_epoch(model, sets):
    epoch_passes = plans.random_label(task_of(model, sets))
    first, second = (epoch_passes(epoch)[0].parts for epoch in (1, 2))
    assert first[0] is second[0] is sets.retain
    assert not torch.equal(first[1].labels, second[1].labels)


def test_the_l1_weight_falls_linearly_to_zero(model, sets):
    epoch_passes = plans.l1_sparse(task_of(model, sets, alpha=0.1, decay_epochs=4, compounded=0))
    norm = sum(weight.abs().sum() for weight in model.parameters()).item()
    images, labels = sets.retain.images[:8] / 255, sets.retain.labels[:8]
    penalties = [epoch_passes(epoch)[0].objective(model, images, labels).item()
                 - plans.cross_entropy(model, images, labels).item() for epoch in range(1, 7)]
    assert penalties == pytest.approx([0.1 * norm * left for left in (1, 0.75, 0.5, 0.25, 0, 0)], abs=1e-3)


def test_as_in_the_scripts_the_l1_weight_is_compounded():
    weights = [plans.l1_weight(epoch, 5e-4, 10, compounded=True) / 5e-4 for epoch in range(1, 12)]
    assert weights == pytest.approx([1, 2, 3.6, 5.76, 8.064, 9.6768, 9.6768, 7.74144, 4.644864, 1.8579456, 0.37158912])
    assert plans.l1_weight(13, 5e-4, 10, compounded=True) == 0


def test_boundary_labels_of_the_original_stay_and_those_of_the_scripts_come_from_a_copy_after_the_pass_over_d_r(
        model, sets):
    settings = {"bound": 0.1, "forget_statistics": 0}
    original = plans.boundary_shrink(task_of(model, sets, labelled_by=plans.ORIGINAL, **settings))
    copied = plans.boundary_shrink(task_of(model, sets, labelled_by=plans.SCRIPTS, **settings))
    before = original(1)[1].parts[0].labels
    named = copied(1)[1]
    assert named.parts[0] is sets.forget  # augmented, and named batch by batch
    with torch.no_grad():
        model[4].weight.neg_()  # what a pass over D_R may do
    assert torch.equal(original(2)[1].parts[0].labels, before)
    images, labels = sets.forget.images[:6] / 255, sets.forget.labels[:6]
    frozen = copy_model(model).eval()
    moved = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(torch.nn.functional.cross_entropy(frozen(moved), labels, reduction="sum"), moved)
    whole = (255 * (images + 0.1 * slope.sign()).clamp(0, 1)).round() / 255
    wanted = torch.nn.functional.cross_entropy(model(images), frozen(whole).argmax(1))
    assert named.objective(model, images, labels).item() == pytest.approx(wanted.item())
    with torch.no_grad():
        model[4].weight.neg_()  # the first batch has made the copy
    again = torch.nn.functional.cross_entropy(model(images), frozen(whole).argmax(1))
    assert named.objective(model, images, labels).item() == pytest.approx(again.item())
    assert again.item() != pytest.approx(wanted.item(), rel=0.01)


def test_boundary_labels_come_from_the_model_at_the_start_of_the_epoch(model, sets):
    task = task_of(model, sets, bound=0.1, labelled_by=plans.PAPER)
    epoch_passes = plans.boundary_shrink(task)
    at_start, model_then = plans.neighbour_labels(task), copy_model(model)
    retain_pass, forget_pass = epoch_passes(1)
    with torch.no_grad():
        model[4].weight.neg_()
    assert retain_pass.parts == (sets.retain,)
    assert torch.equal(forget_pass.parts[0].labels, at_start)
    assert not torch.equal(epoch_passes(2)[1].parts[0].labels, at_start)
    assert torch.equal(plans.neighbour_labels(replace(task, model=model_then)), at_start)


def test_scrub_maximises_in_its_first_epochs_only(model, sets):
    epoch_passes = plans.scrub(task_of(model, sets, alpha=0.5, gamma=1, temperature=2, max_epochs=2))
    assert [[one.parts[0] is sets.forget for one in epoch_passes(epoch)] for epoch in (1, 2, 3)] == [
        [True, False], [True, False], [False]]


@pytest.mark.parametrize(("statistics", "moves"), [(0, False), (1, True)])
def test_scrubs_first_pass_moves_only_where_batch_norm_takes_the_batch(model, sets, statistics, moves):
    """With frozen statistics student and teacher agree, and KL has no gradient where it is zero."""
    original = copy_model(model).eval()
    settings = {"forget_statistics": statistics, "alpha": 0.5, "gamma": 1, "temperature": 4, "max_epochs": 1}
    away, _ = plans.scrub(task_of(model, sets, **settings))(1)
    list(train(model, lambda epoch: (away,), recipe=Recipe(lr=0.1, epochs=5, batch_size=10),
               augmentation=Augmentation(), generator=torch.Generator().manual_seed(0)))
    images = sets.forget.images / 255
    with torch.no_grad():
        divergence = plans.softened_divergence(original(images), model.eval()(images), 1).item()
    assert (divergence > 1e-3) == moves, divergence


def test_scrub_flees_and_follows_the_original_by_its_own_divergence(model, sets):
    """KL(original || model), not the other way round, against torch.distributions."""
    with torch.no_grad():
        model[4].weight.mul_(20)  # sure of itself: only then do the two divergences differ much
    original = copy_model(model).eval()
    away, towards = plans.scrub(task_of(model, sets, alpha=0.5, gamma=0.8, temperature=3, max_epochs=1))(1)
    with torch.no_grad():
        model[4].weight.mul_(-0.1)
    images, labels = sets.retain.images[:8] / 255, sets.retain.labels[:8]
    model.eval()
    with torch.no_grad():
        wanted, found = (Categorical(logits=net(images) / 3) for net in (original, model))
        ahead, back = (9 * kl_divergence(*pair).mean().item() for pair in ((wanted, found), (found, wanted)))
        loss = plans.cross_entropy(model, images, labels).item()
        assert ahead != pytest.approx(back, rel=0.05)
        assert away.objective(model, images, labels).item() == pytest.approx(-ahead, rel=1e-4)
        assert towards.objective(model, images, labels).item() == pytest.approx(0.5 * ahead + 0.8 * loss, rel=1e-4)


def test_sfr_on_climbs_before_every_fifth_step_and_ever_less(model, sets):
    settings = {"alpha": 8, "decay_epochs": 2, "loss_power": 0, "threshold": 0}
    task = task_of(model, sets, **settings)
    epoch_passes = sfr_on.sfr_on(replace(task, recipe=replace(task.recipe, batch_size=8)))
    images, labels = sets.forget.images[:8] / 255, sets.forget.labels[:8]
    loss = plans.cross_entropy(model, images, labels).item()
    weights, sizes = [], []
    for epoch in (1, 2, 3):
        for one in epoch_passes(epoch):
            sizes.append(len(one.parts[0].labels))
            if one.clip:
                weights.append(-one.objective(model, images, labels).item() / loss)
    assert sizes == [8, 40, 8, 40, 8, 40, 6, 40, 8, 40, 8, 40, 40, 40, 40]
    assert weights == pytest.approx([4 * (1 + math.cos(math.pi * step / 6)) for step in range(6)], rel=1e-4)


def test_lotus_softens_by_what_is_still_known_and_stops_where_nothing_more_is(model, sets):
    with torch.no_grad():
        known = (model.eval()(sets.forget.images / 255).argmax(1) == sets.forget.labels).double().mean().item()
    assert 0 < known < 0.9

    def plan(unseen):
        return lotus.lotus(task_of(model, sets, alpha=2, unseen_accuracy=unseen))(1)

    assert plan(known + 0.011) == ()
    (one,) = plan(known + 0.009)
    sizes = [math.ceil(0.3 * len(sets.retain.labels)), len(sets.forget.labels)]
    assert [len(part.labels) for part in one.parts] == sizes
    images = torch.cat([part.own_images for part in one.parts]) / 255
    numbers = torch.cat([part.labels for part in one.parts])
    with torch.no_grad():
        sharp = one.objective(model, images, numbers)
        soft = plan(0)[0].objective(model, images, numbers)
    assert sharp != soft


def test_fisher_information_is_the_mean_over_batches_of_the_squared_gradient_of_each(sets):
    """Softmax regression, whose gradient is (p - onehot) x^T; the last of three batches is smaller."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4, bias=False))
    part = sets.forget.take(torch.arange(5), augment=True)
    task = replace(task_of(net, sets), recipe=Recipe(lr=0.1, epochs=1, batch_size=2))
    (found,) = sfr_on.fisher(task, part).values()
    x = part.own_images.flatten(1) / 255
    each = (net[1](x).softmax(1) - torch.eye(4)[part.labels])[:, :, None] * x[:, None]
    torch.testing.assert_close(found, sum(one.mean(0)**2 for one in each.split(2)) / 3)


def test_salun_moves_the_weights_that_matter_for_the_forget_set():
    """Softmax regression: D_F has light in the first pixel alone, D_R in the last: their gradients share no weight."""
    def lit(pixel, count):
        images = torch.zeros(count, 1, 2, 2)
        images.flatten(1)[:, pixel] = 1
        return place(images, torch.arange(count) % 2, augment=False)

    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    given = Sets(retain=lit(3, 21), forget=lit(0, 5), adversarial=lit(2, 5))
    (mask,) = salient(task_of(net, given, mask_ratio=0.25)).values()
    assert mask.tolist() == [[True, False, False, False]] * 2


@pytest.mark.parametrize(("ratio", "count"), [(0.25, 32), (0.001, 1)])
def test_of_weights_that_matter_alike_the_earlier_ones_move_and_at_least_one(ratio, count):
    """Weights of 0 and pixels of 1: every gradient is a half, up or down."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2, bias=False))
    nn.init.zeros_(net[1].weight)
    forget = place(torch.ones(3, 1, 8, 8), torch.zeros(3, dtype=torch.int64), augment=False)
    (mask,) = salient(task_of(net, Sets(retain=None, forget=forget), mask_ratio=ratio)).values()
    assert torch.equal(mask.flatten(), torch.arange(128) < count)


def test_amun_sees_what_the_table_of_the_paper_says(model, sets):
    without = replace(sets, retain=None)

    def seen(plan, given):
        return plan(task_of(model, given))(1)[0].parts

    assert seen(plans.amun, sets) == (sets.retain, sets.forget, sets.adversarial)
    assert seen(plans.amun, without) == (sets.forget, sets.adversarial)
    assert seen(plans.amun_without_forget, sets) == (sets.retain, sets.adversarial)
    assert seen(plans.amun_without_forget, without) == (sets.adversarial,)


def test_soft_labels_are_those_of_the_samples_with_an_adversarial_example(model, sets):
    """The others are left out, and each of these goes towards its own."""
    chosen = torch.tensor([1, 4, 5, 20])
    given = replace(sets, adversarial=sets.adversarial.take(chosen, augment=False), sources=chosen)
    seen = soft.amun_soft(task_of(model, given, step=0.5, adversarial=1))(1)[0]
    retained, forgotten, adversarial = seen.parts
    assert (retained, adversarial) == (sets.retain, given.adversarial)
    assert torch.equal(forgotten.own_images, sets.forget.images[chosen])
    assert forgotten.labels.tolist() == [4, 5, 6, 7]  # 0 to 3 are the classes
    images = sets.forget.images[chosen] / 255
    wanted = copy_model(model).eval()(images + 0.5 * (given.adversarial.own_images - images)).softmax(1)
    expected = -(wanted * model.eval()(images).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(seen.objective(model, images, forgotten.labels), expected)


def test_an_adversarial_set_of_unknown_samples_is_refused_where_they_matter(model, sets):
    fewer = replace(sets, adversarial=sets.adversarial.take(torch.arange(4), augment=False))
    list(start("amun", copy_model(model), fewer))
    with pytest.raises(UserError, match="has 4 images, but was made from 30; Sets.sources must give the place"):
        list(start("amun_soft", model, fewer))


def test_a_network_without_kernels_to_transpose_is_refused(sets):
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, (1, 6)), nn.Flatten(), nn.Linear(24, 4))
    with pytest.raises(UserError, match="needs a convolution with a square kernel larger than 1 x 1"):
        list(start("convolution_transpose", net, sets))


def test_a_diverging_run_says_so(model, sets):
    with pytest.raises(Diverged, match="epoch . of 4"):
        list(start("gradient_ascent", model, replace(sets, retain=None), lr=1e9))


@pytest.mark.parametrize(("name", "settings", "message"), [
    ("amun", {"mask_ratio": 0.5}, "amun has no setting 'mask_ratio'. Its settings: forget_statistics"),
    ("finetune", {"alpha": 0.5}, "finetune has no setting 'alpha'. Its settings: none"),
    ("amun", {"forget_statistics": 1},
     "'forget_statistics' has no effect on amun with 'retain' access, only with 'forget_only'"),
    ("gradient_ascent", {"forget_statistics": 0.5}, "must be one of 0, 1"),
    ("salun", {"mask_rato": 0.5}, "did you mean 'mask_ratio'"),
    ("salun", {"mask_ratio": 0}, "mask_ratio must be > 0, but got 0"),
    ("salun", {"mask_ratio": 1.01}, "mask_ratio must be <= 1"),
    ("salun", {"mask_ratio": "half"}, "mask_ratio must be a finite number, but got 'half'"),
    ("l1_sparse", {"alpha": -1}, "alpha must be >= 0"),
    ("l1_sparse", {"alpha": float("nan")}, "a finite number"),
])
def test_wrong_settings_are_named_before_anything_runs(name, settings, message, model, sets):
    with pytest.raises(UserError, match=message):
        start(name, model, sets, settings=settings)


def test_what_the_sets_lack_is_named_before_anything_runs(model, sets):
    nothing = sets.forget._replace(images=sets.forget.images[:0], labels=sets.forget.labels[:0])
    for name, given, message in (
            ("finetune", replace(sets, retain=None), "does not exist with 'forget_only' access, only with retain"),
            ("amun", replace(sets, adversarial=None), "amun needs an adversarial set"),
            ("amun", replace(sets, adversarial=nothing), "amun needs an adversarial set"),
            ("finetune", replace(sets, forget=nothing), "the forget set is empty"),
            ("finetune", replace(sets, retain=nothing), "the retain set is empty")):
        with pytest.raises(UserError, match=message):
            start(name, model, given)


def test_an_unknown_method_is_named_with_its_neighbour(model, sets):
    with pytest.raises(UserError, match="did you mean 'salun'"):
        start("saluna", model, sets)


@pytest.mark.parametrize("name", BASELINES)
def test_the_rows_that_every_table_has_are_not_asked_for(name):
    with pytest.raises(UserError, match=f"'{name}' is no method to ask for: .* remove this line"):
        find(name)


def test_a_users_own_method_is_one_function_and_one_line(model, sets, tmp_path, monkeypatch):
    (tmp_path / "own_methods.py").write_text(
        "from amun_ray.training.loop import Pass\n"
        "from amun_ray.unlearn import Method\n"
        "def gentle(task):\n"
        "    return lambda epoch: [Pass((task.sets.retain,))]\n"
        "GENTLE = Method(access=frozenset({'retain'}), plan=gentle)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("AMUN_ALLOW_CODE", "own_methods")
    theirs, ours = copy_model(model), copy_model(model)
    assert list(start("own_methods:GENTLE", theirs, sets)) == list(start("finetune", ours, sets)) == [1, 2, 3, 4]
    assert torch.equal(theirs[4].weight, ours[4].weight)
    with pytest.raises(UserError, match="an amun_ray.unlearn.Method is expected, found function"):
        find("own_methods:gentle")


def test_a_row_that_makes_no_sense_is_refused():
    with pytest.raises(UserError, match="access must be"):
        Method(access=frozenset({"everything"}), plan=plans.finetune)
    with pytest.raises(UserError, match="either a plan or a run"):
        Method(access=frozenset({"retain"}))
    with pytest.raises(UserError, match="no setting of access of this method lets weight count"):
        Method(access=RETAIN, plan=plans.finetune,
               settings={"weight": Setting(default=1, low=1, high=2, access=FORGET_ONLY)})


def test_the_caller_s_time_between_epochs_is_not_counted(model, sets, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("amun_ray.unlearn.time.perf_counter", lambda: clock[0])
    report = RunReport()
    for _ in start("finetune", model, sets, report=report):
        clock[0] += 100
    assert report.seconds == 0


def test_access_is_what_the_sets_hold(sets):
    assert sets.access == "retain"
    assert Sets(retain=None, forget=sets.forget).access == "forget_only"
