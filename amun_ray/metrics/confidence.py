"""How sure a model is of the true class, measured in the three ways that membership inference uses.

All functions take logits (N, classes) of any float type and labels (N,), and return (N,) float64. A row's value never
depends on the other rows. They work in blocks of rows, so memory stays at a few MiB whatever N is.
"""

from collections.abc import Callable
from math import factorial

import numpy as np

from amun_ray.base.errors import UserError
from amun_ray.metrics.accuracy import check_logits

LEAST = 1e-12  # of a Taylor polynomial of odd order: RMIA divides by shares of these
BLOCK_VALUES = 65_536  # logits per block: 512 KiB of float64, which fits in a core's cache


def taylor_softmax(
    logits: np.ndarray,
    labels: np.ndarray,
    *,
    order: int = 4,
    margin: float = 0.6,
    temperature: float = 2.0,
) -> np.ndarray:
    """Soft-margin Taylor softmax of the true class, in (0, 1).

    With z = logits / temperature and T(u) = sum_{k <= order} u^k / k!,

        p = T(z_y - margin) / (T(z_y - margin) + sum_{j != y} T(z_j))

    (Banerjee et al. 2020; used for RMIA by Zarifzadeh et al., ICML 2024, appendix on confidence). Polynomial tails keep
    well-fitted samples apart where softmax gives 1 for all of them. T of even order is positive on the whole line. The
    published RMIA code sums to k = order - 1, so that its "4" is order 3 here: T of odd order has a zero, and what is
    less than LEAST counts as LEAST (there a share may be negative). Unlike softmax, the value changes when a constant
    is added to all logits.

    Raises:
        UserError: order or temperature <= 0, shapes that do not fit, logits that are not finite.
    """
    check_taylor(order, temperature)
    coefficients = [1 / factorial(k) for k in range(order, -1, -1)]

    def share(block: np.ndarray, true: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        block /= temperature
        block[true] -= margin
        powers = np.full_like(block, coefficients[0])
        for coefficient in coefficients[1:]:  # Horner's rule
            powers *= block
            powers += coefficient
        if order % 2:
            np.maximum(powers, LEAST, out=powers)
        return powers[true] / powers.sum(axis=1)

    return _by_block(share, logits, labels)


def softmax(logits: np.ndarray, labels: np.ndarray, *, temperature: float = 1.0) -> np.ndarray:
    """Softmax probability of the true class at `temperature`, in [0, 1].

    Raises:
        UserError: temperature <= 0, shapes that do not fit, logits that are not finite.
    """
    if not temperature > 0:
        raise UserError(f"temperature must be positive, got {temperature}")

    def share(block: np.ndarray, true: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        block -= block.max(axis=1, keepdims=True)
        block /= temperature
        np.exp(block, out=block)
        return block[true] / block.sum(axis=1)

    return _by_block(share, logits, labels)


def logit_scaled(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)) of the true class's softmax probability p (Carlini et al. 2022, section IV-C), any real number.

    Computed as z_y - log sum_{j != y} exp(z_j), which does not overflow or lose digits where p rounds to 1.

    Raises:
        UserError: one class only, shapes that do not fit, logits that are not finite.
    """
    if np.ndim(logits) == 2 and np.shape(logits)[1] < 2:
        raise UserError("logits: log(p / (1 - p)) needs at least 2 classes")

    def odds(block: np.ndarray, true: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        own = block[true]
        block[true] = -np.inf
        largest = block.max(axis=1)
        block -= largest[:, None]
        np.exp(block, out=block)
        return own - largest - np.log(block.sum(axis=1))

    return _by_block(odds, logits, labels)


def check_taylor(order: int, temperature: float) -> None:
    """Raise UserError unless order and temperature are positive."""
    if order < 1:
        raise UserError(f"order must be at least 1, got {order}")
    if not temperature > 0:
        raise UserError(f"temperature must be positive, got {temperature}")


Rowwise = Callable[[np.ndarray, tuple[np.ndarray, np.ndarray]], np.ndarray]


def _by_block(function: Rowwise, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`function(block, true)` over blocks of rows; it may overwrite `block`; `true` indexes the true-class entries."""
    logits, labels = check_logits(logits, labels)
    values, broken = np.empty(len(logits)), 0
    rows = max(1, BLOCK_VALUES // logits.shape[1])
    with np.errstate(invalid="ignore", over="ignore"):  # counted below, over all blocks
        for start in range(0, len(logits), rows):
            block = logits[start : start + rows].astype(np.float64)
            broken += int(np.count_nonzero(~np.isfinite(block).all(axis=1)))
            true = (np.arange(len(block)), labels[start : start + rows])
            values[start : start + rows] = function(block, true)
    if broken:
        raise UserError(f"logits: {broken} of {len(values)} rows are not finite")
    return values
