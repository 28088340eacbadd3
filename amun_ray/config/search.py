"""What a config can say about the search: the space, how it is tried, by what it is judged, and when it gives up."""

from collections.abc import Collection, Iterator, Sequence
from random import Random
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from amun_ray.base.space import Axis, Choice, Range, Space, grid, grid_size
from amun_ray.config.fields import MOST, Count, Schedules, Strict, listed

LR = {"sgd": (1e-6, 1e-1), "adamw": (1e-6, 1e-3)}  # AdamW moves every weight by about the learning rate in each step


class LogUniform(Strict):
    low: Annotated[float, Field(gt=0)] = 1e-6
    """The least learning rate tried."""
    high: Annotated[float, Field(gt=0)] = 1e-1
    """The greatest learning rate tried."""

    @model_validator(mode="after")
    def _ordered(self) -> "LogUniform":
        if self.low > self.high:
            raise ValueError(f"low <= high must hold, but got low={self.low:g}, high={self.high:g}")
        return self

    def fitting(self, optimizer: str) -> "LogUniform":
        """The same, with a bound that suits the optimiser where the file names none."""
        low, high = LR[optimizer]
        fitted = {"low": low, "high": high} | {key: getattr(self, key) for key in self.model_fields_set}
        if fitted["low"] > fitted["high"]:
            raise ValueError(f"lr.low <= lr.high must hold, which with {optimizer} are {low:g} and {high:g} unless "
                             f"given, but got low={fitted['low']:g}, high={fitted['high']:g}")
        return LogUniform(**fitted)


class Point(Strict):
    """A place of the space that is known to be good; own settings that it leaves out are for the sampler to choose."""

    lr: float
    """Its learning rate."""
    schedule: str
    """Its schedule: `never` or `every_N`."""
    settings: dict[str, float] = Field(default_factory=dict)
    """The method's own searched settings there."""

    @property
    def values(self) -> dict[str, Any]:
        """What it chooses, by the names of the space."""
        return {"lr": self.lr, "schedule": self.schedule} | self.settings


Points = Annotated[tuple[Point, ...], BeforeValidator(listed)]


class Grid(Strict):
    """How many values of a range a grid has; of choices it has all."""

    lr: Count = 7
    """How many learning rates the grid has."""
    own: Count = 3
    """How many values of each searched setting of a method's own the grid has."""


class Search(Strict):
    """The space, how much of it is tried, and what counts. One trial of `epochs` epochs scores every epoch count up to
    that, each on all held-out forget sets of all the originals that `held_out` names; their mean counts."""

    objective: Literal["average_gap", "proxy", "both"] = "average_gap"
    """What is minimised: the distance to retrained models, the `proxy` that needs none, or `both`."""
    trials: Count = 20
    """How many trials a method gets with each access."""
    epochs: Annotated[int, Field(gt=0, le=1000)] = 10
    """Epochs of a trial, which scores every epoch count up to this."""
    lr: LogUniform = LogUniform()
    """The range of the learning rate, on a logarithmic scale."""
    schedules: Schedules = ("never", "every_1", "every_5")
    """When the learning rate falls by 0.1: `never`, or `every_N` epochs."""
    points: Points = ()
    """Settings that are known to be good for every method: tried first, and counted as trials."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """How trials are chosen."""
    grid: Grid = Grid()
    """The size of the grid, for `sampler: grid`; a larger one than `trials` is sampled."""
    startup: PositiveInt = 8
    """Random trials before TPE takes over, and finished trials before one may be stopped early."""
    together: PositiveInt = 4
    """Trials of a method that are chosen before the next results are looked at."""
    concurrent: PositiveInt | None = None
    """Trials at the same time; as many as the cluster holds if not given."""
    select: Literal["least", "within_one_error"] = "least"
    """Which trial goes to the finals: the `least` objective or, within its standard error, the best test accuracy."""
    stop_early: bool = False
    """Stop a trial that is farther behind than any other has made up from there."""

    def fitting(self, optimizer: str) -> "Search":
        """The same, with learning rates that suit the optimiser where the file names none."""
        return self.model_copy(update={"lr": self.lr.fitting(optimizer)})

    @property
    def terms(self) -> tuple[str, ...]:
        """The scores that are minimised: one, or the two of a multi-objective study."""
        return ("average_gap", "proxy") if self.objective == "both" else (self.objective,)

    @property
    def needs_retrained(self) -> bool:
        """Whether the search asks for models retrained without its held-out forget sets."""
        return "average_gap" in self.terms

    def space(self, own: dict[str, Axis], lr: LogUniform | None = None) -> Space:
        """The space of a method whose own searched settings are `own`; `lr`: its own range of learning rates."""
        lr = lr or self.lr
        return {"lr": Range(lr.low, lr.high, log=True), "schedule": Choice(self.schedules), **own}

    def given(self, space: Space, points: Sequence[Point], *, seed: int) -> list[dict[str, Any]]:
        """What is tried without asking a sampler: the known-good points and, where wanted, a grid shuffled by `seed`,
        together `trials` of them at most."""
        known = [{key: value for key, value in point.values.items() if key in space}
                 for point in (*self.points, *points)]
        if self.sampler != "grid":
            return known
        places = grid(space, lr=self.grid.lr, own=self.grid.own)
        Random(seed).shuffle(places)
        first = {frozenset(place.items()) for place in known}
        return (known + [place for place in places if frozenset(place.items()) not in first])[:self.trials]

    def point_problems(self, name: str, space: Space, points: Sequence[Point],
                       searched: Collection[str]) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """(key, what is wrong there) of every known-good point that is outside the space of the method `name`, or
        stands there twice, and of a grid that is too large; `points` are the method's own. Of the settings that are
        `searched` for it, those that are not in `space` count with another access, and are left out with this one."""
        placed: list[tuple[tuple[str | int, ...], Point]]
        placed = [(("search", "points", number), point) for number, point in enumerate(self.points)]
        placed += [(("methods", name, "points", number), point) for number, point in enumerate(points)]
        seen: set[frozenset[tuple[str, Any]]] = set()
        for place, point in placed:
            for key, value in point.values.items():
                below = ("settings", key) if key in point.settings else (key,)
                if key not in space and key in searched:
                    continue
                if key not in space:
                    yield (*place, *below), (f"is not searched for {name}, whose space is {', '.join(space)}; "
                                             f"name it in methods.{name}.search")
                elif (reason := space[key].problem(value)) is not None:
                    yield (*place, *below), f"outside the search space: {reason}"
            if (values := frozenset(point.values.items())) in seen:
                yield place, "stands there twice"
            seen.add(values)
        size = grid_size(space, lr=self.grid.lr, own=self.grid.own) if self.sampler == "grid" else 0
        if size > MOST:
            yield ("search", "grid"), f"must have at most {MOST:,} places, but for {name} it has {size:,}"
        if len(placed) > self.trials:
            yield ("search", "trials"), (f"must be at least {len(placed)}, the number of known-good points of a "
                                         f"method, but got {self.trials}")
