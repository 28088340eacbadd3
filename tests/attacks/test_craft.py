"""craft: rows that flip the model they were made for, whatever the search ran on; what could not be flipped is said."""

import logging
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from amun_ray.attacks import ATTACKS, AdversarialRows, AttackSettings, Prepared, calibrate, craft, transfer
from amun_ray.attacks.look import SLACK, Capacity, Look, Looker, flat
from amun_ray.attacks.rows import AttackCost, report
from amun_ray.attacks.slots import Outcome
from amun_ray.attacks.verify import flips, verify
from amun_ray.base.status import Status
from amun_ray.data.shards import COLUMNS


@torch.no_grad()
def said(model, images):
    return model(torch.as_tensor(images)).argmax(1).numpy()


def first_radius(name):
    """A radius for the attacks that take one, and fewer steps for those that take steps, to keep the tests fast."""
    return ({"eps_init": 0.05} if ATTACKS[name].smallest else {}) | ({"steps": 10} if "pgd" in name else {})


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_row_flips_the_original_in_any_batch(name, precision, net, images, labels):
    rows = craft(net, images, labels, settings=AttackSettings(name=name, precision=precision, **first_radius(name)))
    assert rows.status.tolist() == [Status.FLIPPED] * len(images)
    alone = np.concatenate([said(net, image[None]) for image in rows.image])
    np.testing.assert_array_equal(said(net, rows.image), rows.label)
    np.testing.assert_array_equal(alone, rows.label)
    assert (rows.label != rows.true_label).all()
    assert rows.image.min() >= 0
    assert rows.image.max() <= 1
    distance = np.linalg.norm((rows.image - images.numpy()).reshape(len(images), -1), axis=1)
    np.testing.assert_allclose(rows.l2, distance, rtol=1e-5)


def test_columns_are_those_of_a_shard(net, images, labels):
    rows = craft(net, images[:3], labels[:3], settings=AttackSettings(), indices=np.array([7, 5, 6]))
    assert {name: column.dtype for name, column in rows.columns.items()} == {
        name: np.dtype(kind) for name, (kind, _) in COLUMNS.items()}
    assert rows.index.tolist() == [7, 5, 6]


def test_a_sample_that_is_already_wrong_is_its_own_neighbour(net, images, labels):
    given = labels.clone()
    given[::3] = (given[::3] + 1) % 4
    for name in ATTACKS:
        rows = craft(net, images, given, settings=AttackSettings(name=name, **first_radius(name)))
        assert (rows.status[::3] == Status.ALREADY_WRONG).all()
        assert (rows.status[1::3] == Status.FLIPPED).all()
        np.testing.assert_array_equal(rows.image[::3], images[::3].numpy())
        np.testing.assert_array_equal(rows.label[::3], labels[::3].numpy())
        assert not rows.l2[::3].any()
        assert not rows.eps[::3].any()


class Stubborn(nn.Module):
    """Answers 0 to every image, with a gradient of zero."""

    def forward(self, images):
        return torch.stack([images.flatten(1).sum(1) * 0 + 1, images.flatten(1).sum(1) * 0], 1)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_sample_that_cannot_be_flipped_is_reported(name, images):
    rows = craft(Stubborn(), images[:4], torch.zeros(4, dtype=torch.int64),
                 settings=AttackSettings(name=name, **first_radius(name)))
    assert (rows.status == Status.FAILED).all()
    assert not rows.kept.any()
    assert rows.report()["failed_percent"] == 100
    assert "l2_mean" not in rows.report()


def test_kappa_is_a_margin_on_the_original(net, images, labels):
    kappa = 0.5
    rows = craft(net, images, labels, settings=AttackSettings(kappa=kappa))
    assert (rows.status == Status.FLIPPED).all()
    with torch.no_grad():
        logits = net(torch.from_numpy(rows.image))
    lead = logits.amax(1) - logits.gather(1, labels[:, None])[:, 0]
    assert (lead >= kappa).all()
    assert lead.median() < 1.5 * kappa


