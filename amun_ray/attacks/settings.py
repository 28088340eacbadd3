"""AttackSettings: which attack, and how; checked once, when created."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from amun_ray.attacks.checks import check_settings
from amun_ray.attacks.slots import Attack
from amun_ray.attacks.table import ATTACKS, AttackRow
from amun_ray.base.errors import UserError
from amun_ray.base.names import lookup, suggestion

GENERAL = ("name", "batch_size", "precision", "compile")


@dataclass(frozen=True, kw_only=True)
class AttackSettings:
    """How to search for adversarial images. None is the attack's default; ATTACKS says which attack has which setting.

    Raises:
        UserError: unknown attack, a setting that this attack does not have, or a value out of range.
    """

    # a config file may hold these settings: forbid unknown keys; the reference of config keys quotes these docstrings
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}

    name: str = "nearest"
    """Which attack: a name of the table of attacks."""
    steps: int | None = None
    """Passes per sample (nearest and secant, at most), per radius (pgd) or per start (fast_fgsm)."""
    step_ratio: float | None = None
    """pgd: length of a step, in radii."""
    start: Literal["clean", "warm"] | None = None
    """pgd, at a new radius: `clean` restarts from the clean image (paper), `warm` continues (authors' scripts)."""
    stop: Literal["full", "first_flip"] | None = None
    """pgd: look after all steps (`full`, paper), or after each (`first_flip`, authors' scripts)."""
    eps_init: float | None = None
    """First radius, pixel units; calibrated if not given, where the attack has a radius."""
    doublings: int | None = None
    """How often the radius may double before a sample is reported as failed."""
    shrink: int | None = None
    """Bisections towards the clean image after the flip, one forward pass each."""
    objective: Literal["margin", "cross_entropy"] | None = None
    """What the gradient is taken of."""
    kappa: float | None = None
    """nearest and secant: the margin, in logits, by which the wrong class must lead."""
    polish: int | None = None
    """nearest: steps along the boundary, after the first flip."""
    tolerance: float | None = None
    """secant: done when the next point would be nearer by less than this share of the distance."""
    competitors: int | None = None
    """secant: how many other classes are compared at the clean image, a backward pass each."""
    gamma: float | None = None
    """ddn: share by which the norm shrinks or grows at each step."""
    batch_size: int = 128
    """Samples in the model at a time; fewer if GPU memory runs out."""
    precision: Literal["float32", "bfloat16", "auto"] = "auto"
    """Arithmetic of the search; adversarial images are verified in float32."""
    compile: bool = False
    """torch.compile at one fixed batch shape; CUDA graphs on a GPU."""

    def __post_init__(self) -> None:
        known = self.row.settings
        for name, value in vars(self).items():
            if value is not None and name not in GENERAL and name not in known:
                raise UserError(f"attack {self.name!r} has no setting {name!r}{suggestion(name, known)} "
                                f"Its settings: {', '.join(known)}")
        check_settings(vars(self), f"attack {self.name!r}: ")

    @property
    def row(self) -> AttackRow:
        """The attack's row of ATTACKS."""
        return lookup(ATTACKS, self.name, "attack")

    @property
    def values(self) -> dict[str, Any]:
        """This attack's settings, with defaults filled in; `eps_init` None: calibrate it."""
        own = {name: getattr(self, name) for name in self.row.settings}
        return {name: self.row.settings[name] if value is None else value for name, value in own.items()}

    def attack(self) -> Attack[Any]:
        """The attack itself; `eps_init` must already be known."""
        values = self.values
        values.pop("shrink", None)
        assert values.get("eps_init", 1) is not None, "calibrate first"
        return self.row.make(**values)
