"""Unlearned models against retrained ones, sample by sample: N of each make two distributions of the confidence.

All functions take log(p / (1 - p)) of the true class, (models, samples); see `confidence.logit_scaled`.
"""

from math import ceil, log

import numpy as np

from amun_ray.base.errors import UserError

CLIP = 100.0  # KLOM: largest absolute confidence
BINS = 20  # KLOM
FLOOR = 1e-5  # KLOM: share of an empty bin of the retrained models
DELTA, CAP = 1e-5, 50.0  # forgetting quality: delta, and the largest epsilon
SLACK = 2.0  # forgetting quality: how far an interval may be from the width of the narrower distribution
PEAKED = 0.01  # forgetting quality: ratio of the two widths below which they are told apart for certain
BUCKET = 0.5  # forgetting quality: width of a step of epsilon, each worth half as much as the one before
LEAST = 3  # models a side; log(2 - 1) is 0, so two of them cannot show any epsilon


def klom(unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
    """KLOM (samples,): KL divergence in nats of the unlearned models from the retrained ones (Georgiev et al. 2024).

    Both are histograms of 20 equal bins over their joint range; a bin without retrained models counts as 1e-5. Of few
    models two equal distributions differ, too: compare with what retrained models have among themselves. (Published
    code drops the largest value of the joint range; this function counts it, as a histogram does.)

    Raises:
        UserError: as in `forgetting_quality`.
    """
    first, second = (np.clip(side, -CLIP, CLIP) for side in _checked(unlearned, retrained))
    low = np.minimum(first.min(axis=0), second.min(axis=0))
    width = np.maximum(first.max(axis=0), second.max(axis=0)) - low

    def shares(values: np.ndarray) -> np.ndarray:
        places = np.floor(BINS * (values - low) / np.where(width > 0, width, 1.0)).astype(np.int64)
        flat = np.minimum(places, BINS - 1) + BINS * np.arange(values.shape[1])
        return np.bincount(flat.ravel(), minlength=BINS * values.shape[1]).reshape(-1, BINS) / len(values)

    p, q = shares(first), np.maximum(shares(second), FLOOR)
    return (p * np.log(np.where(p > 0, p / q, 1.0))).sum(axis=1)


def epsilons(unlearned: np.ndarray, retrained: np.ndarray) -> np.ndarray:
    """Epsilon (samples,) in [0, 50] of the best attack that tells unlearned from retrained models by one sample.

    The attacks are a threshold, and an interval about as wide as the narrower of both distributions (Triantafillou et
    al. 2024, the NeurIPS 2023 challenge). With false positive and negative rates a and b above 0, epsilon is
    max(log(1 - delta - a) - log b, log(1 - delta - b) - log a, 0); if both are 0, it is 50; if one is, the attack does
    not count. Thresholds are exact (published code tries 100 a unit). Time: O(samples x models^2).

    Raises:
        UserError: as in `forgetting_quality`.
    """
    first, second = _checked(unlearned, retrained)
    return np.array([_epsilon(first[:, k], second[:, k]) for k in range(first.shape[1])])


def forgetting_quality(unlearned: np.ndarray, retrained: np.ndarray) -> float:
    """The challenge's forgetting quality in percent: 100 if no sample of D_F tells unlearned from retrained models.

    A sample is worth 1 for an epsilon below 0.5, 1/2 below 1, and so on up to ceil(log(N - 1)), beyond which N models
    say nothing; there it is worth 0. The result is the mean over the samples.

    Raises:
        UserError: fewer than 3 models on a side, other numbers of samples, values that are not finite.
    """
    epsilon = epsilons(unlearned, retrained)
    steps = np.floor(epsilon / BUCKET)
    counted = int(ceil(log(min(len(unlearned), len(retrained)) - 1)) / BUCKET)
    return 100 * float(np.where(steps < counted, 0.5**steps, 0.0).mean())


def _epsilon(first: np.ndarray, second: np.ndarray) -> float:
    narrow, wide = sorted((first, second), key=np.ptp)
    if np.ptp(narrow) < PEAKED * np.ptp(wide):
        return CAP
    low, high = sorted((first, second), key=np.median)
    cuts = np.unique(np.concatenate([first, second]))
    misses = (high[:, None] < cuts).mean(axis=0)
    alarms = (low[:, None] >= cuts).mean(axis=0)
    return max(_best(alarms, misses), _best(*_interval_rates(narrow, wide, cuts)))


def _interval_rates(narrow: np.ndarray, wide: np.ndarray, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False positives and negatives of "between cuts[i] and cuts[j]: of the narrow one", for every allowed pair."""
    before, after = np.append(-np.inf, cuts[:-1]), np.append(cuts[1:], np.inf)
    tightest, loosest = cuts - cuts[:, None], after - before[:, None]  # (from, to): the ends lie between neighbours
    width = np.ptp(narrow)
    first, last = np.nonzero((tightest >= 0) & (tightest <= width + SLACK) & (loosest > width - SLACK))

    def inside(values: np.ndarray) -> np.ndarray:
        below = np.searchsorted(np.sort(values), cuts, side="left")
        upto = np.searchsorted(np.sort(values), cuts, side="right")
        return (upto[last] - below[first]) / len(values)

    return inside(wide), 1 - inside(narrow)


def _best(alarms: np.ndarray, misses: np.ndarray) -> float:
    """The largest epsilon over attacks with these false positive and false negative rates."""
    if np.any((alarms == 0) & (misses == 0)):
        return CAP
    both = (alarms > 0) & (misses > 0)
    a, b = alarms[both], misses[both]
    with np.errstate(invalid="ignore", divide="ignore"):  # a rate near 1 has no logarithm, and says nothing
        bounds = np.concatenate([np.log(1 - DELTA - a) - np.log(b), np.log(1 - DELTA - b) - np.log(a)])
    return float(np.clip(np.nan_to_num(bounds, nan=0.0, neginf=0.0), 0.0, CAP).max(initial=0.0))


def _checked(unlearned: np.ndarray, retrained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sides = [np.asarray(side, dtype=np.float64) for side in (unlearned, retrained)]
    if any(side.ndim != 2 for side in sides) or sides[0].shape[1] != sides[1].shape[1] or not sides[0].shape[1]:
        raise UserError(f"confidences of unlearned {sides[0].shape} and retrained models {sides[1].shape} must be "
                        "(models, samples) of the same samples")
    for name, side in zip(("unlearned", "retrained"), sides, strict=True):
        if len(side) < LEAST:
            raise UserError(f"{len(side)} {name} models: at least {LEAST} are needed for two distributions")
        if not np.isfinite(side).all():
            raise UserError(f"confidences of {name} models: not all are finite")
    return sides[0], sides[1]
