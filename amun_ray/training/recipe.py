"""How a model is trained: optimiser, learning rate schedule, precision."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from amun_ray.base.errors import UserError
from amun_ray.base.names import suggestion
from amun_ray.base.space import Allowed

RULES = {
    "lr": Allowed(above=0), "epochs": Allowed(whole=True, at_least=1, at_most=1e6),
    "momentum": Allowed(at_least=0, below=1),
    "batch_size": Allowed(whole=True, at_least=2, at_most=1e6),  # one sample has no batch statistics
    "weight_decay": Allowed(at_least=0), "schedule": Allowed(choices=("step", "one_cycle", "cosine")),
    "decay_every": Allowed(whole=True, at_least=0), "decay_factor": Allowed(above=0, at_most=1),
    "precision": Allowed(choices=("float32", "bfloat16", "auto")), "optimizer": Allowed(choices=("sgd", "adamw")),
    "warm_up": Allowed(at_least=0), "clip": Allowed(at_least=0), "label_smoothing": Allowed(at_least=0, below=1),
    "loss": Allowed(choices=("cross_entropy", "trades")), "beta": Allowed(at_least=0),
    "norm": Allowed(choices=("linf", "l2")), "epsilon": Allowed(above=0),
    "inner_steps": Allowed(whole=True, at_least=1), "inner_step": Allowed(at_least=0),
}
TRADES = ("beta", "norm", "epsilon", "inner_steps", "inner_step")  # settings of that loss alone
WARM_UP = 0.25  # share of a one-cycle run in which the learning rate rises
WARM_UP_FROM = 0.1  # share of the peak: starting at 0 would waste the first step


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An optimiser, its learning rate schedule, and regularisation; the defaults are the paper's SGD.

    The "step" schedule does not depend on `epochs`, so a run of E epochs passes through the model of every shorter
    run. "one_cycle" and "cosine" do, and are meant for originals: the former to train them fast, the latter, with a
    warm-up and AdamW, for networks without batch norm.

    Raises:
        UserError: a value that RULES does not allow.
    """

    lr: float
    """The peak learning rate."""
    epochs: int
    """Passes over the training set."""
    batch_size: int = 128
    """Samples per step; one sample has no batch statistics."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """Weight decay."""
    schedule: Literal["step", "one_cycle", "cosine"] = "step"
    """`step` decays by `decay_factor`; `one_cycle` rises, then falls to 0; `cosine` falls to 0."""
    decay_every: int = 0
    """Epochs between two decays of `step`; 0 means never."""
    decay_factor: float = 0.1
    """Factor by which `step` multiplies the learning rate."""
    precision: Literal["float32", "bfloat16", "auto"] = "auto"
    """Arithmetic of the passes; `auto` is bfloat16 on a GPU that has it, float32 on a CPU."""
    compile: bool = False
    """Whether to compile the network with torch.compile."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """`sgd`, or `adamw` (Loshchilov and Hutter, ICLR 2019), which has no momentum."""
    warm_up: float = 0.0
    """Warm-up epochs of `cosine` and `step`, in which the learning rate rises to its peak."""
    clip: float = 0.0
    """Largest norm of the gradient over all weights; 0 means no limit."""
    label_smoothing: float = 0.0
    """Label smoothing: share of each label that is spread over all classes."""
    loss: Literal["cross_entropy", "trades"] = "cross_entropy"
    """`cross_entropy`, or `trades` (Zhang et al., ICML 2019), which trains robust networks at twelve times the cost."""
    beta: float = 6.0
    """TRADES: the weight of robustness beside accuracy."""
    norm: Literal["linf", "l2"] = "linf"
    """TRADES: the norm of its inner attack."""
    epsilon: float = 0.031
    """TRADES: the radius of its inner attack, in pixels of [0, 1]."""
    inner_steps: int = 10
    """TRADES: steps of its inner attack."""
    inner_step: float = 0.0
    """TRADES: length of such a step, in pixels of [0, 1]; 0 means `2 epsilon / inner_steps`."""

    def __post_init__(self) -> None:
        broken = [f"{name} {problem}" for name, allowed in RULES.items()
                  if (problem := allowed.problem(getattr(self, name))) is not None]
        if self.loss == "cross_entropy":
            broken += [f"{name} is a setting of TRADES: give loss: trades beside it, or leave it out" for name in TRADES
                       if getattr(self, name) != getattr(type(self), name)]
        if broken:
            raise UserError("; ".join(broken))

    def lr_at(self, time: float) -> float:
        """The learning rate at `time`, in epochs since the start (0.5: in the middle of the first epoch)."""
        if self.schedule == "one_cycle":
            share = time / self.epochs
            rising = WARM_UP_FROM + (1 - WARM_UP_FROM) * share / WARM_UP
            return self.lr * min(rising, (1 - share) / (1 - WARM_UP))
        rising = WARM_UP_FROM + (1 - WARM_UP_FROM) * time / self.warm_up if self.warm_up else 1.0
        peak = self.lr * min(1.0, rising)
        if self.schedule == "cosine":
            return peak * (1 + math.cos(math.pi * time / self.epochs)) / 2
        decays = int(time) // self.decay_every if self.decay_every else 0
        return peak * self.decay_factor**decays


RECIPES = {
    "paper": Recipe(lr=0.1, epochs=200, decay_every=40),  # for CIFAR-10; for Tiny ImageNet, with batch_size 256
    "finetune": Recipe(lr=1e-4, epochs=10, optimizer="adamw", weight_decay=0.05, schedule="cosine", warm_up=0.5,
                       clip=1.0),  # for public weights and for networks without batch norm
    "trades": Recipe(lr=0.1, epochs=76, weight_decay=2e-4, decay_every=75, loss="trades",
                     inner_step=0.007),  # as its authors train on CIFAR-10, Linf
    "fast": Recipe(lr=0.1, epochs=20, schedule="one_cycle"),  # a tenth of the epochs, if there is no checkpoint
}


def named(content: Any) -> Any:
    """Expand `{recipe: NAME, KEY: VALUE, ...}`: the settings of that recipe, overridden by the other keys.

    Anything without the key `recipe` is returned unchanged. UserError for a name that is not in RECIPES.
    """
    if not isinstance(content, Mapping) or "recipe" not in content:
        return content
    changes = dict(content)
    name = str(changes.pop("recipe"))
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}{suggestion(name, RECIPES)} Known: {', '.join(sorted(RECIPES))}")
    return asdict(RECIPES[name]) | changes
