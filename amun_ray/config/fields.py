"""The kinds of value in a config beyond plain numbers and texts, each with its rule in words."""

import math
import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from amun_ray.base.addresses import without_credentials

MLFLOW = ("runs:/", "models:/", "mlflow-artifacts:/")
FOLDER = "huggingface:"  # optional prefix of a folder of weights
LEAST_SHARE = 1e-4  # of a core or a GPU: Ray's unit
MOST = 10_000  # pieces of work of one kind; all are counted and named before any starts


class Strict(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def text(pattern: str, rule: str) -> AfterValidator:
    """A check that a text has the form `pattern`; `rule` says so in words."""
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{rule}, but got {value!r}")
        return value
    return AfterValidator(check)


def not_empty(value: Collection[Any]) -> Collection[Any]:
    if not value:
        raise ValueError("at least one is needed, but it is empty")
    return value


def distinct(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(value)) < len(value):
        raise ValueError(f"each may be given once, but got {', '.join(map(str, value))}")
    return value


def listed(value: Any) -> Any:
    """A list as a tuple, since strict checks of Python objects refuse a list."""
    return tuple(value) if isinstance(value, list) else value


def is_mlflow(source: str) -> bool:
    """Whether `source` is an address for an MLflow server, not a path."""
    return source.startswith(MLFLOW)


def path_or_mlflow(source: str) -> str:
    if re.match(r"[A-Za-z][\w+.-]+:/", source.removeprefix(FOLDER)) and not is_mlflow(source):
        raise ValueError(f"must be a path or an MLflow address ({', '.join(MLFLOW)}), but got {source!r}")
    return source


def share(value: Any) -> float | str:
    """A number of GPUs, a share of one, or `auto`; a union of types would report each type as a separate mistake."""
    if value == "auto":
        return "auto"
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value > 1 and value % 1:
            raise ValueError(f"must be a whole number if it is above 1, but got {value!r}")
        if value == 0 or value >= LEAST_SHARE:
            return float(value)
    raise ValueError(f"must be 0, a number of at least {LEAST_SHARE:g}, or auto, but got {value!r}")


def width(value: Any) -> int | str:
    """A whole number above 0, or `auto`; as for `share`, a union would report a mistake twice."""
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ValueError(f"must be a whole number above 0, or auto, but got {value!r}")


def files(value: Any) -> str | tuple[str, ...]:
    """A path, a URI or a pattern, or several; as for `share`, a union would report a mistake twice."""
    paths = value if isinstance(value, list | tuple) else [value]
    if not paths or not all(isinstance(path, str) and path for path in paths):
        raise ValueError(f"must be a path or a list of paths, but got {value!r}")
    for path in paths:
        without_credentials(path)
    return value if isinstance(value, str) else tuple(value)


def named(value: Any) -> tuple[str | int, ...]:
    """Names and numbers; as for `share`, a union would report a mistake twice."""
    if not isinstance(value, list | tuple) or not value or not all(type(item) in (str, int) for item in value):
        raise ValueError(f"must be a list of names and numbers, but got {value!r}")
    return tuple(value)


def values_or_file(value: Any) -> str | tuple[str | int | bool, ...]:
    """Values of a column, or the file that lists them; as for `share`, a union would report a mistake twice."""
    if isinstance(value, str) and value:
        return without_credentials(value)
    if not isinstance(value, list | tuple) or not value or not all(type(item) in (str, int, bool) for item in value):
        raise ValueError(f"must be a list of texts, integers or truth values, or the file that lists them, but got "
                         f"{value!r}")
    return tuple(value)


def share_range(value: Any) -> tuple[float, float]:
    """Two shares, the lesser first; as for `share`, a union would report a mistake twice."""
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(
            isinstance(end, int | float) and not isinstance(end, bool) for end in value) or not (
            0 < value[0] <= value[1] <= 1):
        raise ValueError(f"must be two numbers, 0 < low <= high <= 1, but got {value!r}")
    return float(value[0]), float(value[1])


def ratio(value: Any) -> float:
    """A number above 0, also as a fraction; as for `share`, a union would report a mistake twice."""
    parts = re.fullmatch(r"\s*(\d+\.?\d*)\s*/\s*(\d+\.?\d*)\s*", value) if isinstance(value, str) else None
    if parts and float(parts[2]):
        value = float(parts[1]) / float(parts[2])
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"must be a number above 0, or a fraction such as 8/255, but got {value!r}")
    return float(value)


class Statistics(Strict):
    """Mean and standard deviation of pixels in [0, 1], a number per channel."""

    mean: tuple[float, ...]
    """Subtracted from each channel."""
    std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]
    """Divides each channel afterwards."""


def normalization(value: Any) -> str | dict[str, tuple[float, ...]]:
    """One of the names, or both statistics; as for `share`, a union would report a mistake four times."""
    def numbers(value: Any) -> bool:
        return isinstance(value, list | tuple) and all(
            isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in value)

    if value in ("dataset", "imagenet", "none"):
        return value
    if not isinstance(value, dict) or value.keys() != {"mean", "std"} or not all(map(numbers, value.values())):
        raise ValueError(f"must be dataset, imagenet, none or {{mean: [...], std: [...]}}, but got {value!r}")
    mean, std = value["mean"], value["std"]
    if len(mean) != len(std) or not std or min(std) <= 0:
        raise ValueError(f"must have one mean and one std above 0 per channel, but got {value!r}")
    return {"mean": tuple(mean), "std": tuple(std)}


Access = Literal["retain", "forget_only"]
Normalization = Annotated[Any, PlainValidator(
    normalization, json_schema_input_type=Literal["dataset", "imagenet", "none"] | Statistics)]
Source = Annotated[str, AfterValidator(without_credentials), AfterValidator(path_or_mlflow)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Schedule = Annotated[str, text(r"never|every_[1-9]\d*", "must be never or every_N (times 0.1 every N epochs)")]
Name = Annotated[str, text(r"[A-Za-z0-9][A-Za-z0-9_.-]*", "must be of letters, digits, _, . and -")]
Share = Annotated[float | Literal["auto"],
                  PlainValidator(share, json_schema_input_type=Annotated[float, Field(ge=0)] | Literal["auto"])]
Width = Annotated[int | Literal["auto"],
                  PlainValidator(width, json_schema_input_type=Annotated[int, Field(gt=0)] | Literal["auto"])]
Ratio = Annotated[float, PlainValidator(ratio, json_schema_input_type=Annotated[float, Field(gt=0)] | str)]
Files = Annotated[Any, PlainValidator(files, json_schema_input_type=str | tuple[str, ...])]
Named = Annotated[Any, PlainValidator(named, json_schema_input_type=tuple[str | int, ...])]
ShareRange = Annotated[Any, PlainValidator(share_range, json_schema_input_type=Annotated[
    tuple[float, ...], Field(min_length=2, max_length=2)])]
ValuesOrFile = Annotated[Any, PlainValidator(values_or_file,
                                             json_schema_input_type=str | tuple[str | int | bool, ...])]
Natural = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(gt=0, le=MOST)]
Accesses = Annotated[tuple[Access, ...], BeforeValidator(listed), AfterValidator(not_empty), AfterValidator(distinct)]
Schedules = Annotated[tuple[Schedule, ...], AfterValidator(not_empty), AfterValidator(distinct)]
Searched = Annotated[tuple[str, ...], BeforeValidator(listed), AfterValidator(distinct)]
Uri = Annotated[str, Field(min_length=1), AfterValidator(without_credentials)]  # every address and path of a config
