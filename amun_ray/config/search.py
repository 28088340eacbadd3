"""The section `search` of a config: the space, the sampler, the objective, and early stopping."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from random import Random
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetPydanticSchema,
    PositiveInt,
    PrivateAttr,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from amun_ray.base.space import Axis, Choice, Range, Space, grid, grid_size
from amun_ray.config.fields import MOST, Count, Schedules, Strict, Width, listed

LR = {"sgd": (1e-6, 1e-1), "adamw": (1e-6, 1e-3)}  # AdamW moves every weight by about the learning rate in each step
OBJECTIVES = {"average_gap": "Avg. Gap to retrained models",
              "proxy": "|FT AUC - 50| and test accuracy lost, without retrained models",
              "iam": "IAM's difference to models that never saw D_F, and test accuracy lost, without retrained models",
              "both": "Avg. Gap and |FT AUC - 50| with test accuracy lost (least mean of both)"}
EARLIER = "earlier"  # for known-good points: what earlier sweeps in the same storage chose
SELECTED = {"least": "", "within_one_error": " Of the settings within one standard error of the best, those with the "
                                             "better test accuracy were taken."}


class LogUniform(Strict):
    low: Annotated[float, Field(gt=0)] = 1e-6
    """The smallest learning rate tried."""
    high: Annotated[float, Field(gt=0)] = 1e-1
    """The largest learning rate tried."""

    @model_validator(mode="after")
    def _ordered(self) -> "LogUniform":
        if self.low > self.high:
            raise ValueError(f"low <= high must hold, but got low={self.low:g}, high={self.high:g}")
        return self

    def fitting(self, optimizer: str) -> "LogUniform":
        """The same, with a bound that suits the optimiser where the file names none."""
        low, high = LR[optimizer]
        fitted = {"low": low, "high": high}
        fitted |= {key: getattr(self, key) for key in fitted.keys() & self.model_fields_set}
        if fitted["low"] > fitted["high"]:
            raise ValueError(f"lr.low <= lr.high must hold, which with {optimizer} are {low:g} and {high:g} unless "
                             f"given, but got low={fitted['low']:g}, high={fitted['high']:g}")
        return LogUniform(**fitted)


class MethodLr(LogUniform):
    """A method's own learning rates."""

    forget_only: LogUniform | None = None
    """Others with D_F alone, which bears smaller steps than D_R and D_F together."""

    def of(self, access: str) -> LogUniform:
        """The range with an access."""
        return self.forget_only if access == "forget_only" and self.forget_only is not None else self


class Point(Strict):
    """A known-good point of the space; the sampler chooses the method's own settings that it leaves out."""

    lr: float
    """Its learning rate."""
    schedule: str
    """Its schedule: `never` or `every_N`."""
    settings: dict[str, float] = Field(default_factory=dict)
    """The method's own searched settings."""

    @property
    def values(self) -> dict[str, Any]:
        """Its values, by the names of the space."""
        return {"lr": self.lr, "schedule": self.schedule} | self.settings


Points = Annotated[tuple[Point, ...], BeforeValidator(listed)]


