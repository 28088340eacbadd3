"""ATTACKS: one row per attack, with its settings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Any

from amun_ray.attacks.ddn import Ddn
from amun_ray.attacks.fast_fgsm import FastFgsm
from amun_ray.attacks.nearest import Nearest
from amun_ray.attacks.pgd_l2 import move_l2
from amun_ray.attacks.pgd_linf import move_linf
from amun_ray.attacks.radius import RadiusSearch
from amun_ray.attacks.secant import Secant
from amun_ray.attacks.slots import Attack


@dataclass(frozen=True, kw_only=True)
class AttackRow:
    """How to build an attack; its defaults are those of the class that `make` calls."""

    make: Callable[..., Attack[Any]]  # called with its settings, by name
    names: tuple[str, ...]  # of the settings that a user may choose
    shrinks: bool = False  # whether `shrink` bisections move its flips back; 0 of them by default
    smallest: float | None = None  # the radius at which calibration starts, pixel units; None: not calibrated
    has_radius: bool = False  # whether a row's `eps` is the attack's radius; otherwise it is the distance
    bfloat16: bool = False  # whether precision "auto" attacks in bfloat16 (rows are always verified in float32)

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """Its settings with their defaults; eps_init None: calibrate it."""
        attack: Any = self.make.func if isinstance(self.make, partial) else self.make
        defaults = {field.name: field.default for field in fields(attack)}
        return {name: defaults[name] for name in self.names} | ({"shrink": 0} if self.shrinks else {})


BALL = {"shrinks": True, "has_radius": True, "bfloat16": True}  # what the attacks inside a ball share
ALGORITHM_1 = ("steps", "step_ratio", "start", "stop", "eps_init", "doublings", "objective")

ATTACKS: dict[str, AttackRow] = {
    "nearest": AttackRow(make=Nearest, names=("steps", "polish", "kappa")),
    "secant": AttackRow(make=Secant, names=("steps", "tolerance", "kappa", "competitors")),
    "pgd_l2": AttackRow(make=partial(RadiusSearch, move=move_l2), names=ALGORITHM_1, smallest=1e-3, **BALL),
    "pgd_linf": AttackRow(make=partial(RadiusSearch, move=move_linf), names=ALGORITHM_1, smallest=1e-4, **BALL),
    "fgsm": AttackRow(make=partial(RadiusSearch, move=move_linf, steps=1, step_ratio=1.0), smallest=1e-4, **BALL,
                names=("eps_init", "doublings", "objective")),
    "fast_fgsm": AttackRow(make=FastFgsm, names=("steps", "eps_init", "doublings", "objective"), has_radius=True),
    "ddn": AttackRow(make=Ddn, names=("steps", "eps_init", "gamma", "objective")),
}