def claims(best):
    """A search's answer that says every row flips."""
    count = len(best)
    return Outcome(best, torch.ones(count, dtype=torch.bool), torch.ones(count), torch.ones(count), torch.ones(count))


@torch.no_grad()
def test_rows_that_fall_short_are_pushed_or_searched_again(plane, plane_images):
    label = plane(plane_images).argmax(1)
    clean, away = flat(plane_images), torch.sign(0.5 - label.float())[:, None] * -1
    normal = flat(plane.weight.detach().view(1, 3, 6, 6)) / plane.weight.norm()
    distance = plane.distance(plane_images, 2).detach()[:, None]
    short = torch.where(torch.arange(16)[:, None] % 2 == 0, 0.997, 0.5)  # a push fixes the first, not the second
    crossing = clean + away * short * distance * normal
    asked = []

    def again(some, labels):
        asked.append(len(some))
        return some + away[1::2] * 1.01 * distance[1::2] * normal

    verdict = verify(Looker(plane, (3, 6, 6), Capacity(8)), clean, label, claims(crossing), kappa=0.0, again=again)
    assert verdict.flipped.all()
    assert asked == [8]
    pushed = (verdict.image - clean).norm(dim=1)[::2]
    np.testing.assert_allclose(pushed, (0.997 * 1.005 * distance)[::2, 0], rtol=1e-4)


def test_a_row_that_cannot_be_mended_is_not_kept(plane, plane_images):
    label = plane(plane_images).argmax(1)
    clean = flat(plane_images)
    verdict = verify(Looker(plane, (3, 6, 6), Capacity(8)), clean, label, claims(clean), kappa=0.0,
                     again=lambda some, labels: some)
    assert not verdict.flipped.any()
    assert torch.equal(verdict.label, label)


class Stumbles(list):
    def __deepcopy__(self, memo):
        return self


class Small(nn.Module):
    """A device with memory for `most` images at a time; its copies share the list of batches that were too large."""

    def __init__(self, net, most):
        super().__init__()
        self.net, self.most, self.stumbles = net, most, Stumbles()

    def forward(self, images):
        if len(images) > self.most:
            self.stumbles.append(len(images))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.net(images)


def test_out_of_memory_halves_the_batch_and_says_so_once(net, images, labels, caplog):
    wanted = craft(net, images, labels, settings=AttackSettings())
    with caplog.at_level(logging.WARNING, logger="amun_ray"):
        found = craft(Small(net, 5), images, labels, settings=AttackSettings(batch_size=32))
    np.testing.assert_allclose(found.image, wanted.image, rtol=0, atol=2e-5)
    assert [record.args for record in caplog.records] == [(4,)]  # the verification reuses what the search found out
    with pytest.raises(torch.OutOfMemoryError):
        craft(Small(net, 0), images, labels, settings=AttackSettings())


def test_the_room_that_was_found_is_kept_for_the_next_batch(net, images, labels, caplog):
    small, settings = Small(net, 5), AttackSettings(name="pgd_l2", steps=5)
    ready = Prepared(small, settings, Capacity(32))
    with caplog.at_level(logging.WARNING, logger="amun_ray"):
        for part in (slice(0, 24), slice(24, 48)):
            calibrate(ready, images[part], labels[part], settings=settings)
            craft(ready, images[part], labels[part], settings=settings)
            transfer(ready, small, images[part], labels[part], settings=settings)
    assert small.stumbles == [24, 16, 8]
    assert ready.capacity.images == 4
    assert len(caplog.records) == 1


def test_the_cost_is_what_the_model_saw(net, images, labels):
    seen = {"forward": 0, "backward": 0}
    counted = deepcopy(net)

    def count(module, inputs, output):
        seen["forward"] += len(output)
        if output.requires_grad:
            output.register_hook(lambda gradient: seen.update(backward=seen["backward"] + len(gradient)))

    counted.head.register_forward_hook(count)
    cost = craft(counted, images, labels, settings=AttackSettings()).cost
    extra = 2 + 2  # the check of the model, and one image through the plain and the folded copy
    assert seen["forward"] == cost.forward + cost.verification + extra
    assert seen["backward"] == cost.backward
    assert cost.samples == len(images)


