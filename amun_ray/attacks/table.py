"""ATTACKS: one row per attack, with the settings it has."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from amun_ray.attacks.ddn import Ddn
from amun_ray.attacks.fast_fgsm import FastFgsm
from amun_ray.attacks.nearest import Nearest
from amun_ray.attacks.pgd_l2 import move_l2
from amun_ray.attacks.pgd_linf import move_linf
from amun_ray.attacks.radius import RadiusSearch
from amun_ray.attacks.slots import Attack


@dataclass(frozen=True, kw_only=True)
class Row:
    """What an attack is made of."""

    make: Callable[..., Attack]  # called with the settings below, by name
    settings: Mapping[str, Any]  # the settings it has, with their defaults; eps_init None: calibrate it
    smallest: float | None = None  # the radius from which it is calibrated, pixel units; None: it has no radius
    bfloat16: bool = False  # does precision "auto" attack in bfloat16 (rows are verified in float32 in any case)


ALGORITHM_1 = {"steps": 50, "step_ratio": 0.1, "start": "clean", "stop": "full", "eps_init": None, "doublings": 12,
               "shrink": 0, "objective": "margin"}

ATTACKS: dict[str, Row] = {
    "nearest": Row(make=Nearest, settings={"steps": 60, "polish": 4, "kappa": 0.0}),
    "pgd_l2": Row(make=partial(RadiusSearch, move=move_l2), settings=ALGORITHM_1, smallest=1e-3, bfloat16=True),
    "pgd_linf": Row(make=partial(RadiusSearch, move=move_linf), settings=ALGORITHM_1, smallest=1e-4, bfloat16=True),
    "fgsm": Row(make=partial(RadiusSearch, move=move_linf, steps=1), smallest=1e-4, bfloat16=True,
                settings={"eps_init": None, "doublings": 12, "shrink": 0, "objective": "margin"}),
    "fast_fgsm": Row(make=FastFgsm, settings={"steps": 5, "eps_init": 1e-3, "doublings": 12, "objective": "margin"}),
    "ddn": Row(make=Ddn, settings={"steps": 100, "eps_init": 0.1, "gamma": 0.05, "objective": "margin"}),
}
