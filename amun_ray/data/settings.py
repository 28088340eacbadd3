"""The link between a config, whose keys are flat, and functions that take some of them together as one object."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from amun_ray.data.dataset import Dataset, Subset
from amun_ray.data.parquet import Columns
from amun_ray.data.picture import Reading

GROUPS: tuple[type, ...] = (Columns, Reading, Subset)


def flat(function: Callable[..., Dataset]) -> Callable[..., Dataset]:
    """`function`, but taking the fields of each parameter in GROUPS as keywords of its own, also for `inspect`."""
    parameters = inspect.signature(function).parameters.values()
    groups = {each.name: each.annotation for each in parameters if each.annotation in GROUPS}
    fields = {name: list(inspect.signature(group).parameters.values()) for name, group in groups.items()}

    @wraps(function)
    def with_keywords(**settings: Any) -> Dataset:
        objects = {name: group(**{each.name: settings.pop(each.name) for each in fields[name] if each.name in settings})
                   for name, group in groups.items()}
        return function(**objects, **settings)

    keywords = [field.replace(kind=field.KEYWORD_ONLY) for each in parameters
                for field in fields.get(each.name, [each])]
    with_keywords.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    return with_keywords
