"""Memorisation from a bank of four models, by hand."""

import numpy as np
import pytest

from amun_ray.base.errors import UserError
from amun_ray.metrics import memorisation, thirds

MEMBERS = np.array([[True, False], [True, True], [False, True], [False, False]])  # (models, samples)
RIGHT, WRONG = [4.0, 0.0], [0.0, 4.0]
P = 1 / (1 + np.exp(-4))  # probability of the class with logit 4


def test_memorisation_by_hand():
    """Sample 0: right in both models that saw it and in one that did not. Sample 1: right once on either side."""
    references = [np.array(rows) for rows in ([RIGHT, RIGHT], [RIGHT, WRONG], [RIGHT, RIGHT], [WRONG, WRONG])]
    found = memorisation(references, np.zeros(2, int), members=MEMBERS)
    np.testing.assert_allclose(found, [[0.5, P - 0.5], [0.0, 0.0]], atol=1e-12)
    with pytest.raises(UserError, match="sample 0 is in 1 of 3 models"):
        memorisation(references[:3], np.zeros(2, int), members=MEMBERS[[0, 2, 3]])


def test_thirds_go_from_the_least_to_the_most_memorised():
    memorised = np.array([[0.5, 0.1], [0.0, 0.3], [0.0, 0.2], [1.0, 0.0], [0.0, 0.3], [-1.0, 0.9], [9.0, 9.0]])
    found = thirds(memorised, np.array([5, 4, 3, 2, 1, 0]))
    assert {name: rows.tolist() for name, rows in found.items()} == {"low": [5, 2], "medium": [1, 4], "high": [0, 3]}