def test_compile_compiles_once_and_keeps_one_shape(net, images, labels, monkeypatch):
    shapes, compilations = set(), []

    def remember(model, **options):
        assert options["dynamic"] is False
        compilations.append(model)

        def compiled(given):
            shapes.add(tuple(given.shape))
            return model(given)
        return compiled

    monkeypatch.setattr(torch, "compile", remember)
    settings = AttackSettings(compile=True, batch_size=20)
    ready = Prepared(net, settings)
    rows = AdversarialRows.joined(craft(ready, images[part], labels[part], settings=settings)
                                  for part in (slice(0, 30), slice(30, 48)))
    assert shapes == {(20, 3, 6, 6)}
    assert len(compilations) == 1
    np.testing.assert_allclose(rows.image, craft(net, images, labels, settings=AttackSettings()).image,
                               rtol=0, atol=2e-5)


def test_a_prepared_model_gives_the_same_rows(net, images, labels):
    settings = AttackSettings(name="pgd_linf", steps=5)
    changed = deepcopy(net)
    ready = Prepared(changed, settings)
    changed.head.weight.data.zero_()
    for _ in range(2):
        rows = craft(ready, images, labels, settings=settings)
        for name, column in craft(net, images, labels, settings=settings).columns.items():
            np.testing.assert_array_equal(column, rows.columns[name], err_msg=name)


def test_joined_rows_report_as_one(net, images, labels):
    parts = [craft(net, images[part], labels[part], settings=AttackSettings()) for part in (slice(0, 8), slice(8, 48))]
    joined, whole = AdversarialRows.joined(parts), craft(net, images, labels, settings=AttackSettings())
    assert joined.cost == whole.cost
    assert joined.report() == pytest.approx(whole.report(), rel=1e-4)
    assert whole.report()["l2_p50"] == pytest.approx(np.median(whole.l2))


def test_one_part_joins_to_itself(net, images, labels):
    part = craft(net, images[:3], labels[:3], settings=AttackSettings(name="fgsm", eps_init=0.05))
    joined = AdversarialRows.joined(iter([part]))
    assert joined.cost == part.cost
    for name, column in part.columns.items():
        np.testing.assert_array_equal(joined.columns[name], column, err_msg=name)


def test_a_report_in_numbers():
    """Two flipped samples at distances 1 and 3, one that was wrong already and one that failed."""
    status = np.array([Status.FLIPPED, Status.FAILED, Status.FLIPPED, Status.ALREADY_WRONG], np.int8)
    columns = {"status": status, "eps": np.array([2, 99, 4, 0], np.float32), "l2": np.array([1, 99, 3, 0], np.float32)}
    found = report(columns, AttackCost(samples=4, forward=10, backward=6, verification=8))
    assert found == pytest.approx({
        "flipped_percent": 50, "already_wrong_percent": 25, "failed_percent": 25,
        "eps_mean": 3, "eps_p05": 2.1, "eps_p25": 2.5, "eps_p50": 3, "eps_p75": 3.5, "eps_p95": 3.9,
        "l2_mean": 2, "l2_p05": 1.1, "l2_p25": 1.5, "l2_p50": 2, "l2_p75": 2.5, "l2_p95": 2.9,
        "forward_per_sample": 2.5, "backward_per_sample": 1.5, "verification_per_sample": 2})
    nothing = {name: column[1:2] for name, column in columns.items()}
    assert report(nothing, AttackCost()) == {"flipped_percent": 0, "already_wrong_percent": 0, "failed_percent": 100}
    assert report(nothing, AttackCost(samples=1, forward=3))["forward_per_sample"] == 3


def test_a_row_may_lose_half_of_its_slack_between_search_and_verification_and_no_more():
    look = Look(torch.ones(2, dtype=torch.int64), torch.tensor([-0.6, -0.4]) * SLACK * 10, torch.full((2,), 10.0),
                torch.zeros(2, 2), torch.zeros(2, 1))
    assert flips(look, torch.zeros(2, dtype=torch.int64), 0.0).tolist() == [True, False]
