"""The ways in which a config says what is to be forgotten."""

from pydantic import PositiveInt, field_validator, model_validator

from amun_ray.config.fields import Fraction, Named, Strict, ValuesOrFile

WAYS = ("fraction", "indices", "classes", "column", "pattern", "files")


class Forget(Strict):
    """What is forgotten, said in one way: random sets of a fraction of the training set, or a request."""

    fraction: Fraction | None = None
    """Forget random sets of this share of the training images, at most 0.5."""
    sets: PositiveInt = 1
    """How many random sets."""
    indices: str | None = None
    """Forget the rows of the training files that this csv, text, parquet or .npy file lists."""
    classes: Named | None = None
    """Forget all training images of these classes, by name or by number."""
    column: str | None = None
    """Forget the rows of the training files whose cell in this further parquet column is one of `values`."""
    values: ValuesOrFile | None = None
    """The values of `column`, in its own type; or a text file that lists them, one a line."""
    pattern: str | None = None
    """Forget the training images whose files match: `person_17/*`; `**` stands for folders at any depth."""
    files: str | None = None
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
        if self.fraction is None and self.sets != 1:
            raise ValueError(f"{given[0]} names one forget set, but sets is {self.sets}")
        return self
