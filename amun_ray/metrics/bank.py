"""The predictions of the reference models, read one model at a time, and the check that they cover every sample."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from amun_ray.base.errors import UserError

MODELS_PER_SIDE = 2  # references that a sample must be in, and out of; a single one would be mostly noise
BOTH_SIDES = ("in", "out")

Signal = Callable[[np.ndarray, np.ndarray], np.ndarray]  # logits (N, classes), labels (N,) -> (N,)


def signals(
    references: Iterable[np.ndarray], labels: np.ndarray, signal: Signal, models: int | None = None
) -> Iterator[np.ndarray]:
    """`signal(logits, labels)` (N,) of one reference model after another; memory does not grow with their number.

    Args:
        references: logits (N, classes) of each model, any float type, such as a memory-mapped (models, N, classes).
        labels: (N,) true classes.
        signal: such as `taylor_softmax`.
        models: the expected number of references, if known.

    Raises:
        UserError: a reference with another length or class count, or with logits that are not finite (the message gives
            its number); a number of references other than `models`; fewer than 4 (2 in and 2 out for each sample).
    """
    count, classes = 0, None
    for count, logits in enumerate(references, start=1):
        if models is not None and count > models:
            break
        shape = np.shape(logits)
        classes = classes or shape[1:]
        if shape[1:] != classes:
            raise UserError(f"reference model {count - 1}: class count {shape[1:]}, reference model 0 has {classes}")
        try:
            values = signal(logits, labels)
        except UserError as error:
            raise UserError(f"reference model {count - 1}: {error}") from error
        yield values
    if models is not None and count != models:
        raise UserError(f"reference bank: predictions of {count}{' or more' * (count > models)} models, "
                        f"membership of {models}; they must agree")
    if models is None and count < 2 * MODELS_PER_SIDE:
        raise UserError(f"reference bank: {count} models, at least {2 * MODELS_PER_SIDE} are needed "
                        f"({MODELS_PER_SIDE} in and {MODELS_PER_SIDE} out for each sample)")


def check_members(members: np.ndarray, count: int, sides: tuple[str, ...] = BOTH_SIDES) -> None:
    """Raise UserError unless `members` (models, count) bool has at least 2 models on each of `sides` per sample."""
    if members.ndim != 2 or members.dtype != bool or members.shape[1] != count:
        raise UserError(f"reference bank: membership must be bool of shape (models, {count}), "
                        f"got {members.dtype} {members.shape}")
    inside = members.sum(axis=0)
    for side, models in (("in", inside), ("out", len(members) - inside)):
        if side in sides and models.min() < MODELS_PER_SIDE:
            raise UserError(f"reference bank: sample {models.argmin()} is {side} {models.min()} of {len(members)} "
                            f"models, at least {MODELS_PER_SIDE} are needed; train more reference models")
