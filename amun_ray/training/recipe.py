"""How a model is trained: optimiser, learning rate over time, precision."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from amun_ray.base.errors import UserError
from amun_ray.base.names import suggestion
from amun_ray.base.space import Allowed

RULES = {
    "lr": Allowed(above=0), "epochs": Allowed(whole=True, at_least=1), "momentum": Allowed(at_least=0, below=1),
    "batch_size": Allowed(whole=True, at_least=2),  # one sample has no batch statistics
    "weight_decay": Allowed(at_least=0), "schedule": Allowed(choices=("step", "one_cycle")),
    "decay_every": Allowed(whole=True, at_least=0), "decay_factor": Allowed(above=0, at_most=1),
    "precision": Allowed(choices=("float32", "bfloat16", "auto")),
}
WARM_UP = 0.25  # share of a one-cycle run in which the learning rate rises
WARM_UP_FROM = 0.1  # of the peak: a run that began at 0 would waste its first step


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """SGD with momentum and weight decay, as every training of the paper (the AMUN paper, experiments).

    The "step" schedule never looks at `epochs`, so one run of E epochs passes through the model of every shorter run.
    "one_cycle" does look, and is meant for originals made fast.

    Raises:
        UserError: a value that RULES does not allow.
    """

    lr: float  # > 0
    epochs: int  # >= 1
    batch_size: int = 128  # >= 2, since one sample has no batch statistics
    momentum: float = 0.9  # in [0, 1)
    weight_decay: float = 5e-4  # >= 0
    schedule: Literal["step", "one_cycle"] = "step"
    decay_every: int = 0  # epochs between two decays of "step"; 0 is never
    decay_factor: float = 0.1  # in (0, 1]
    precision: Literal["float32", "bfloat16", "auto"] = "auto"  # auto: bfloat16 on a GPU that has it, float32 on a CPU
    compile: bool = False

    def __post_init__(self) -> None:
        broken = [f"{name} {problem}" for name, allowed in RULES.items()
                  if (problem := allowed.problem(getattr(self, name))) is not None]
        if broken:
            raise UserError("; ".join(broken))

    def lr_at(self, time: float) -> float:
        """The learning rate at `time`, in epochs since the start (0.5: in the middle of the first epoch)."""
        if self.schedule == "one_cycle":
            share = time / self.epochs
            rising = WARM_UP_FROM + (1 - WARM_UP_FROM) * share / WARM_UP
            return self.lr * min(rising, (1 - share) / (1 - WARM_UP))
        decays = int(time) // self.decay_every if self.decay_every else 0
        return self.lr * self.decay_factor**decays


RECIPES = {
    "paper": Recipe(lr=0.1, epochs=200, decay_every=40),  # for CIFAR-10; for Tiny ImageNet with batch_size 256
    "fast": Recipe(lr=0.1, epochs=20, schedule="one_cycle"),  # a tenth of that, for who has no checkpoint
}


def named(content: Any) -> Any:
    """What `{recipe: NAME, KEY: VALUE, ...}` stands for: the settings of that recipe, with the other keys over them.

    Anything without the key `recipe` is returned as it is. UserError for a name that RECIPES does not have.
    """
    if not isinstance(content, Mapping) or "recipe" not in content:
        return content
    changes = dict(content)
    name = str(changes.pop("recipe"))
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}{suggestion(name, RECIPES)} Known: {', '.join(sorted(RECIPES))}")
    return asdict(RECIPES[name]) | changes
