import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from amun_ray.base.errors import Diverged, UserError
from amun_ray.training.augment import Augmentation
from amun_ray.training.batches import batches
from amun_ray.training.cost import Cost
from amun_ray.training.loop import Pass, cross_entropy, fit, train
from amun_ray.training.parts import Part, place
from amun_ray.training.recipe import Recipe


def net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def part(count=50, seed=0, *, augment=False):
    rng = np.random.default_rng(seed)
    return place(rng.integers(0, 256, (count, 1, 4, 4), np.uint8), rng.integers(0, 3, count), augment=augment)


def run(model, parts, *, seed=0, **options):
    recipe = Recipe(**({"lr": 0.1, "epochs": 2, "batch_size": 16} | options))
    return fit(model, parts, recipe=recipe, augmentation=Augmentation(crop=1), generator=generator(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def same(one, other):
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def test_equals_the_loop_that_everybody_writes():
    ours, plain = net(), net()
    recipe = Recipe(lr=0.1, epochs=3, batch_size=16, decay_every=1)
    assert list(fit(ours, [part()], recipe=recipe, augmentation=Augmentation(), generator=generator())) == [1, 2, 3]
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    order = generator()
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = 0.1 * 0.1**epoch
        for images, labels in batches([part()], batch_size=16, augmentation=Augmentation(), generator=order):
            optimizer.zero_grad()
            F.cross_entropy(plain(images.contiguous()), labels).backward()
            optimizer.step()
    for ours_value, plain_value in zip(ours.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours_value, plain_value)


def test_adamw_with_clipping_and_smoothed_labels_equals_the_loop_that_everybody_writes():
    ours = nn.Sequential(nn.Flatten(), net()[-1], nn.ReLU(), nn.Linear(3, 3))  # no gradient is float noise alone
    plain = copy.deepcopy(ours)
    list(run(ours, [part()], optimizer="adamw", clip=0.01, label_smoothing=0.2, weight_decay=0.1, lr=0.01))
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01, weight_decay=0.1)
    order = generator()
    for _ in range(2):
        for images, labels in batches([part()], batch_size=16, augmentation=Augmentation(crop=1), generator=order):
            optimizer.zero_grad()
            F.cross_entropy(plain(images.contiguous()), labels, label_smoothing=0.2).backward()
            assert nn.utils.clip_grad_norm_(plain.parameters(), 0.01) > 0.01  # so that it counts
            optimizer.step()
    for ours_value, plain_value in zip(ours.state_dict().values(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours_value, plain_value)


def test_adamw_moves_nothing_outside_a_mask_and_the_rest_as_without_one():
    masked, free = net(), net()
    for model, share in ((masked, 0.5), (free, 1.0)):
        mask = {name: torch.rand(weight.shape, generator=generator(3)) < share
                for name, weight in model.named_parameters()}
        before = copy.deepcopy(model)
        list(train(model, lambda epoch: (Pass((part(),)),), mask=mask, augmentation=Augmentation(),
                   recipe=Recipe(lr=0.01, epochs=2, optimizer="adamw", weight_decay=0.1), generator=generator()))
        for (name, weight), old in zip(model.named_parameters(), before.parameters(), strict=True):
            assert torch.equal(weight != old, mask[name]), name
    plain = net()
    list(fit(plain, [part()], recipe=Recipe(lr=0.01, epochs=2, optimizer="adamw", weight_decay=0.1),
             augmentation=Augmentation(), generator=generator()))
    for one, other in zip(free.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_dropout_follows_the_seed_of_the_training_and_nothing_else():
    models = [nn.Sequential(net(), nn.Dropout(0.5)) for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        state = torch.random.get_rng_state()
        epochs = run(model, [part()], seed=seed)
        next(epochs)
        assert torch.equal(torch.random.get_rng_state(), state)
        torch.manual_seed(seed + 100)  # what the caller draws between epochs changes nothing
        list(epochs)
    assert same(models[0], models[1])
    assert not same(models[0], models[2])
    torch.manual_seed(0)


def test_learns_what_can_be_learnt():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    pixels = rng.integers(0, 80, (200, 1, 4, 4), np.uint8)
    pixels[np.arange(200), 0, labels, labels] += 150
    model, images = net(), torch.from_numpy(pixels) / 255
    for _ in run(model, [place(pixels, labels, augment=False)], epochs=10):
        pass
    assert (model.eval()(images).argmax(1).numpy() == labels).mean() > 0.98


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    models = [net() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        list(run(model, [part(augment=True)], seed=seed))
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_a_long_run_passes_through_every_shorter_one():
    long, short = net(), net()
    epochs = run(long, [part(augment=True)], epochs=4, decay_every=1)
    next(epochs), next(epochs)
    list(run(short, [part(augment=True)], epochs=2, decay_every=1))
    assert same(long, short)


def test_evaluating_between_epochs_changes_nothing():
    watched, alone = net(), net()
    for _ in run(watched, [part()]):
        watched.eval()(torch.rand(2, 1, 4, 4))
    list(run(alone, [part()]))
    assert same(watched, alone)


def test_a_yielded_model_carries_no_gradients():
    model = net()
    next(run(model, [part()]))
    assert all(weight.grad is None for weight in model.parameters())


def test_a_masked_weight_is_moved_by_neither_gradient_nor_momentum_nor_decay():
    model, before = net(), net()
    mask = {name: torch.rand(weight.shape, generator=generator(1)) < 0.5 for name, weight in model.named_parameters()}
    recipe = Recipe(lr=0.1, epochs=3, batch_size=16, weight_decay=0.1)
    list(train(model, lambda epoch: [Pass((part(),))], recipe=recipe, augmentation=Augmentation(),
               generator=generator(), mask=mask))
    for name, weight in before.named_parameters():
        moved = model.get_parameter(name) != weight
        assert not moved[~mask[name]].any(), name
        assert moved[mask[name]].float().mean() > 0.9, name


def test_a_mask_of_ones_is_no_mask():
    masked, free = net(), net()
    mask = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in masked.named_parameters()}
    for model, chosen in ((masked, mask), (free, None)):
        list(train(model, lambda epoch: [Pass((part(),))], recipe=Recipe(lr=0.1, epochs=2),
                   augmentation=Augmentation(), generator=generator(), mask=chosen))
    for one, other in zip(masked.parameters(), free.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_frozen_weights_stay():
    model, before = net(), net()
    model[0].weight.requires_grad_(False)
    list(run(model, [part()]))
    assert torch.equal(model[0].weight, before[0].weight)
    assert not torch.equal(model[4].weight, before[4].weight)


@pytest.mark.parametrize("learn", [True, False])
def test_a_pass_updates_batch_norm_statistics_or_uses_them_as_they_are(learn):
    model, seen = net(), []
    before = copy.deepcopy(model[1].state_dict())

    def watch(forward, images, labels):
        logits = forward(images)
        seen.append(torch.allclose(logits, copy.deepcopy(model).eval()(images), atol=1e-5))
        return F.cross_entropy(logits, labels)

    list(train(model, lambda epoch: [Pass((part(),), watch, statistics=learn)], recipe=Recipe(lr=0.1, epochs=1),
               augmentation=Augmentation(), generator=generator()))
    assert torch.equal(before["running_mean"], model[1].running_mean) != learn
    assert all(seen) != learn
    assert model[1].training
    assert not torch.equal(before["weight"], model[1].weight)


def test_one_sample_needs_a_pass_without_batch_statistics():
    with pytest.raises(UserError, match="at least two samples"):
        list(run(net(), [part(1)]))
    list(train(net(), lambda epoch: [Pass((part(1),), statistics=False)], recipe=Recipe(lr=0.1, epochs=1),
               augmentation=Augmentation(), generator=generator()))
    list(run(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), [part(1)]))


def test_no_batch_norm_layer_sees_a_single_sample():
    model, sizes = net(), []
    model[1].register_forward_pre_hook(lambda layer, inputs: sizes.append(len(inputs[0])))
    list(run(model, [part(20), part(13)], epochs=1))
    assert sizes == [16, 17]


def test_divergence_ends_the_epoch_with_its_reason():
    with pytest.raises(Diverged, match=r"epoch 1 of 2, lr 0.1: the summed loss is nan"):
        list(fit(net(), [part()], recipe=Recipe(lr=0.1, epochs=2), augmentation=Augmentation(), generator=generator(),
                 loss=lambda forward, images, labels: cross_entropy(forward, images, labels) * float("nan")))


def test_weights_that_overflow_in_the_last_step_are_seen():
    with pytest.raises(Diverged, match="weights or statistics are not finite"):
        list(fit(net(), [part()], recipe=Recipe(lr=0.1, epochs=1), augmentation=Augmentation(), generator=generator(),
                 loss=lambda forward, images, labels: torch.sqrt(forward(images).sum() * 0).clamp(max=1)))


def test_cost_counts_samples():
    cost = Cost()
    list(fit(net(), [part(20), part(13)], recipe=Recipe(lr=0.1, epochs=3), augmentation=Augmentation(),
             generator=generator(), cost=cost))
    assert (cost.forward, cost.backward) == (99, 99)


def test_the_learning_rate_follows_time_in_samples_through_all_passes(monkeypatch):
    times = []
    monkeypatch.setattr(Recipe, "lr_at", lambda recipe, time: times.append(time) or 0.1)
    sweeps = [Pass((part(24),)), Pass((part(16),))]
    list(train(net(), lambda epoch: sweeps, recipe=Recipe(lr=0.1, epochs=2, batch_size=16),
               augmentation=Augmentation(), generator=generator()))
    assert sorted(set(times)) == pytest.approx([0, 1 / 3, 0.5, 1, 4 / 3, 1.5])


def test_bfloat16_stays_near_float32():
    half, full = net(), net()
    for model, precision in ((half, "bfloat16"), (full, "float32")):
        list(run(model, [part()], precision=precision))
    assert all(weight.dtype == torch.float32 for weight in half.parameters())
    for one, other in zip(half.parameters(), full.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0.1, atol=0.05)
    assert not same(half, full)


def test_compile_wraps_the_model_and_trains_the_same_weights(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    model = net()
    list(run(model, [part()], compile=True))
    assert compiled == [model]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: asks CUDA for host-device synchronisations")
def test_no_synchronisation_inside_an_epoch():
    here = Part(*(tensor.cuda() for tensor in part(500)[:2]), augment=True)
    model, sweep = net().cuda(), []

    def watch(forward, images, labels):
        torch.cuda.set_sync_debug_mode("error" if len(sweep) < 30 else "default")
        sweep.append(len(labels))
        return cross_entropy(forward, images, labels)

    try:
        list(fit(model, [here], recipe=Recipe(lr=0.1, epochs=1, batch_size=16), augmentation=Augmentation(1, True),
                 generator=generator(), loss=watch))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(sweep) == 32