def _or_earlier(_: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
    """The schema of `Points` that lets EARLIER pass. A union would name both alternatives in every error."""
    def passed(value: Any, points: Callable[[Any], Any]) -> Any:
        return value if value == EARLIER else points(value)
    points = handler.generate_schema(Points)
    return core_schema.no_info_wrap_validator_function(
        passed, points, serialization=core_schema.wrap_serializer_function_ser_schema(passed, schema=points),
        json_schema_input_schema=core_schema.union_schema([points, core_schema.literal_schema([EARLIER])]))


PointsOrEarlier = Annotated[tuple[Point, ...] | Literal["earlier"], GetPydanticSchema(_or_earlier)]


class Grid(Strict):
    """How many values of each range a grid has; of choices it has all."""

    lr: Count = 7
    """Number of learning rates in the grid."""
    own: Count = 3
    """Number of values of each searched method setting in the grid."""


class Search(Strict):
    """The space, how much of it is tried, and the objective. One trial of `epochs` epochs scores every count up to
    that: the mean over all held-out forget sets of all the originals in `held_out`."""

    objective: Literal["average_gap", "proxy", "both", "iam"] = "average_gap"
    """What to minimise: the distance to retrained models, the `proxy` or `iam` that need none, or the first `both`."""
    trials: Count = 20
    """Number of trials for each method and access."""
    epochs: Annotated[int, Field(gt=0, le=1000)] = 10
    """Epochs of a trial, which scores every epoch count up to this."""
    lr: LogUniform = LogUniform()
    """The range of the learning rate, on a logarithmic scale."""
    schedules: Schedules = ("never", "every_1", "every_5")
    """When the learning rate falls by 0.1: `never`, or `every_N` epochs."""
    points: PointsOrEarlier = ()
    """Known-good settings for every method, tried first, as trials; `earlier`: what sweeps in the storage chose."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """How trials are chosen."""
    grid: Grid = Grid()
    """The size of the grid, for `sampler: grid`; a grid larger than `trials` is sampled."""
    startup: PositiveInt = 8
    """Random trials before TPE takes over."""
    together: Width = 4
    """Trials of a method chosen together, before new results are used; `auto`: what fills the first start's cluster."""
    concurrent: PositiveInt | None = None
    """Concurrent trials; as many as fit in the cluster if not given."""
    score_samples: PositiveInt | None = None
    """Score trials on D_F and at most so many random samples of D_R, and of D_T; on all samples if not given."""
    select: Literal["least", "within_one_error"] = "least"
    """Which trial goes to the finals: the `least` objective or, within its standard error, the best test accuracy."""
    stop_early: bool = True
    """End a trial that cannot come up with the best, or is past its own best epoch; not with `both`."""
    _earlier: dict[tuple[str, str], tuple[Point, ...]] = PrivateAttr(default_factory=dict)

    def fitting(self, optimizer: str) -> "Search":
        """The same search, with learning rates that suit the optimiser if the file gives none."""
        return self.model_copy(update={"lr": self.lr.fitting(optimizer)})

    @property
    def width(self) -> int:
        """`together`, once it is a number."""
        assert self.together != "auto", "work.width settles it where a cluster is known"
        return self.together

    @property
    def terms(self) -> tuple[str, ...]:
        """The scores to minimise: one, or two for a multi-objective study."""
        return {"both": ("average_gap", "proxy"), "iam": ("iam_gap",)}.get(self.objective, (self.objective,))

    @property
    def needs_retrained(self) -> bool:
        """Whether the search needs models retrained without its held-out forget sets."""
        return "average_gap" in self.terms

    def space(self, own: dict[str, Axis], lr: LogUniform | None = None) -> Space:
        """The space of a method whose own searched settings are `own`; `lr`: its own range of learning rates."""
        lr = lr or self.lr
        return {"lr": Range(lr.low, lr.high, log=True), "schedule": Choice(self.schedules), **own}

    @property
    def known(self) -> tuple[Point, ...]:
        """`points`, for every method; none where they are those of earlier sweeps."""
        return () if isinstance(self.points, str) else self.points

    def earlier(self, method: str, access: str) -> tuple[Point, ...]:
        """What earlier sweeps chose for a method and access; none before `with_earlier`."""
        return self._earlier.get((method, access), ())

    def with_earlier(self, points: Mapping[tuple[str, str], tuple[Point, ...]]) -> "Search":
        """The same search, with what earlier sweeps chose, by method and access."""
        copy = self.model_copy()
        copy._earlier = dict(points)
        return copy

    def given(self, space: Space, points: Sequence[Point], *, seed: int) -> list[dict[str, Any]]:
        """The points to try without asking a sampler: the known-good points and, for a grid, its points shuffled by
        `seed`, together at most `trials`."""
        known = [{key: value for key, value in point.values.items() if key in space}
                 for point in (*self.known, *points)]
        if self.sampler != "grid":
            return known
        places = grid(space, lr=self.grid.lr, own=self.grid.own)
        Random(seed).shuffle(places)
        first = {frozenset(place.items()) for place in known}
        return (known + [place for place in places if frozenset(place.items()) not in first])[:self.trials]

    def point_problems(self, name: str, space: Space, points: Sequence[Point],
                       searched: Collection[str]) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """(key, problem) for every known-good point that is outside the space of the method `name` or given twice, and
        for a grid that is too large; `points` are the method's own. Settings `searched` for the method but not in
        `space` have an effect only with another access, and are left out with this one."""
        placed: list[tuple[tuple[str | int, ...], Point]]
        placed = [(("search", "points", number), point) for number, point in enumerate(self.known)]
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
