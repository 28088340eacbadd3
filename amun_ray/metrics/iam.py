"""IAM: how far a sample is unlearned, between the original model and models that never saw it (Wang et al. 2025)."""

import numpy as np

from amun_ray.base.errors import UserError

STEPS = 100  # models interpolated between those that never saw the sample and the original


def unlearning_score(original: np.ndarray, unlearned: np.ndarray, never: np.ndarray,
                     std: np.ndarray | float = 0.0) -> np.ndarray:
    """IAM's score (n,) in [0, 1]: high where the model is like one that never saw the sample.

    For a in (0, 1) the confidence of a model that knows the sample to the degree a is s_a = s_never + a (s_original -
    s_never), with a Gumbel distribution fitted by moments, its variance pooled over models and samples. The score is
    1 - sum(a CDF_a(s_unlearned)) / sum(a). One model that never saw the samples is enough. (Published code weights
    each CDF with the next a; this function follows the equation.)

    Args:
        original, unlearned: (n,) log(p / (1 - p)) of the true class by the two models.
        never: (n,) its mean over models that never saw the sample.
        std: its standard deviation over these, (n,) or one number; 0 for a single model.

    Raises:
        UserError: other shapes, or a value that is not finite.
    """
    original, unlearned, never = (np.asarray(values, dtype=np.float64) for values in (original, unlearned, never))
    if not original.shape == unlearned.shape == never.shape or original.ndim != 1 or not original.size:
        raise UserError(f"IAM: confidences of the original {original.shape}, the unlearned {unlearned.shape} and the "
                        f"never trained models {never.shape} must be (n,) of the same samples")
    if not all(np.isfinite(values).all() for values in (original, unlearned, never, np.asarray(std))):
        raise UserError("IAM: not all confidences are finite")
    degrees = np.arange(1, STEPS) / STEPS
    known, total = np.zeros_like(never), 0.0
    for degree in degrees:
        mean = never + degree * (original - never)
        variance = float(mean.var() + (1 - degree)**2 * np.mean(np.square(std)))
        scale = max(np.sqrt(6 * variance) / np.pi, 1e-12)
        place = np.clip((unlearned - (mean - np.euler_gamma * scale)) / scale, -30.0, None)  # exp(-exp(30)) is 0
        known += degree * np.exp(-np.exp(-place))
        total += degree
    return 1 - known / total


def iam_gap(original: np.ndarray, unlearned: np.ndarray, never: np.ndarray, std: np.ndarray | float = 0.0) -> float:
    """By how many percentage points the mean score differs from that of the mean model that never saw the samples; 0 is
    ideal. Arguments as in `unlearning_score`, which see for the errors raised.

    A search needs both directions: the score alone is highest for a model that was ruined on D_F.
    """
    score, ideal = (unlearning_score(original, model, never, std).mean() for model in (unlearned, never))
    return 100 * float(abs(score - ideal))
