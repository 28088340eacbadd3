"""AttackSettings: which attack, and how; checked once, when they are made."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from amun_ray.attacks.look import OBJECTIVES
from amun_ray.attacks.slots import Attack
from amun_ray.attacks.table import ATTACKS, Row
from amun_ray.base.errors import UserError
from amun_ray.base.names import lookup, suggestion

GENERAL = ("name", "batch_size", "precision", "compile")
# setting -> smallest value allowed, and whether that value itself is
LIMITS = {"steps": (1, True), "step_ratio": (0, False), "eps_init": (0, False), "doublings": (0, True),
          "shrink": (0, True), "kappa": (0, True), "polish": (0, True), "gamma": (0, False), "batch_size": (1, True)}
WHOLE = ("steps", "doublings", "shrink", "polish", "batch_size")
CHOICES = {"start": ("clean", "warm"), "stop": ("full", "first_flip"), "objective": tuple(OBJECTIVES),
           "precision": ("float32", "bfloat16", "auto")}


@dataclass(frozen=True, kw_only=True)
class AttackSettings:
    """How adversarial images are searched. None is the attack's own default; see ATTACKS for who has what.

    Raises:
        UserError: unknown attack, a setting that this attack does not have, or a value out of its range.
    """

    # a config file may hold these settings: no unknown key there either
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str = "nearest"  # a row of ATTACKS
    steps: int | None = None  # passes per sample (nearest, at most), per radius (pgd) or per start (fast_fgsm)
    step_ratio: float | None = None  # pgd: length of a step, in radii
    start: Literal["clean", "warm"] | None = None  # pgd, with a new radius: anew (paper), or on (authors' scripts)
    stop: Literal["full", "first_flip"] | None = None  # pgd: read after all steps (paper), or each (authors' scripts)
    eps_init: float | None = None  # first radius, pixel units; None calibrates it where the attack has a radius
    doublings: int | None = None  # how often the radius may double before a sample is reported as failed
    shrink: int | None = None  # bisections towards the clean image after the flip, a forward pass each
    objective: Literal["margin", "cross_entropy"] | None = None  # what the gradient is taken of
    kappa: float | None = None  # nearest: the margin, in logits, by which the wrong class must lead
    polish: int | None = None  # nearest: steps along the boundary after the first flip
    gamma: float | None = None  # ddn: share by which the norm shrinks or grows at each step
    batch_size: int = 128  # samples in the model at a time; less when the GPU's memory asks for it
    precision: Literal["float32", "bfloat16", "auto"] = "auto"  # of the search; rows are verified in float32
    compile: bool = False  # torch.compile at one fixed batch shape; CUDA graphs on a GPU

    def __post_init__(self) -> None:
        row = self.row
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            if field.name not in GENERAL and field.name not in row.settings:
                raise UserError(f"attack {self.name!r} has no setting {field.name!r}"
                                f"{suggestion(field.name, row.settings)} Its settings: {', '.join(row.settings)}")
            _check_value(self.name, field.name, value)
        if "gamma" in row.settings and self.gamma is not None and self.gamma >= 1:
            raise UserError(f"attack {self.name!r}: `gamma` must be below 1, found {self.gamma:g}")

    @property
    def row(self) -> Row:
        """The attack's row of ATTACKS."""
        return lookup(ATTACKS, self.name, "attack")

    @property
    def values(self) -> dict[str, Any]:
        """The settings this attack has, defaults filled in; `eps_init` None: to be calibrated."""
        own = {name: getattr(self, name) for name in self.row.settings}
        return {name: self.row.settings[name] if value is None else value for name, value in own.items()}

    def attack(self) -> Attack:
        """The attack itself; `eps_init` must be known by now."""
        values = self.values
        values.pop("shrink", None)
        assert values.get("eps_init", 1) is not None, "calibrate first"
        return self.row.make(**values)


def _check_value(attack: str, name: str, value: Any) -> None:
    """Raise UserError unless `value` may stand for the setting `name`."""
    if name in LIMITS:
        low, included = LIMITS[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"attack {attack!r}: `{name}` must be a number, found {value!r}")
        if name in WHOLE and not isinstance(value, int):
            raise UserError(f"attack {attack!r}: `{name}` must be a whole number, found {value!r}")
        if not (value >= low if included else value > low) or value == float("inf"):
            rule = f"at least {low}" if included else f"above {low}"
            raise UserError(f"attack {attack!r}: `{name}` must be finite and {rule}, found {value!r}")
    if name in CHOICES and value not in CHOICES[name]:
        raise UserError(f"attack {attack!r}: `{name}` must be one of {', '.join(CHOICES[name])}, found {value!r}")
