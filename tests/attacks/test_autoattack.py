"""AutoAttack where robustness is known exactly, and beside our own attack where it is not."""

import logging
import sys

import pytest
import torch
from torch import nn

from amun_ray.attacks import pgd_linf
from amun_ray.attacks.autoattack import check_autoattack, ensemble, most_passes, withstood
from amun_ray.base.errors import UserError

DUAL = {"Linf": 1, "L2": 2}


class Linear(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, 108, generator=torch.Generator().manual_seed(classes)))

    def forward(self, images):
        return (images.flatten(1) - 0.5) @ self.weight.T

    def distances(self, images, labels, norm):
        """(N,) to the nearest other class; 0 where the model is wrong."""
        with torch.no_grad():
            logits = self(images)
            lead = logits.gather(1, labels[:, None]) - logits
            apart = torch.linalg.vector_norm(self.weight[labels][:, None] - self.weight, ord=DUAL[norm], dim=2)
            apart.scatter_(1, labels[:, None], 1.0)
            others = (lead / apart).scatter(1, labels[:, None], torch.inf)
            return others.amin(1).clamp_min(0)


@pytest.fixture(autouse=True)
def _few_queries(monkeypatch):
    """Square's 5,000 on the images that nothing moves take seconds, and are the library's own."""
    from pyautoattack.autoattack import AutoAttack

    chosen = AutoAttack._set_version

    def fewer(self, version="standard"):
        chosen(self, version)
        assert (self.square.n_queries, self.apgd.n_iter, self.apgd.n_restarts, self.fab.n_restarts) == (5000, 100, 1, 1)
        self.square.n_queries = 50
    monkeypatch.setattr(AutoAttack, "_set_version", fewer)


@pytest.mark.parametrize(("classes", "norm"), [(5, "Linf"), (3, "L2"), (2, "Linf")])
def test_on_a_linear_model_the_robust_images_are_exactly_those_beyond_the_radius(classes, norm, caplog):
    model = Linear(classes)
    images = 0.5 + 0.1 * (torch.rand(16, 3, 6, 6, generator=torch.Generator().manual_seed(1)) - 0.5)
    labels = model(images).argmax(1)
    labels[0] = (labels[0] + 1) % classes  # wrong before any attack
    distances = model.distances(images, labels, norm)
    ordered = distances.sort().values[4:12]
    wide = int((ordered[1:] - ordered[:-1]).argmax())
    eps = float(ordered[wide] + ordered[wide + 1]) / 2  # in the widest gap: no image lies near it
    before, mode = torch.get_rng_state(), model.training
    with caplog.at_level(logging.WARNING):
        found = withstood(model, images, labels, norm=norm, eps=eps, seed=1)
    assert found.tolist() == (distances > eps).tolist()
    assert 4 <= found.sum() <= 12
    assert torch.equal(before, torch.get_rng_state())
    assert model.training is mode
    assert model.weight.grad is None
    assert model.weight.requires_grad
    assert classes == 3 or not caplog.records  # of three the library says what it was not asked for


@pytest.mark.parametrize(("classes", "targets"), [(12, 9), (10, 9), (7, 6)])
def test_there_are_nine_targets_or_as_many_as_there_are_other_classes(classes, targets, monkeypatch):
    from pyautoattack.autoattack import AutoAttack

    def run(self, images, labels, batch_size):
        seen.append((self.apgd_targeted.n_target_classes, self.fab.n_target_classes, self.version, batch_size))
        return images, labels
    seen = []
    monkeypatch.setattr(AutoAttack, "run_standard_evaluation", run)
    withstood(Linear(classes), torch.full((3, 3, 6, 6), 0.4), torch.tensor([0, 1, 2]), norm="Linf", eps=0.1, seed=0)
    assert seen == [(targets, targets, "standard", 3)]


def test_it_finds_every_image_that_our_attack_finds(net, images, labels):
    radius = 0.06
    ours = pgd_linf(net, images[:16], labels[:16], radius=radius, steps=20)
    found = withstood(net, images[:16], labels[:16], norm="Linf", eps=radius, seed=3)
    assert 0 < ours.found.sum() < 16
    assert 0 < found.sum() < 16
    assert not (found & ours.found.numpy()).any()


def test_the_ensemble_is_the_standard_one_as_far_as_the_classes_allow():
    assert ensemble(10) == ("apgd-ce", "apgd-t", "fab-t", "square")
    assert [ensemble(classes)[1:-2] for classes in (4, 3, 2)] == [("apgd-t",), ("apgd-dlr",), ()]
    assert most_passes(10) == most_passes(1000) == 303 + 9 * 303 + 9 * 400 + 5000
    assert most_passes(2) == 303 + 400 + 5000


class Noisy(Linear):
    def forward(self, images):
        return super().forward(images) + 0.01 * torch.randn(len(images), 1)


@pytest.mark.parametrize(("model", "size", "norm", "problem"), [
    (Noisy(4), 6, "Linf", "answers differently each time it sees an image"),
    (Linear(4), 4, "L2", "norm L2 needs images of at least 5 pixels a side, and these have 4")])
def test_what_cannot_be_attacked_is_refused(model, size, norm, problem):
    with pytest.raises(UserError, match=problem):
        check_autoattack(model, torch.full((4, 3, size, size), 0.4), norm)


def test_without_the_library_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(UserError, match=r"pip install 'amun_ray\[autoattack\]'"):
        check_autoattack(Linear(4), torch.full((4, 3, 6, 6), 0.4), "Linf")


def test_too_little_memory_halves_the_images_at_once(monkeypatch, caplog):
    class Small(Linear):
        def forward(self, images):
            if len(images) > 8:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(images)

    images = 0.5 + 0.1 * (torch.rand(16, 3, 6, 6, generator=torch.Generator().manual_seed(1)) - 0.5)
    model = Small(2)
    labels = Linear(2)(images).argmax(1)
    with caplog.at_level(logging.WARNING):
        found = withstood(model, images, labels, norm="Linf", eps=1e-9, seed=1)
    assert found.all()
    assert "8 images at a time" in caplog.text
