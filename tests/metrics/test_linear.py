"""The linear probe on features whose best classifier is known."""

import numpy as np
import pytest

from amun_ray.base.errors import UserError
from amun_ray.metrics import linear_probe


@pytest.fixture
def separable():
    """100 points on two lines, far apart; the last 20 are of D_F."""
    labels = np.arange(100) % 2
    return np.stack([np.linspace(0, 1, 100), 10.0 * labels], axis=1), labels, np.arange(100) >= 80


def test_what_a_line_separates_is_all_right(separable):
    assert linear_probe(*separable) == 100


def test_forgotten_images_with_features_of_another_class_are_wrong(separable):
    """Five of them lie where the other class is: too few to move the line."""
    features, labels, forget = separable
    features[80:85, 1] = 10 * (1 - labels[80:85])
    assert linear_probe(features, labels, forget) == 75


def test_a_feature_that_is_constant_and_its_scale_change_nothing(separable):
    features, labels, forget = separable
    features[80:85, 1] = 10 * (1 - labels[80:85])
    wide = np.concatenate([1e6 * features + 3, np.ones((100, 1))], axis=1)
    assert linear_probe(wide, labels, forget) == 75


def test_it_is_the_logistic_regression_of_scikit_learn(separable):
    from sklearn.linear_model import LogisticRegression
    rng = np.random.default_rng(0)
    labels = 3 * (np.arange(300) % 4)  # labels need not be 0, 1, 2
    features = (rng.normal(size=(300, 6)) + np.eye(6)[labels // 3]).astype(np.float32)
    forget = np.arange(300) >= 200
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    classifier = LogisticRegression(max_iter=1000).fit(standard, labels)
    wanted = 100 * np.mean(classifier.predict(standard[forget]) == labels[forget])
    assert 30 < wanted < 90
    assert linear_probe(features, labels, forget) == pytest.approx(wanted, abs=1)  # one image of a hundred


def test_one_class_is_always_right(separable):
    assert linear_probe(separable[0], np.zeros(100), separable[2]) == 100


def test_what_does_not_fit_is_refused(separable):
    features, labels, forget = separable
    for wrong in ((features[:99], labels, forget), (features[:, 0], labels, forget),
                  (np.full((100, 2), np.nan), labels, forget), (features, labels, forget & False)):
        with pytest.raises(UserError, match="linear probe"):
            linear_probe(*wrong)
