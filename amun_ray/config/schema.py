"""The schema of a config, and every check that needs neither data nor workers."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from amun_ray import models
from amun_ray.base.space import Space
from amun_ray.config.audit import AuditConfig
from amun_ray.config.data import Data
from amun_ray.config.fields import (
    MOST,
    Count,
    Name,
    Source,
    Strict,
    Uri,
    not_empty,
)
from amun_ray.config.later import without_later
from amun_ray.config.methods import MethodConfig, accesses, method_problems
from amun_ray.config.production import Requests
from amun_ray.config.readings import expanded_methods, reading
from amun_ray.config.search import Search
from amun_ray.config.sections import (
    AttackConfig,
    Final,
    Forget,
    HeldOut,
    References,
    Resources,
    Tracking,
    Unlearning,
)
from amun_ray.config.studies import known_study, study_problem
from amun_ray.metrics import RmiaSettings
from amun_ray.training.recipe import Recipe, named
from amun_ray.unlearn import Contender, find


class Model(Strict):
    """Which network: a row of MODELS or `package.module:callable`, with its constructor's options."""

    name: str
    """Which network: a name of the table of models, or one of your own."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of its constructor, e.g. `{width: 8}`."""
    weights: Source | None = None
    """Every training starts from these, which must not have seen the data: a file, a folder or an MLflow address."""
    spectral_clip: Annotated[float, Field(gt=0)] | None = None
    """Bound on the largest singular value of every convolution and dense layer, of all models; without batch norm."""

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

    count: Count = 1
    """Number of original models."""
    checkpoints: tuple[Source, ...] | None = None
    """Load the originals from here instead of training them: paths or MLflow addresses, as many as `count`."""

    @model_validator(mode="after")
    def _counted(self) -> "Originals":
        if self.checkpoints is not None and len(self.checkpoints) != self.count:
            raise ValueError(f"count ({self.count}) must be the number of checkpoints ({len(self.checkpoints)})")
        return self


class NamedRecipe(Strict):
    """The one key of `training` that is not a field of Recipe (see `training.recipe.named`)."""

    recipe: str
    """A named recipe, whose fields the other keys override."""


