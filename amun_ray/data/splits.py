"""Which rows are forgotten, used by the search, and seen by each reference model: index arrays, decided by seeds
alone."""

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from amun_ray.base.errors import UserError
from amun_ray.data.dataset import permutation


class ForgetSets(NamedTuple):
    """Forget sets of one sweep; every held-out set is disjoint from every final set."""

    held_out: tuple[np.ndarray, ...]  # each (count,) int64, sorted: the hyper-parameters are searched on these
    final: tuple[np.ndarray, ...]     # each (count,) int64, sorted: the results count on these
    groups: tuple[str, ...] = ()      # the groups that make up each held-out set, if it is not random


class Groups(NamedTuple):
    """What images belong to. If a request names whole groups, its held-out sets are other groups."""

    kind: str            # what they are called, as in `class cat (3)`
    names: Sequence[str]
    of: np.ndarray       # (train_size,) int64: the group of each row of D, -1 for none


def forgotten_classes(labels: np.ndarray, forget: np.ndarray, train_size: int) -> np.ndarray:
    """(k,) int64, rising: the classes, if `forget` is all training rows of whole classes; otherwise empty.

    Every one of them must have test images, and so must the other classes: they measure how well it is forgotten.

    Args:
        labels: (N,) of D, the first `train_size` rows, and of D_T.
        forget: distinct training rows.
    """
    classes = np.unique(labels[forget])
    whole = np.count_nonzero(np.isin(labels[:train_size], classes)) == len(forget)
    unseen = labels[train_size:]
    measured = np.isin(classes, unseen).all() and not np.isin(unseen, classes).all()
    return classes if whole and measured else classes[:0]


def check_rows(rows: Collection[int] | np.ndarray, train_size: int) -> np.ndarray:
    """(count,) int64: `rows` in their order.

    Raises:
        UserError: no row, or one that is no integer, is outside [0, train_size), or appears twice.
    """
    numbers = np.asarray(rows if isinstance(rows, np.ndarray) else list(rows))
    if numbers.ndim != 1 or not numbers.size or not np.issubdtype(numbers.dtype, np.integer):
        raise UserError(f"rows to forget must be one or more integers, found {numbers.dtype} of shape {numbers.shape}")
    outside = numbers[(numbers < 0) | (numbers >= train_size)]
    if outside.size:
        raise UserError(f"row {outside[0]} to forget is outside the training rows 0..{train_size - 1}")
    values, counts = np.unique(numbers, return_counts=True)
    if len(values) < len(numbers):
        raise UserError(f"row {values[counts > 1][0]} to forget appears more than once")
    return numbers.astype(np.int64)


def forget_count(train_size: int, fraction: float) -> int:
    """How many rows `fraction` of the training set is, rounded down, so that two halves always fit.

    Raises:
        UserError: fraction outside (0, 1), or so small that no row is left.
    """
    if not 0 < fraction < 1:
        raise UserError(f"`0 < forget fraction < 1` must hold, but got {fraction}")
    count = math.floor(fraction * train_size + 1e-9)  # 0.29 * 100 is a little below 29 in floating point
    if count < 1:
        raise UserError(f"forget fraction {fraction} of {train_size} training samples is less than one sample")
    return count


def random_forget(
    train_size: int, count: int, seed: int, *purpose: str | int, exclude: np.ndarray | None = None
) -> np.ndarray:
    """(count,) int64 sorted: random training rows, none of them in `exclude`.

    Args:
        train_size: rows are drawn from [0, train_size).
        count: how many; at least 1.
        seed, purpose: name the random stream.
        exclude: int64 rows that must not be drawn.

    Raises:
        UserError: fewer than `count` rows are left.
    """
    allowed = np.arange(train_size, dtype=np.int64)
    if exclude is not None:
        allowed = np.setdiff1d(allowed, exclude, assume_unique=True)
    if not 1 <= count <= len(allowed):
        raise UserError(f"cannot draw {count} forget samples: {len(allowed)} of {train_size} training samples "
                        "are available")
    return np.sort(allowed[permutation(len(allowed), seed, *purpose)[:count]])


def random_forget_sets(train_size: int, fraction: float, *, sets: int, held_out: int, seed: int) -> ForgetSets:
    """Random forget sets of `fraction` of the training set each (the paper's protocol).

    A seeded permutation halves the training set: held-out sets are random subsets of one half, final sets of the
    other. So the two kinds never overlap, however many there are, and set k stays the same when more are asked for.
    Sets of one kind may overlap, as random sets do; at a fraction of 0.5 all sets of a kind are that half, because
    nothing else is disjoint from the other kind.

    Args:
        train_size: rows are drawn from [0, train_size).
        fraction: in (0, 0.5].
        sets: number of final sets, at least 1.
        held_out: number of held-out sets, at least 1.
        seed: decides all sets.

    Raises:
        UserError: a number out of range, or a fraction that leaves no room for disjoint held-out sets.
    """
    count = forget_count(train_size, fraction)
    if sets < 1 or held_out < 1:
        raise UserError(f"at least one final and one held-out forget set are needed, but got {sets=}, {held_out=}")
    if 2 * count > train_size:
        raise UserError(f"forget fraction {fraction} leaves no room for held-out sets that are disjoint from the final "
                        f"ones: 2 x {count} > {train_size} training samples; use at most 0.5")
    order = permutation(train_size, seed, "forget halves")
    half = train_size // 2
    pools = {"held-out": order[:half], "final": order[half:]}

    def draw(kind: str, number: int) -> np.ndarray:
        pool = pools[kind]
        return np.sort(pool[permutation(len(pool), seed, "forget", kind, number)[:count]])

    return ForgetSets(tuple(draw("held-out", number) for number in range(held_out)),
                      tuple(draw("final", number) for number in range(sets)))


