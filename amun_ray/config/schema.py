"""What a sweep can be told: the schema of a config, and every check that needs neither data nor worker."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from amun_ray import data, models
from amun_ray.attacks import AttackSettings
from amun_ray.base.names import lookup
from amun_ray.base.space import Space
from amun_ray.config.fields import Fraction, Name, Natural, Share, Source, StorageUri, Strict, not_empty
from amun_ray.config.later import without_later
from amun_ray.config.methods import Method, accesses, method_problems
from amun_ray.config.search import Search
from amun_ray.metrics import RmiaSettings
from amun_ray.training.augment import Augmentation
from amun_ray.training.recipe import Recipe, named
from amun_ray.unlearn import Contender, find


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
    options: dict[str, Any] = Field(default_factory=dict)
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
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        models.find(name)
        return name

    @model_validator(mode="after")
    def _fitting(self) -> "Model":
        models.check(self.name, self.options)
        return self


class Originals(Strict):
    """The models that must forget: trained here, `count` of them, or loaded from `checkpoints`: paths of files or
    folders, or MLflow addresses, for the server of `tracking.uri` or MLFLOW_TRACKING_URI: `runs:/RUN_ID/model`,
    `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `mlflow-artifacts:/PATH`."""

    count: PositiveInt = 1
    checkpoints: tuple[Source, ...] | None = None

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


class Unlearning(Strict):
    """What every unlearning run shares; learning rate, schedule and epochs are searched."""

    batch_size: Annotated[int, Field(ge=2)] = 128  # one sample has no batch statistics
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    precision: Literal["float32", "bfloat16", "auto"] = "auto"


class Final(Strict):
    """How often the best settings are applied to each original and forget set, with different seeds."""

    runs: PositiveInt = 3


class Resources(Strict):
    """What one worker holds. Without a GPU in the cluster, `gpus` does not count, unless the user wrote a number. With
    `auto` a trial of the search holds the part of a GPU that the first one was seen to need, and every other worker a
    whole one."""

    gpus: Share = 1.0
    cpus: Annotated[float, Field(gt=0)] = 1.0
    threads: PositiveInt = 1

    @property
    def whole_gpus(self) -> float:
        """What a worker holds that nobody has measured."""
        return 1.0 if self.gpus == "auto" else self.gpus

    @property
    def needs_gpu(self) -> bool:
        """Whether the user asked for a share of a GPU, so that none will not do."""
        return "gpus" in self.model_fields_set and self.gpus not in ("auto", 0)


class Tracking(Strict):
    """Where MLflow is, and which unlearned models it gets as weights."""

    uri: Annotated[str, Field(min_length=1)] | None = None
    experiment: str | None = None
    models: Literal["all", "final"] = "all"


class NamedRecipe(Strict):
    """The one key of `training` that is no field of a Recipe (see `training.recipe.named`)."""

    recipe: str


class Sweep(Strict):
    """One sweep, complete: nothing below this file repairs, defaults or changes it.

    `training` makes originals, retrained and reference models: the fields of a Recipe, or `{recipe: paper}` or, for who
    has neither a checkpoint nor days, `{recipe: fast}`, with any field beside it: `{recipe: fast, epochs: 8}`.
    """

    name: Name
    seed: int = 0
    data: Data
    model: Model
    training: Annotated[Recipe, BeforeValidator(named, json_schema_input_type=Recipe | NamedRecipe)]
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
    storage: StorageUri | None = None
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
                       for place, problem in method_problems(name, chosen)]
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

    def inputs(self, **options: Any) -> dict[str, Any]:
        """The settings as digests know them: `model_dump`, without those that came later and are at rest."""
        return without_later(self.model_dump(**options))

    @property
    def contenders(self) -> list[Contender]:
        """Every (method, access) of the sweep, in the order of the file."""
        return [Contender(name, access) for name, method in self.methods.items()
                for access in (method and method.access) or accesses(name)]

    @model_validator(mode="after")
    def _points_inside(self) -> "Sweep":
        errors = [{"type": "value_error", "loc": place, "input": None, "ctx": {"error": problem}}
                  for contender in self.contenders
                  for place, problem in self.search.point_problems(
                      contender.method, self.space(contender), self.chosen(contender.method).points,
                      self.chosen(contender.method).search)]
        if errors:
            unique = {(error["loc"], error["ctx"]["error"]): error for error in errors}
            raise ValidationError.from_exception_data(type(self).__name__, list(unique.values()))
        return self

    def chosen(self, name: str) -> Method:
        """What the file says about the method `name`."""
        return self.methods[name] or Method()

    def space(self, contender: Contender) -> Space:
        """What is searched for a contender: only what it has, and of its own settings only those named."""
        counting = find(contender.method).settings_in(contender.access)
        return self.search.space({key: counting[key].axis for key in self.chosen(contender.method).search
                                  if key in counting}, self.chosen(contender.method).lr)

    def method_settings(self, contender: Contender) -> dict[str, float]:
        """The method's own settings in the file, those that count with this access."""
        counting = find(contender.method).settings_in(contender.access)
        return {key: value for key, value in self.chosen(contender.method).settings.items() if key in counting}
