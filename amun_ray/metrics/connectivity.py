"""Linear mode connectivity: what a straight path between the weights of two models leads over."""

import numpy as np

from amun_ray.base.errors import UserError


def barrier(values: np.ndarray) -> float:
    """The most by which a value, along the path, is above the straight line between those of its ends; at least 0.

    Two models without a barrier of the loss lie in one basin (Frankle et al., ICML 2020). For an accuracy give its
    negative.

    Args:
        values: (P,) at evenly spaced points of the path, its ends included.

    Raises:
        UserError: fewer than two points, or a value that is not finite.
    """
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise UserError(f"barrier: two or more finite values along a path are expected, found shape {values.shape}")
    return float((values - np.linspace(values[0], values[-1], len(values))).max())