class Sweep(Strict):
    """One sweep, complete: nothing below this file repairs, defaults or changes it.

    `training` is for originals, retrained and reference models: the fields of a Recipe, or `{recipe: paper}`. Without a
    checkpoint or days of time, use `{recipe: fast}`. Any field may be added: `{recipe: fast, epochs: 8}`.
    """

    name: Name
    """The name of the sweep, in folders and in MLflow."""
    seed: int = 0
    """The seed of every random draw."""
    data: Data
    """The images."""
    model: Model
    """The network."""
    training: Annotated[Recipe, BeforeValidator(named, json_schema_input_type=Recipe | NamedRecipe)]
    """How originals, retrained and reference models are trained."""
    originals: Originals = Originals()
    """The models that must forget."""
    forget: Forget
    """What is forgotten."""
    held_out: HeldOut = HeldOut()
    """The forget sets of the search."""
    references: Annotated[References, BeforeValidator(reading("references"))] = References()
    """The reference models of RMIA."""
    rmia: Annotated[RmiaSettings, BeforeValidator(reading("rmia"))] = RmiaSettings()
    """The parameters of RMIA, the membership attack."""
    attack: AttackConfig = AttackConfig()
    """How adversarial images are built."""
    methods: Annotated[dict[str, MethodConfig | None], AfterValidator(not_empty)]
    """The methods to compare, each with its own settings or nothing."""
    unlearning: Unlearning = Unlearning()
    """What all unlearning runs share."""
    search: Annotated[Search, Field(validate_default=True)] = Search()
    """What is searched, how, and by which score."""
    final: Final = Final()
    """The runs in the table."""
    audit: AuditConfig = AuditConfig()
    """By what the final models are judged, beside accuracies and RMIA."""
    study: Annotated[str, AfterValidator(known_study)] | None = None
    """A study to make of the finished sweep, beyond its table: a figure and a table of its own."""
    resources: Resources = Resources()
    """The resources of one worker."""
    storage: Uri | None = None
    """A folder or URI for finished work, instead of the output folder."""
    requests: Requests = Requests()
    """Deletion in production."""
    tracking: Tracking = Tracking()
    """Where MLflow is, and what is logged there."""

    @field_validator("methods", mode="wrap")
    @classmethod
    def _known(cls, content: Any, check: Callable[[Any], Any]) -> dict[str, MethodConfig | None]:
        """Report conflicts with a method's row together with mistakes inside the entries themselves."""
        errors: list[Any] = []
        methods: dict[str, MethodConfig | None] = {}
        if isinstance(content, dict):
            content, errors = expanded_methods(content)
        try:
            methods = check(content)
        except ValidationError as error:
            errors += [{key: item[key] for key in ("type", "loc", "input", "ctx") if key in item}
                       for item in error.errors()]
        wrong = {item["loc"][0] for item in errors if item["loc"]}
        for name in content if isinstance(content, dict) else ():
            chosen = (None if name in wrong else methods[name] if methods
                      else MethodConfig.model_validate(content[name] or {}))
            errors += [{"type": "value_error", "loc": (name, *place), "input": None, "ctx": {"error": problem}}
                       for place, problem in method_problems(name, chosen)]
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return methods

    @field_validator("search")
    @classmethod
    def _of_the_optimizer(cls, search: Search, info: ValidationInfo) -> Search:
        unlearning = info.data.get("unlearning")
        return search if unlearning is None else search.fitting(unlearning.optimizer)

    @field_validator("held_out")
    @classmethod
    def _within(cls, held_out: HeldOut, info: ValidationInfo) -> HeldOut:
        originals, forget = info.data.get("originals"), info.data.get("forget")
        if forget is not None and forget.folds is not None and held_out.sets >= forget.folds:
            raise ValueError(f"sets ({held_out.sets}) must be less than forget.folds ({forget.folds}): one fold counts "
                             "at least")
        if originals is not None and held_out.originals > originals.count:
            raise ValueError(f"originals ({held_out.originals}) must not exceed originals.count ({originals.count})")
        return held_out

    @field_validator("final")
    @classmethod
    def _reference(cls, final: Final, info: ValidationInfo) -> Final:
        methods = info.data.get("methods")
        if methods is None:
            return final
        for key, name in (("reference", final.reference), *(("compared", name) for name in final.compared or ())):
            if name is not None and name not in methods:
                raise ValueError(f"{key} ({name}) must be one of the methods: {', '.join(methods)}")
        if final.compared is not None:
            reference = final.reference or "amun"
            if reference not in methods:
                raise ValueError("compared needs a method to compare with, and amun is not among the methods: set "
                                 "reference")
            if not set(final.compared) - {reference}:
                raise ValueError("compared must name at least one method other than the reference")
        return final

    @property
    def reference(self) -> str | None:
        """The method that others are tested against: the config's, or `amun` if it is among them."""
        return self.final.reference or ("amun" if "amun" in self.methods else None)

    def inputs(self, **options: Any) -> dict[str, Any]:
        """The settings as digests use them: `model_dump` without later settings that keep the earlier behaviour."""
        return without_later(self.model_dump(**options))

    @property
    def own_names(self) -> list[str]:
        """The user's own code that workers import, as `package.module:NAME`; only the driver reads a dataset."""
        names = [self.model.name, self.attack.search.name, *self.methods]
        return sorted({name for name in names if models.is_own(name)})

    @property
    def contenders(self) -> list[Contender]:
        """Every (method, access) of the sweep, in the order of the file."""
        return [Contender(name, access) for name, method in self.methods.items()
                for access in (method and method.access) or accesses(name)]

    @model_validator(mode="after")
    def _countable(self) -> "Sweep":
        held_out, originals, folds = self.held_out, self.originals.count, self.forget.folds
        sets = ("forget.sets", self.forget.sets) if folds is None else ("final folds", folds - held_out.sets)
        for factors, product in (("held_out.sets x held_out.originals", held_out.sets * held_out.originals),
                                 (f"originals.count x {sets[0]} x final.runs",
                                  originals * sets[1] * self.final.runs)):
            if product > MOST:
                raise ValueError(f"{factors} must be at most {MOST:,}, but is {product:,}")
        return self

    @model_validator(mode="after")
    def _studied(self) -> "Sweep":
        if self.study is not None and (problem := study_problem(self.study, self.methods)) is not None:
            raise ValueError(f"study: {problem}")
        return self

    @model_validator(mode="after")
    def _trained_together(self) -> "Sweep":
        if self.training.loss != "trades":
            return self
        if self.resources.together > 1:
            raise ValueError("resources.gpus: must be at most 1 with training.loss trades, whose attack one worker "
                             f"computes, but got {self.resources.gpus:g}")
        if self.resources.widen:
            raise ValueError("resources.widen: must be left out with training.loss trades, whose attack one worker "
                             "computes")
        return self

    @model_validator(mode="after")
    def _rates_of_the_optimizer(self) -> "Sweep":
        errors: list[Any] = []
        for contender in self.contenders:
            if (lr := self.chosen(contender.method).lr) is None:
                continue
            try:
                lr.of(contender.access).fitting(self.unlearning.optimizer)
            except ValueError as error:
                place = ("lr", "forget_only") if lr.of(contender.access) is not lr else ()
                errors.append({"type": "value_error", "loc": ("methods", contender.method, *place), "input": None,
                               "ctx": {"error": error}})
        if errors:
            raise ValidationError.from_exception_data(type(self).__name__, errors)
        return self

    @model_validator(mode="after")
    def _points_inside(self) -> "Sweep":
        errors: list[Any]
        errors = [{"type": "value_error", "loc": place, "input": None, "ctx": {"error": problem}}
                  for contender in self.contenders
                  for place, problem in self.search.point_problems(
                      contender.method, self.space(contender), self.chosen(contender.method).points,
                      self.chosen(contender.method).search)]
        if errors:
            unique = {(error["loc"], error["ctx"]["error"]): error for error in errors}
            raise ValidationError.from_exception_data(type(self).__name__, list(unique.values()))
        return self

    def chosen(self, name: str) -> MethodConfig:
        """What the file says about the method `name`."""
        return self.methods[name] or MethodConfig()

    def space(self, contender: Contender) -> Space:
        """The search space of a contender: only settings that it has, and of its own only those named."""
        counting = find(contender.method).settings_in(contender.access)
        chosen = self.chosen(contender.method)
        return self.search.space({key: counting[key].axis for key in chosen.search if key in counting},
                                 chosen.lr and chosen.lr.of(contender.access).fitting(self.unlearning.optimizer))

    def method_settings(self, contender: Contender) -> dict[str, float]:
        """The method's own settings in the file that have an effect with this access."""
        counting = find(contender.method).settings_in(contender.access)
        return {key: value for key, value in self.chosen(contender.method).settings.items() if key in counting}
