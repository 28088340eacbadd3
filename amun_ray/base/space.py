"""Which values a setting may have, and the search space: a range or a few values for each setting."""

import math
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple, Protocol


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """The values that a setting may have: a few choices, or finite numbers within bounds."""

    choices: tuple[Any, ...] | None = None  # the only values, if given
    whole: bool = False  # whole numbers only
    above: float = -math.inf  # a number must be greater than this ...
    at_least: float = -math.inf  # ... and not less than this ...
    below: float = math.inf  # ... less than this ...
    at_most: float = math.inf  # ... and not greater than this

    def problem(self, value: Any) -> str | None:
        """Why `value` is not allowed, or None if it is."""
        if self.choices is not None:
            known = value in self.choices and not isinstance(value, bool)  # True is 1 to Python, never to a user
            return None if known else f"must be one of {', '.join(map(str, self.choices))}, but got {value!r}"
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"must be a finite number, but got {value!r}"
        if self.whole and not isinstance(value, int):
            return f"must be a whole number, but got {value!r}"
        bounds = ((f"> {self.above:g}", value > self.above), (f">= {self.at_least:g}", value >= self.at_least),
                  (f"< {self.below:g}", value < self.below), (f"<= {self.at_most:g}", value <= self.at_most))
        return next((f"must be {rule}, but got {value!r}" for rule, holds in bounds if not holds), None)


class Suggesting(Protocol):
    """The part of an `optuna.Trial` that a space uses."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float: ...

    def suggest_categorical(self, name: str, choices: tuple[Any, ...]) -> Any: ...


EDGE = 0.05  # of a range, on its scale: what is nearer to an end may have its best value beyond it


class Range(NamedTuple):
    """Numbers from `low` to `high`, both ends included; `log`: on a logarithmic scale."""

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: Suggesting, name: str) -> float:
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def problem(self, value: Any) -> str | None:
        """Why `value` is outside, or None where it is inside."""
        if isinstance(value, int | float) and self.low <= value <= self.high:
            return None
        return f"must be from {self.low:g} to {self.high:g}, but got {value!r}"

    @property
    def _ends(self) -> tuple[float, float]:
        """Both ends on the scale."""
        return (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)

    def at_end(self, value: float) -> bool:
        """Whether `value` lies within EDGE of the range from one of its ends; never in a range of one value."""
        low, high = self._ends
        place = math.log(value) if self.log else value
        return low < high and min(place - low, high - place) <= EDGE * (high - low)

    def grid(self, points: int) -> tuple[float, ...]:
        """`points` values evenly spaced on the scale, both ends included; the middle if `points` is 1."""
        if self.low == self.high:
            return (self.low,)
        low, high = self._ends
        places = [k / (points - 1) for k in range(1, points - 1)] if points > 1 else [0.5]
        inside = [low + place * (high - low) for place in places]
        inside = [math.exp(value) for value in inside] if self.log else inside
        return (self.low, *inside, self.high) if points > 1 else tuple(inside)


class Choice(NamedTuple):
    """A few values, in no order."""

    values: tuple[Any, ...]

    def suggest(self, trial: Suggesting, name: str) -> Any:
        return trial.suggest_categorical(name, self.values)

    def problem(self, value: Any) -> str | None:
        """Why `value` is outside, or None where it is inside."""
        return None if value in self.values else f"must be one of {', '.join(map(str, self.values))}, but got {value!r}"

    def grid(self, points: int) -> tuple[Any, ...]:
        """All values, whatever `points` is."""
        return self.values


Axis = Range | Choice
Space = dict[str, Axis]  # by name: `lr`, `schedule`, then the method's own settings


def grid_size(space: Space, *, lr: int, own: int) -> int:
    """How many combinations `grid` has, without building them."""
    return math.prod(len(axis.grid(lr if name == "lr" else own)) for name, axis in space.items())


def grid(space: Space, *, lr: int, own: int) -> list[dict[str, Any]]:
    """Every combination of `lr` learning rates, all schedules, and `own` values of each method setting."""
    values = [axis.grid(lr if name == "lr" else own) for name, axis in space.items()]
    return [dict(zip(space, chosen, strict=True)) for chosen in product(*values)]
