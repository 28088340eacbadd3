"""What an unlearning method is: what it sees, what it minimises, what it may move, and which settings it has."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from amun_ray.base.errors import UserError
from amun_ray.base.names import suggestion
from amun_ray.base.space import Allowed, Axis, Choice, Range
from amun_ray.base.tensors import evaluating
from amun_ray.training.augment import Augmentation
from amun_ray.training.cost import Cost
from amun_ray.training.loop import EpochPlan, Mask
from amun_ray.training.parts import Part
from amun_ray.training.recipe import Recipe

RETAIN = frozenset({"retain"})
FORGET_ONLY = frozenset({"forget_only"})
EITHER = RETAIN | FORGET_ONLY


class Contender(NamedTuple):
    """One row of the table: a method, and whether it sees D_R (`retain`) or D_F alone (`forget_only`)."""

    method: str
    access: str

    def __str__(self) -> str:
        return f"{self.method} ({self.access})"


@dataclass(frozen=True, kw_only=True)
class Sets:
    """The data a method gets; all parts on the model's device."""

    retain: Part | None  # D_R; None is the forget_only setting
    forget: Part  # D_F
    adversarial: Part | None = None  # D_A: float32 images with the original model's wrong labels, not augmented
    sources: Tensor | None = None  # (M,) int64, the places in D_F that D_A was made from; None: all, in order

    @property
    def retained(self) -> Part:
        """D_R, for methods that need it."""
        assert self.retain is not None
        return self.retain

    @property
    def attacked(self) -> tuple[Part, Part]:
        """D_A and the samples of D_F that it was made from, these first, for methods that need both.

        Raises:
            UserError: it is not known which these are.
        """
        assert self.adversarial is not None
        attacked = self.forget if self.sources is None else self.forget.take(self.sources, augment=self.forget.augment)
        if len(attacked.labels) != len(self.adversarial.labels):
            raise UserError(f"the adversarial set has {len(self.adversarial.labels)} images, but was made from "
                            f"{len(attacked.labels)}; Sets.sources must give the place of each in the forget set")
        return attacked, self.adversarial

    @property
    def access(self) -> str:
        """The access: "retain" or "forget_only"."""
        return "forget_only" if self.retain is None else "retain"


@dataclass(frozen=True, kw_only=True)
class Setting(Allowed):
    """A hyper-parameter of one method: its default, the allowed values, and the range worth searching."""

    default: float
    low: float  # a search covers `low` to `high`
    high: float
    log: bool = False  # searched on a logarithmic scale
    access: frozenset[str] = EITHER  # where it has an effect; elsewhere it can be neither set nor searched
    later: bool = False  # came when stores had been written: at its default it is no part of digests

    @property
    def axis(self) -> Axis:
        """What a search may choose from."""
        return Choice(self.choices) if self.choices is not None else Range(self.low, self.high, self.log)


@dataclass(frozen=True)
class Certificate:
    """The (epsilon, delta) that a certified method reached under its assumptions, or why there is none."""

    delta: float
    epsilon: float | None  # None: nothing is certified
    reason: str  # the assumptions behind `epsilon`, or what is missing


@dataclass
class RunReport(Cost):
    """The cost of an unlearning run (see `Cost`), and its certificate if the method certifies."""

    certificate: Certificate | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """One unlearning run: everything a method may use."""

    model: nn.Module  # changed in place
    sets: Sets
    recipe: Recipe
    settings: Mapping[str, float]  # complete: defaults filled in
    augmentation: Augmentation
    generator: torch.Generator
    report: RunReport

    @property
    def classes(self) -> int:
        """The number of classes: the width of the model's logits."""
        with torch.no_grad(), evaluating(self.model):
            return self.model(torch.zeros_like(self.sets.forget.images[:1], dtype=torch.float32)).shape[1]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of METHODS. A variant of a method is `replace(METHOD, ...)`.

    `plan(task)` is called once, before the first epoch, and returns what `training.loop.train` runs. `run` replaces the
    training loop for a method that is not fine-tuning; it trains `task.model` in place and yields like the loop.
    """

    access: frozenset[str]  # the accesses it supports: "retain" (D_R at hand), "forget_only"
    plan: Callable[[Task], EpochPlan] | None = None
    moves: Callable[[Task], Mask] | None = None  # the weights it may move; None is all of them
    run: Callable[[Task], Iterator[int]] | None = None
    needs_adversarial: bool = False
    settings: Mapping[str, Setting] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.access or not self.access <= EITHER:
            raise UserError(f"access must be drawn from {sorted(EITHER)}, but got {sorted(self.access)}")
        if (self.plan is None) == (self.run is None):
            raise UserError("a method has either a plan or a run of its own")
        idle = [key for key, setting in self.settings.items() if not setting.access & self.access]
        if idle:
            raise UserError(f"no setting of access of this method lets {', '.join(idle)} count")

    def settings_in(self, *accesses: str) -> dict[str, Setting]:
        """The settings that have an effect in any of `accesses`."""
        return {key: setting for key, setting in self.settings.items() if setting.access & {*accesses}}

    def problem(self, name: str, key: str, *accesses: str) -> str | None:
        """Why the setting `key` can be neither set nor searched in `accesses`; None if it has an effect in any."""
        if key not in self.settings:
            return (f"{name} has no setting {key!r}{suggestion(key, self.settings)} "
                    f"Its settings: {', '.join(self.settings) or 'none'}")
        if key not in self.settings_in(*accesses):
            return (f"{key!r} has no effect on {name} with {', '.join(map(repr, accesses))} access, "
                    f"only with {', '.join(map(repr, sorted(self.settings[key].access)))}")
        return None

    def complete(self, name: str, access: str, settings: Mapping[str, float]) -> dict[str, float]:
        """The defaults of all settings of the method, overridden by `settings`.

        Raises:
            UserError: a setting that the method does not have, or not in this `access`; a value that is not allowed.
        """
        problems = []
        for key, value in settings.items():
            if (reason := self.problem(name, key, access)) is not None:
                problems.append(reason)
            elif (reason := self.settings[key].problem(value)) is not None:
                problems.append(f"{name}: {key} {reason}")
        if problems:
            raise UserError("; ".join(problems))
        return {key: setting.default for key, setting in self.settings.items()} | dict(settings)

    def inputs(self, name: str, access: str, settings: Mapping[str, float]) -> dict[str, float]:
        """The same as digests know it: without later settings that keep the earlier behaviour."""
        return {key: value for key, value in self.complete(name, access, settings).items()
                if not (self.settings[key].later and value == self.settings[key].default)}
