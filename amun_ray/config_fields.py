"""The kinds of value that a config knows beyond plain numbers and texts, each with the rule it breaks in words."""

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field


def text(pattern: str, rule: str) -> AfterValidator:
    """A check that a text has the form `pattern`; `rule` says so in words."""
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{rule}, but got {value!r}")
        return value
    return AfterValidator(check)


def not_empty(value: Collection) -> Collection:
    if not value:
        raise ValueError("at least one is needed, but it is empty")
    return value


def distinct(value: tuple) -> tuple:
    if len(set(value)) < len(value):
        raise ValueError(f"each may stand there once, but got {', '.join(map(str, value))}")
    return value


def listed(value: Any) -> Any:
    """A list as the tuple that it stands for: strict checks of Python objects do not see that for themselves."""
    return tuple(value) if isinstance(value, list) else value


Access = Literal["retain", "forget_only"]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Schedule = Annotated[str, text(r"never|every_[1-9]\d*", "must be never or every_N (times 0.1 every N epochs)")]
Name = Annotated[str, text(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "must be of letters, digits, _, . and -")]
Natural = Annotated[int, Field(ge=0)]
Accesses = Annotated[tuple[Access, ...], BeforeValidator(listed), AfterValidator(not_empty), AfterValidator(distinct)]
Schedules = Annotated[tuple[Schedule, ...], AfterValidator(not_empty), AfterValidator(distinct)]
Searched = Annotated[tuple[str, ...], BeforeValidator(listed), AfterValidator(distinct)]
