"""The attack on AMUN itself: by hand, and on simulated models that forgot, remember, or were pulled near."""

import numpy as np
import pytest

from amun_ray.base.errors import UserError
from amun_ray.metrics import adversarial_label, apollo, flip_confidences, moved_boundary

NONE = np.empty((0, 4))


def test_distances_by_hand():
    """z of the forgotten is 1, 2, -4, 0, that of the unseen 0, 1, 2, -1; the median of these is 0.5."""
    forget, unseen = np.array([2.0, 4.0, 0.0, 5.0]), np.array([1.0, 2.0, 3.0, 0.0])
    never = np.array([[0.0, 1.0, 3.0, 5.0], [2.0, 3.0, 5.0, 5.0]])
    found = moved_boundary(forget, unseen, never, np.ones((2, 4)))
    assert found["boundary_auc"] == 100 * (2.5 + 3.5 + 0 + 1.5) / 16
    # away from 0.5: 0.5, 1.5, 4.5, 0.5 against 0.5, 0.5, 1.5, 1.5
    assert found["boundary_two_sided_auc"] == 100 * (1 + 3 + 4 + 1) / 16
    assert found["boundary_tpr_at_1pct_fpr"] == 25
    assert moved_boundary(forget, unseen, NONE, NONE)["boundary_auc"] == 100 * (2.5 + 4 + 0.5 + 4) / 16


def test_margins_by_hand():
    margin, never = np.array([3.0, -1.0]), np.array([[0.0, 0.0], [2.0, -4.0]])
    found = adversarial_label(margin, never)
    assert found["adversarial_label_kept"] == 50
    # less the other one: (1, 3) against (-2, 4), then (3, -1) against (2, -4)
    assert found["adversarial_label_auc"] == (100 * 2 / 4 + 100 * 3 / 4) / 2
    assert found["adversarial_label_tpr_at_1pct_fpr"] == (0 + 50) / 2
    assert adversarial_label(margin, margin[None])["adversarial_label_auc"] == 50  # of itself
    assert adversarial_label(np.ones(2), np.ones((1, 2)))["adversarial_label_auc"] == 50  # nothing to tell by


def test_a_rate_is_at_one_percent():
    """Of 200 samples of the other model three lie above all of the audited one: 1.5 %."""
    others = np.repeat([1.0, 0.0], [3, 197])
    assert adversarial_label(np.full(200, 0.5), others[None])["adversarial_label_tpr_at_1pct_fpr"] == 0
    assert moved_boundary(np.full(200, 0.5), others, *(np.empty((0, 200)),) * 2)["boundary_tpr_at_1pct_fpr"] == 0


@pytest.mark.parametrize(("shift", "auc", "two_sided"), [(0.0, 50, 50), (3.0, 98, 95), (-3.0, 2, 95)])
def test_what_never_saw_scores_fifty_and_what_moved_does_not(shift, auc, two_sided):
    """Of normals of variance 1 + 1 / 8: forgotten samples as unseen ones, further away, and pulled near."""
    rng = np.random.default_rng(0)
    easy = rng.normal(5, 10, size=(2, 2000))  # what a sample's distance is anyhow says nothing
    own, others = (easy + rng.normal(size=(count, 2, 2000)) for count in (1, 8))
    found = moved_boundary(own[0, 0] + shift, own[0, 1], others[:, 0], others[:, 1])
    assert found["boundary_auc"] == pytest.approx(auc, abs=2)
    assert found["boundary_two_sided_auc"] == pytest.approx(two_sided, abs=2)
    assert (found["boundary_tpr_at_1pct_fpr"] > 40) == (shift != 0)
    label = adversarial_label(own[0, 0] - shift, others[:, 0])
    assert label["adversarial_label_auc"] == pytest.approx(100 - auc, abs=2)


def test_what_is_no_number_is_refused():
    for broken in (np.array([np.nan, 1.0]), np.empty(0)):
        with pytest.raises(UserError):
            moved_boundary(broken, np.ones(2), np.empty((0, len(broken))), np.empty((0, 2)))


def test_a_walk_is_read_by_hand():
    """Right up to 1 and again at -3; wrong everywhere; right everywhere."""
    right = np.array([[True, False, True], [False, False, True], [True, False, True]])
    sure = np.array([[1.0, 2.0, 5.0], [-2.0, 1.0, 0.0], [-3.0, -4.0, -6.0]])
    under, over = flip_confidences(right, sure)
    assert under.tolist() == [3, -np.inf, 6]
    assert over.tolist() == [-2, 2, -np.inf]


def test_apollo_by_hand():
    forget, unseen = np.array([[3.0, -np.inf, 6.0], [-2, 2, -np.inf]]), np.array([[3.0, 1.0], [-np.inf, 0.0]])
    found = apollo(forget, unseen)
    assert found["apollo_under_auc"] == pytest.approx(100 * (1.5 + 0 + 2) / 6)
    assert found["apollo_over_auc"] == pytest.approx(100 * (1 + 2 + 0.5) / 6)
    assert found["apollo_under_tpr_at_1pct_fpr"] == found["apollo_over_tpr_at_1pct_fpr"] == pytest.approx(100 / 3)
    assert set(apollo(np.ones((2, 3)), np.ones((2, 5))).values()) == {50, 0}
