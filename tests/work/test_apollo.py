"""The walk of Apollo, on models whose boundary is a plane, moved round marked samples alone."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amun_ray.metrics import apollo
from amun_ray.work.apollo import POINTS, REACH, walk

COUNT = 40
PLACES = torch.linspace(0.02, 0.45, COUNT)  # of the samples, all of class 0


class Plane(nn.Module):
    """Class 1 beyond `border` in the first pixel; where the second is lit, beyond `border + shift`."""

    def __init__(self, border: float, shift: float = 0.0) -> None:
        super().__init__()
        self.border, self.shift = border, shift

    def forward(self, images: Tensor) -> Tensor:
        beyond = 40 * (images[:, 0, 0, 0] - self.border - self.shift * images[:, 0, 0, 1].round())
        return torch.stack([-beyond, beyond], dim=1)


def images(lit: bool) -> Tensor:
    samples = torch.zeros(COUNT, 1, 2, 2)
    samples[:, 0, 0, 0], samples[:, 0, 0, 1] = PLACES, float(lit)
    return samples


def walked(model: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Of the forgotten samples, which are lit, and of unseen ones at the same places."""
    never = [Plane(0.46), Plane(0.5), Plane(0.54)]
    forget, unseen = (walk(model, never, images(lit), torch.zeros(COUNT, dtype=torch.long)) for lit in (True, False))
    return forget, unseen


def test_a_walk_ends_at_twice_the_distance_and_is_read_at_each_point():
    """A model that is always right is so at the end, where models with a border at 0.5 say the other label."""
    under, over = walked(Plane(2.0))[1]
    assert over.tolist() == [-np.inf] * COUNT
    assert under == pytest.approx(80 * (REACH - 1) * (0.5 - PLACES.numpy()), rel=0.03)
    under, over = walked(Plane(-1.0))[1]
    assert under.tolist() == [-np.inf] * COUNT
    assert over == pytest.approx(80 * (0.5 - PLACES.numpy()), rel=0.03)  # at the sample itself


def test_the_flip_is_found_to_a_step():
    under, over = walked(Plane(0.5, 0.02))[0]
    step = 80 * REACH * (0.5 - PLACES.numpy()) / POINTS
    assert (over < -under + 1.2 * step).all()  # just beyond it, and just before
    inside = 1 - PLACES.numpy() > 0.52  # the walk gets there
    assert (abs(-over - 80 * 0.02) < 1.2 * step)[inside].all()


@pytest.mark.parametrize(("shift", "under", "over"), [(0.0, 50, 50), (0.2, 100, 0), (-0.2, 0, 100)])
def test_a_boundary_that_moved_is_found_and_one_that_did_not_is_not(shift, under, over):
    found = apollo(*walked(Plane(0.5, shift)))
    assert found["apollo_under_auc"] == pytest.approx(under)
    assert found["apollo_over_auc"] == pytest.approx(over, abs=1e-9)
    caught = {"under": found["apollo_under_tpr_at_1pct_fpr"], "over": found["apollo_over_tpr_at_1pct_fpr"]}
    assert [name for name, rate in caught.items() if rate > 70] == (
        [] if shift == 0 else ["under" if shift > 0 else "over"])
