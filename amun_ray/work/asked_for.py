"""What a sweep forgets: a request in rows of the user's files, or sets that are drawn, or chosen by memorisation."""

import numpy as np

from amun_ray.base.errors import UserError
from amun_ray.config.schema import Sweep
from amun_ray.data import further, path_requests, requests
from amun_ray.data.dataset import Dataset
from amun_ray.data.requests import Request
from amun_ray.data.splits import (
    ForgetSets,
    dealt_forget_sets,
    fold_forget_sets,
    like_forget_sets,
    random_forget_sets,
    requested_forget_sets,
)
from amun_ray.metrics.memorisation import ranked


def request_of(sweep: Sweep, dataset: Dataset) -> Request | None:
    """What the user wants forgotten, in rows of their files; None if random or chosen sets are forgotten.

    Raises:
        UserError: as in the functions of `data.requests` and `data.path_requests`.
    """
    forget, data = sweep.forget, sweep.data
    if forget.indices is not None:
        return requests.of_indices(dataset, forget.indices)
    if forget.classes is not None:
        return requests.of_classes(dataset, forget.classes)
    if forget.pattern is not None:
        return path_requests.of_pattern(dataset, forget.pattern)
    if forget.files is not None:
        return path_requests.of_files(dataset, forget.files)
    if forget.column is None:
        return None
    assert forget.values is not None, "a column has them"
    return requests.of_values(dataset, forget.column, further(data.name, forget.column, **data.settings),
                              forget.values, subset=data.train_size is not None)


def sets_of(sweep: Sweep, dataset: Dataset, request: Request | None, memorised: np.ndarray | None) -> ForgetSets:
    """The held-out and the final forget sets; no row is in both kinds. The held-out ones resemble the request.

    Args:
        memorised: (N, 2) from `metrics.memorisation`, by which `forget.choose` chooses. None: not known yet, and all
            rows of chosen sets are -1.

    Raises:
        UserError: a set too large for disjoint ones like it.
    """
    forget, held_out, seed, size = sweep.forget, sweep.held_out.sets, sweep.seed, dataset.train_size
    if forget.folds is not None:
        return fold_forget_sets(size, forget.folds, held_out=held_out, seed=seed)
    if request is None:
        assert forget.fraction is not None, "the config has one of the two"
        if forget.choose != "random":
            order = np.full(size, -1) if memorised is None else ranked(memorised, dataset.train_rows)
            return dealt_forget_sets(order[::-1] if forget.choose == "hardest" else order, forget.fraction,
                                     sets=forget.sets, held_out=held_out)
        return random_forget_sets(size, forget.fraction, sets=forget.sets, held_out=held_out, seed=seed)
    rows = np.searchsorted(dataset.file_numbers[:size], request.rows)
    if len(rows) == size:
        raise UserError(f"the request is for all {len(rows)} training images; train a new model on others")
    groups = requests.class_groups(dataset, rows) or request.groups
    if groups is not None:
        return like_forget_sets(rows, groups, held_out=held_out, seed=seed)
    return requested_forget_sets(size, rows, held_out=held_out, seed=seed)


def choice(sweep: Sweep, dataset: Dataset, sets: ForgetSets, memorised: np.ndarray | None) -> list[str]:
    """Lines of the plan about sets that are chosen; none about others. Arguments as in `sets_of`."""
    if sweep.forget.choose == "random":
        return []
    line = f"  forget      the {sweep.forget.choose} images to forget: "
    if memorised is None:
        return [f"{line}which these are, the {sweep.references.count} reference models will say; they are trained "
                "first"]
    final, held_out, all_rows = (memorised[rows, 0].mean() for rows in (
        np.concatenate(sets.final), np.concatenate(sets.held_out), dataset.train_rows))
    return [f"{line}mean memorisation {final:.3f} in the final sets, {held_out:.3f} in the held-out ones, "
            f"{all_rows:.3f} of all training images",
            *(f"  by class    {requests.by_class(dataset, rows)}" for rows in sets.final[:1])]
