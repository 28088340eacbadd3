"""What a sweep can be told: the schema of a config, and every check that needs neither data nor worker."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, model_validator

from amun_ray import data, models
from amun_ray.attacks import AttackSettings
from amun_ray.errors import UserError
from amun_ray.metrics import RmiaSettings
from amun_ray.names import lookup, suggestion
from amun_ray.training.augment import Augmentation
from amun_ray.training.recipe import Recipe
from amun_ray.unlearn import METHODS

Access = Literal["retain", "forget_only"]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Schedule = Annotated[str, BeforeValidator(str), Field(pattern=r"^(never|every_[1-9]\d*)$")]
Natural = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    """Frozen, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(Strict):
    """Which images: a row of DATASETS, its own settings, and the augmentation of training images."""

    name: str
    train: str | None = None
    test: str | None = None
    root: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    train_size: PositiveInt | None = None
    test_size: PositiveInt | None = None
    classes: PositiveInt | None = None
    seed: int | None = None
    options: dict[str, Any] = {}
    crop: Natural = 0
    flip: bool = False

    @model_validator(mode="after")
    def _known(self) -> "Data":
        data.check(self.name, **self.settings)
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What the dataset's own function is called with."""
        return self.model_dump(exclude={"name", "crop", "flip", "options"}, exclude_none=True) | self.options

    @property
    def augmentation(self) -> Augmentation:
        return Augmentation(crop=self.crop, flip=self.flip)


class Model(Strict):
    """Which network: a row of MODELS or `package.module:callable`, with its constructor's options."""

    name: str
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _known(self) -> "Model":
        models.check(self.name, self.options)
        return self


class Originals(Strict):
    """The models that must forget: trained here, `count` of them, or loaded from `checkpoints`."""

    count: PositiveInt = 1
    checkpoints: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _counted(self) -> "Originals":
        if self.checkpoints is not None and len(self.checkpoints) != self.count:
            raise ValueError(f"count ({self.count}) must be the number of checkpoints ({len(self.checkpoints)})")
        return self


class Forget(Strict):
    """What is forgotten: random sets of a fraction of the training set, or the rows listed in a file."""

    fraction: Fraction | None = None
    sets: PositiveInt = 1
    indices: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "Forget":
        if (self.fraction is None) == (self.indices is None):
            raise ValueError("give either fraction or indices, not both and not neither")
        if self.indices is not None and self.sets != 1:
            raise ValueError(f"indices name one forget set, but sets is {self.sets}")
        return self


class HeldOut(Strict):
    """The forget sets that the search may see; `originals`: on how many of the originals it searches."""

    sets: PositiveInt = 1
    originals: PositiveInt = 1


class References(Strict):
    """The RMIA reference models, each trained on half of all samples; every sample is in and out of two at least."""

    count: Annotated[int, Field(ge=4, multiple_of=2)] = 8


class Attack(Strict):
    """How adversarial sets are built; `shard_size` samples are one piece of work."""

    search: AttackSettings = AttackSettings()
    shard_size: PositiveInt = 256


class Method(Strict):
    """One method of the sweep: in which settings of access (all it has, unless told), with which of its own settings,
    and which of those are searched, each over the range of its row."""

    access: tuple[Access, ...] | None = None
    settings: dict[str, float] = {}
    search: tuple[str, ...] = ()


class Unlearning(Strict):
    """What every unlearning run shares; learning rate, schedule and epochs are searched."""

    batch_size: PositiveInt = 128
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    precision: Literal["float32", "bfloat16", "auto"] = "auto"


class LogUniform(Strict):
    low: Annotated[float, Field(gt=0)] = 1e-6
    high: Annotated[float, Field(gt=0)] = 1e-1

    @model_validator(mode="after")
    def _ordered(self) -> "LogUniform":
        if self.low > self.high:
            raise ValueError(f"low <= high must hold, but got low={self.low:g}, high={self.high:g}")
        return self


class Search(Strict):
    """The space, and how much of it is tried. One trial of `epochs` epochs scores every epoch count up to that."""

    trials: PositiveInt = 20  # per method and access
    epochs: PositiveInt = 10
    lr: LogUniform = LogUniform()
    schedules: tuple[Schedule, ...] = Field(("never", "every_1", "every_5"), min_length=1)
    startup: PositiveInt = 8  # random trials before TPE takes over
    together: PositiveInt = 4  # trials of a study that are suggested before the next results are looked at


class Final(Strict):
    """How often the best settings are applied to each original and forget set, with different seeds."""

    runs: PositiveInt = 3


class Resources(Strict):
    """What one worker holds. Without a GPU in the cluster, `gpus` does not count."""

    gpus: Annotated[float, Field(ge=0)] = 1.0
    cpus: Annotated[float, Field(gt=0)] = 1.0
    threads: PositiveInt = 1


class Tracking(Strict):
    """Where MLflow is, and which unlearned models it gets as weights."""

    uri: str | None = None
    experiment: str | None = None
    models: Literal["all", "final"] = "all"


class Sweep(Strict):
    """One sweep, complete: nothing below this file repairs, defaults or changes it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    seed: int = 0
    data: Data
    model: Model
    training: Recipe
    originals: Originals = Originals()
    forget: Forget
    held_out: HeldOut = HeldOut()
    references: References = References()
    rmia: RmiaSettings = RmiaSettings()
    attack: Attack = Attack()
    methods: dict[str, Method | None] = Field(min_length=1)
    unlearning: Unlearning = Unlearning()
    search: Search = Search()
    final: Final = Final()
    resources: Resources = Resources()
    storage: str | None = None
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _consistent(self) -> "Sweep":
        problems = [problem for name in self.methods for problem in _method_problems(name, self.methods[name])]
        if self.held_out.originals > self.originals.count:
            problems.append(f"held_out.originals ({self.held_out.originals}) must not exceed "
                            f"originals.count ({self.originals.count})")
        if self.forget.fraction is not None and self.forget.fraction > 0.5:
            problems.append(f"forget.fraction ({self.forget.fraction:g}) must be at most 0.5, or no held-out forget "
                            "set of the same size can be disjoint from the final ones")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def contenders(self) -> list[tuple[str, Access]]:
        """Every (method, access) of the sweep, in the order of the file."""
        return [(name, access) for name, method in self.methods.items()
                for access in (method and method.access) or accesses(name)]

    def method_settings(self, name: str) -> dict[str, float]:
        """The method's own settings: those of the file over those of its row."""
        row = {key: setting.default for key, setting in lookup(METHODS, name, "method").settings.items()}
        return row | (self.methods[name] or Method()).settings


def accesses(name: str) -> list[Access]:
    """The settings of access in which a method exists, D_R first."""
    return [access for access in ("retain", "forget_only") if access in lookup(METHODS, name, "method").access]


def _method_problems(name: str, chosen: Method | None) -> list[str]:
    try:
        row = lookup(METHODS, name, "method")
    except UserError as error:
        return [f"methods.{name}: {error}"]
    if chosen is None:
        return []
    problems = [f"methods.{name}.access: {name} does not exist with {access!r}, only with {', '.join(accesses(name))}"
                for access in chosen.access or () if access not in row.access]
    for key in (*chosen.settings, *chosen.search):
        if key not in row.settings:
            problems.append(f"methods.{name}: {name} has no setting {key!r}{suggestion(key, row.settings)}"
                            + (f" It has: {', '.join(row.settings)}" if row.settings else " It has none"))
        elif key in chosen.settings and (reason := row.settings[key].problem(chosen.settings[key])) is not None:
            problems.append(f"methods.{name}.settings.{key}: {reason}")
    return problems
