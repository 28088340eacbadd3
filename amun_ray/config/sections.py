"""The plain sections of a config, which can be checked without data, network or methods."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveInt, field_validator, model_validator

from amun_ray.attacks import AttackSettings
from amun_ray.config.fields import LEAST_SHARE, MOST, Count, Fraction, Named, Searched, Share, Strict, Uri, ValuesOrFile
from amun_ray.config.readings import reading

WAYS = ("fraction", "folds", "indices", "classes", "column", "pattern", "files")  # of which a config has one


class Forget(Strict):
    """What is forgotten, said in one way: random sets, folds of the training set, or a request."""

    fraction: Fraction | None = None
    """Forget sets of this share of the training images, at most 0.5."""
    sets: Annotated[int, Field(gt=0, le=1000)] = 1
    """How many sets of `fraction` count."""
    choose: Literal["random", "hardest", "easiest"] = "random"
    """Which images of `fraction`: `hardest` or `easiest` to forget are those most or least memorised by references."""
    folds: Annotated[int, Field(ge=2, le=1000)] | None = None
    """Forget each of so many random parts that together are the training set, but those that the search takes."""
    indices: Uri | None = None
    """Forget the rows of the training files that this csv, text, parquet or .npy file lists."""
    classes: Named | None = None
    """Forget all training images of these classes, by name or by number."""
    column: str | None = None
    """Forget the rows of the training files whose cell in this further column is one of `values`."""
    values: ValuesOrFile | None = None
    """The values of `column`, in its own type; or a text file that lists them, one a line."""
    pattern: str | None = None
    """Forget the training images whose files match: `person_17/*`; `**` stands for folders at any depth."""
    files: Uri | None = None
    """Forget the training images whose paths, relative to the data folder, this text file lists."""

    @field_validator("fraction")
    @classmethod
    def _leaving_room(cls, fraction: float | None) -> float | None:
        if fraction is not None and fraction > 0.5:
            raise ValueError(f"must be at most 0.5, or every held-out forget set of that size overlaps the final ones, "
                             f"but got {fraction:g}")
        return fraction

    @model_validator(mode="after")
    def _one_way(self) -> "Forget":
        given = [way for way in WAYS if getattr(self, way) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(WAYS)}, but got {' and '.join(given) or 'none of them'}"
                             + ("; --set 'forget={...}' takes the place of the whole section" if given else ""))
        if (self.column is None) != (self.values is None):
            raise ValueError("column and values belong together, but got "
                             + ("column" if self.values is None else "values") + " alone")
        if self.folds is not None and self.sets != 1:
            raise ValueError(f"every fold counts that held_out.sets leaves: sets must not be given, but is {self.sets}")
        if self.fraction is None and self.sets != 1:
            raise ValueError(f"{given[0]} names one forget set, but sets is {self.sets}")
        if self.fraction is None and self.choose != "random":
            raise ValueError(f"{given[0]} says which images are forgotten; choose ({self.choose}) is for fraction")
        return self


class HeldOut(Strict):
    """The forget sets of the search; `originals`: on how many of the originals it searches."""

    sets: Annotated[int, Field(gt=0, le=1000)] = 1
    """How many forget sets, drawn or chosen as the final ones, judge a trial; with `forget.folds`, how many folds."""
    originals: Count = 1
    """Number of originals on which the search runs."""


class References(Strict):
    """The RMIA reference models, each trained on half of all samples; every sample is in and out of at least two."""

    count: Annotated[int, Field(ge=4, le=MOST, multiple_of=2)] = 8
    """Number of RMIA reference models; more make the attack stronger."""
    epochs: Count | None = None
    """Epochs for which each is trained; those of `training` if not given."""


class AttackConfig(Strict):
    """How adversarial sets are built, in pieces of `shard_size` samples."""

    search: Annotated[AttackSettings, BeforeValidator(reading("attack.search"))] = AttackSettings()
    """Which attack finds adversarial images, and how."""
    shard_size: PositiveInt = 256
    """Samples per piece of work; it does not change the result."""


class Unlearning(Strict):
    """Settings shared by all unlearning runs; learning rate, schedule and epochs are searched."""

    batch_size: Annotated[int, Field(ge=2, le=1_000_000)] = 128
    """Samples per step; one sample has no batch statistics."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """The optimiser; it also decides the range of learning rates if `search.lr` is not given."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """Weight decay."""
    clip: Annotated[float, Field(ge=0)] = 0.0
    """Largest norm of the gradient over all weights; 0 means no limit."""
    precision: Literal["float32", "bfloat16", "auto"] = "auto"
    """Arithmetic of the passes; `auto` is bfloat16 on a GPU that has it, float32 on a CPU."""


class Final(Strict):
    """How often the best settings are applied to each original and forget set, and how the results are judged."""

    runs: Count = 3
    """Runs of each method on each original and final forget set, with different seeds."""
    reference: str | None = None
    """The method that all others are tested against, with the same access; `amun` if not given."""
    compared: Searched | None = None
    """The methods that are tested against it, all if not given; with fewer tests fewer cases suffice."""


class Resources(Strict):
    """The resources of one worker. Without a GPU in the cluster, `gpus` is ignored unless the user wrote a number. With
    `auto` several workers share a GPU where there is more work than GPUs: as many as its memory holds and as end the
    work earliest, by the measured time of a step side by side. Above 1, so many workers with a GPU each train one model
    together; all other work takes one GPU. With `widen` the number is found for each training, on the first start's
    cluster, and kept. Workers that share a GPU take turns on it, unless NVIDIA's MPS runs on the node."""

    gpus: Share = 1.0
    """GPUs, or a share of one, for a worker; `auto` measures how many share one; 2 or more train a model together."""
    widen: bool = False
    """Whether the first trainings get several GPUs each, where all end earlier so by the measured time of a step."""
    cpus: Annotated[float, Field(ge=LEAST_SHARE)] = 1.0
    """CPU cores for a worker."""
    threads: Annotated[int, Field(gt=0, le=1024)] = 1
    """Compute threads of a worker."""

    @model_validator(mode="after")
    def _widened(self) -> "Resources":
        if self.widen and self.gpus not in (1, "auto"):
            raise ValueError(f"widen finds how many GPUs train a model: gpus must be 1 or auto, but got {self.gpus:g}")
        return self

    @property
    def whole_gpus(self) -> float:
        """The GPUs of a worker before any measurement."""
        return 1.0 if self.gpus == "auto" else min(self.gpus, 1.0)

    @property
    def together(self) -> int:
        """How many workers train one model."""
        return 1 if self.gpus == "auto" else max(1, int(self.gpus))

    @property
    def needs_gpu(self) -> bool:
        """Whether the user asked for a share of a GPU, so that a GPU is required."""
        return "gpus" in self.model_fields_set and self.gpus not in ("auto", 0)


class Tracking(Strict):
    """Where MLflow is, and which unlearned models are logged with weights."""

    uri: Uri | None = None
    """The MLflow server; a database in the output folder if not given."""
    experiment: str | None = None
    """The MLflow experiment; the name of the sweep if not given."""
    models: Literal["all", "final"] = "all"
    """Whether MLflow gets the weights of `all` unlearned models or only of the `final` ones."""