def dealt_forget_sets(order: np.ndarray, fraction: float, *, sets: int, held_out: int) -> ForgetSets:
    """Forget sets of `fraction` of the training set each, from the top of an order: its first rows are dealt to the
    sets in turn. So they share no row, and the held-out ones come from as far up as the final ones.

    Args:
        order: (train_size,) int64, every training row.
        fraction: in (0, 1).
        sets: number of final sets, at least 1.
        held_out: number of held-out sets, at least 1.

    Raises:
        UserError: as in `forget_count`, or sets that are the whole training set together, from which nothing is chosen.
    """
    count, hands = forget_count(len(order), fraction), sets + held_out
    if hands * count >= len(order):
        raise UserError(f"forget.choose: {sets} final and {held_out} held-out sets of {count} share no image, and "
                        f"{hands} x {count} < {len(order)} training samples must hold; lower forget.fraction, "
                        "forget.sets or held_out.sets")
    dealt = [np.sort(order[hand:hands * count:hands]) for hand in range(hands)]
    return ForgetSets(tuple(dealt[sets:]), tuple(dealt[:sets]))


def fold_forget_sets(train_size: int, folds: int, *, held_out: int, seed: int) -> ForgetSets:
    """The training set cut into `folds` random sets that share no row: the first `held_out` for the search, the others
    final. Their sizes differ by one row at most.

    Raises:
        UserError: no fold would be final, or there are fewer rows than folds.
    """
    if not 1 <= held_out < folds:
        raise UserError(f"`1 <= held_out < folds` must hold, but got {held_out=}, {folds=}")
    if folds > train_size:
        raise UserError(f"{folds} folds need as many training samples, but there are {train_size}; ask for fewer "
                        "(forget.folds)")
    sets = [np.sort(rows) for rows in np.array_split(permutation(train_size, seed, "forget folds"), folds)]
    return ForgetSets(tuple(sets[:held_out]), tuple(sets[held_out:]))


def requested_forget_sets(train_size: int, rows: np.ndarray, *, held_out: int, seed: int) -> ForgetSets:
    """A real request: the final set is `rows`, the held-out sets are random sets of the same size from the others.

    Args:
        train_size: number of training rows.
        rows: (count,) int64, unique, in [0, train_size); see `amun_ray.data.indices.read_indices`.
        held_out: number of held-out sets, at least 1.
        seed: decides the held-out sets.

    Raises:
        UserError: more rows than the rest of the training set has.
    """
    if held_out < 1:
        raise UserError(f"at least one held-out forget set is needed, but got {held_out=}")
    if 2 * len(rows) > train_size:
        raise UserError(f"{len(rows)} requested samples leave no room for held-out sets of the same size: "
                        f"2 x {len(rows)} > {train_size} training samples")
    sets = [random_forget(train_size, len(rows), seed, "forget", "held-out", number, exclude=rows)
            for number in range(held_out)]
    return ForgetSets(tuple(sets), (np.sort(rows),))


def like_forget_sets(rows: np.ndarray, groups: Groups, *, held_out: int, seed: int) -> ForgetSets:
    """A request for whole groups: the final set is `rows`, and each held-out set has as many other groups of like size.

    For each group asked for, the largest first, a held-out set gets the group of the nearest size that no set has yet;
    `seed` decides between equally near ones. So set k stays the same when more sets are asked for.

    Args:
        rows: (count,) int64, unique training rows.
        groups: if only a part of a group is asked for, the rest of it is in no held-out set either.
        held_out: number of held-out sets, at least 1.
        seed: decides between groups of equal size.

    Raises:
        UserError: fewer other groups than are needed.
    """
    asked = np.unique(groups.of[rows])
    sizes = np.bincount(groups.of[groups.of >= 0], minlength=len(groups.names))
    order = permutation(len(sizes), seed, "forget", "held-out groups")
    free = order[(sizes[order] > 0) & ~np.isin(order, asked)]
    if len(free) < held_out * len(asked):
        raise UserError(f"held-out sets that look like the request need {held_out} x {len(asked)} other groups "
                        f"({groups.kind}), but there are {len(free)}; ask for fewer sets (held_out.sets), or forget "
                        "fewer at a time")
    sets, names = [], []
    for _ in range(held_out):
        chosen = []
        for size in sorted(sizes[asked], reverse=True):
            place = int(np.abs(sizes[free] - size).argmin())
            chosen.append(int(free[place]))
            free = np.delete(free, place)
        sets.append(np.flatnonzero(np.isin(groups.of, chosen)))
        names.append(f"{groups.kind} {', '.join(groups.names[code] for code in chosen)}")
    return ForgetSets(tuple(sets), (np.sort(rows),), tuple(names))


def reference_halves(count: int, models: int, seed: int) -> np.ndarray:
    """(models, count) bool: which rows each RMIA reference model is trained on (experiments).

    Models 2k and 2k + 1 hold complementary random halves, so every row is in exactly half of the models and every
    model holds half of the rows (one more or less if `count` is odd). Pair k does not depend on `models`: a bank that
    grows keeps its models.

    Args:
        count: rows of D + D_T together, at least 2.
        models: even, at least 2.
        seed: decides the halves.

    Raises:
        UserError: an odd or too small number of models, or fewer than two rows.
    """
    if models < 2 or models % 2:
        raise UserError(f"the number of reference models must be even and at least 2, so that every sample is in "
                        f"exactly half of them, but got {models}")
    if count < 2:
        raise UserError(f"reference models need at least 2 samples, but got {count}")
    halves = np.zeros((models, count), bool)
    for pair in range(models // 2):
        halves[2 * pair, permutation(count, seed, "reference halves", pair)[: count // 2]] = True
        halves[2 * pair + 1] = ~halves[2 * pair]
    return halves
