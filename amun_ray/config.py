"""What a sweep can be told: the schema of a config, and every check that needs neither data nor worker."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from amun_ray import data, models
from amun_ray.attacks import AttackSettings
from amun_ray.config_fields import Access, Accesses, Fraction, Name, Natural, Schedules, Searched, not_empty
from amun_ray.errors import UserError
from amun_ray.metrics import RmiaSettings
from amun_ray.names import lookup, suggestion
from amun_ray.training.augment import Augmentation
from amun_ray.training.recipe import Recipe
from amun_ray.unlearn import METHODS, find


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

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        lookup(data.DATASETS, name, "dataset")
        return name

    @model_validator(mode="after")
    def _fitting(self) -> "Data":
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

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        lookup(models.MODELS, name, "model")
        return name

    @model_validator(mode="after")
    def _fitting(self) -> "Model":
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

    @field_validator("fraction")
    @classmethod
    def _leaving_room(cls, fraction: float | None) -> float | None:
        if fraction is not None and fraction > 0.5:
            raise ValueError(f"must be at most 0.5, or every held-out forget set of that size overlaps the final ones, "
                             f"but got {fraction:g}")
        return fraction

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

    access: Accesses | None = None
    settings: dict[str, float] = {}
    search: Searched = ()


class Unlearning(Strict):
    """What every unlearning run shares; learning rate, schedule and epochs are searched."""

    batch_size: Annotated[int, Field(ge=2)] = 128  # one sample has no batch statistics
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
    schedules: Schedules = ("never", "every_1", "every_5")
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

    uri: Annotated[str, Field(min_length=1)] | None = None
    experiment: str | None = None
    models: Literal["all", "final"] = "all"


class Sweep(Strict):
    """One sweep, complete: nothing below this file repairs, defaults or changes it."""

    name: Name
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
    methods: Annotated[dict[str, Method | None], AfterValidator(not_empty)]
    unlearning: Unlearning = Unlearning()
    search: Search = Search()
    final: Final = Final()
    resources: Resources = Resources()
    storage: str | None = None
    tracking: Tracking = Tracking()

    @field_validator("methods", mode="wrap")
    @classmethod
    def _known(cls, content: Any, check: Callable[[Any], Any]) -> dict[str, Method | None]:
        """What does not fit the row of a method's name is said beside what is wrong inside the entries themselves."""
        errors, made = [], {}
        try:
            made = check(content)
        except ValidationError as error:
            errors = [{key: item[key] for key in ("type", "loc", "input", "ctx") if key in item}
                      for item in error.errors()]
        wrong = {item["loc"][0] for item in errors if item["loc"]}
        for name in content if isinstance(content, dict) else ():
            chosen = None if name in wrong else made[name] if made else Method.model_validate(content[name] or {})
            errors += [{"type": "value_error", "loc": (name, *place), "input": None, "ctx": {"error": problem}}
                       for place, problem in _method_problems(name, chosen)]
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return made

    @field_validator("held_out")
    @classmethod
    def _within(cls, held_out: HeldOut, info: ValidationInfo) -> HeldOut:
        originals = info.data.get("originals")
        if originals is not None and held_out.originals > originals.count:
            raise ValueError(f"originals ({held_out.originals}) must not exceed originals.count ({originals.count})")
        return held_out

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


def _method_problems(name: str, chosen: Method | None) -> list[tuple[tuple[str, ...], str]]:
    """(key below the method, what is wrong there) of every mistake that the method's row tells."""
    try:
        row = find(name)
    except UserError as error:
        return [((), str(error))]
    chosen = chosen or Method()
    problems = [(("access",), f"{name} does not exist with {access!r}, only with {', '.join(sorted(row.access))}")
                for access in chosen.access or () if access not in row.access]
    for place, key in [*((("settings", key), key) for key in chosen.settings),
                       *((("search",), key) for key in chosen.search)]:
        if key not in row.settings:
            problems.append((place, f"{name} has no setting {key!r}{suggestion(key, row.settings)} "
                                    f"Its settings: {', '.join(row.settings) or 'none'}"))
        elif key in chosen.settings and (reason := row.settings[key].problem(chosen.settings[key])) is not None:
            problems.append((place, reason))
    return list(dict.fromkeys(problems))
