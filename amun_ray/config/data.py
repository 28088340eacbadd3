"""The section `data` of a config."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from amun_ray import data
from amun_ray.base.names import lookup
from amun_ray.config.fields import Files, Fraction, Natural, Normalization, ShareRange, Strict, Uri
from amun_ray.data.labels import MOST_CLASSES
from amun_ray.training.augment import Augmentation


class Data(Strict):
    """Which images: a row of DATASETS, its own settings, and the augmentation of training images."""

    name: str
    """Which dataset: a name of the table of datasets, or one of your own."""
    train: Files | None = None
    """The training images: parquet files, pattern or URI; a folder of folders of classes; or the name of a split."""
    test: Files | None = None
    """The test images, as for `train`; huggingface takes `test`, or else `validation`, if not given."""
    path: Uri | None = None
    """huggingface only: a folder written by `save_to_disk`, or one of parquet files named by split."""
    test_share: Fraction | None = None
    """folder only: without `test`, this random share of the training pictures is for testing; 0.2 if not given."""
    resize: PositiveInt | None = None
    """folder, parquet and huggingface: scale each picture so that its shorter side has this many pixels."""
    center_crop: PositiveInt | None = None
    """folder, parquet and huggingface: crop the centre of each picture to this width and height, in pixels."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """folder, parquet and huggingface: the filter of `resize`, always antialiased; bilinear if not given."""
    on_error: Literal["stop", "skip"] | None = None
    """folder, parquet and huggingface: whether pictures that cannot be decoded `stop` the sweep or are left out."""
    root: Uri | None = None
    """cifar10 and cifar100: the folder to download to."""
    image_column: str | None = None
    """parquet and huggingface: the column of whole image files; found by its type if not given."""
    label_column: str | None = None
    """parquet and huggingface: the column of class numbers or names; that of the feature ClassLabel if not given."""
    train_size: PositiveInt | None = None
    """Use a random subset of the training images of this size."""
    test_size: PositiveInt | None = None
    """Use a random subset of the test images of this size."""
    classes: Annotated[int, Field(gt=0, le=MOST_CLASSES)] | None = None
    """parquet and huggingface: the number of classes; if not given, the number of class names or of labels."""
    seed: int | None = None
    """The seed of the random subsets."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further keyword arguments of a dataset of your own."""
    crop: Natural = 0
    """Augmentation in training: random crop after padding by this many pixels."""
    flip: bool = False
    """Augmentation in training: mirror half of the images."""
    random_resized_crop: ShareRange | None = None
    """Augmentation in training: a random box with such a share of the area, e.g. `[0.3, 1]`, resized to the image."""
    normalize: Normalization | None = None
    """How models normalise pixels; if not given, as loaded weights of timm or Hugging Face require, else `dataset`."""

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        lookup(data.DATASETS, name, "dataset")
        return name

    @model_validator(mode="after")
    def _fitting(self) -> "Data":
        data.check(self.name, **self.settings)
        if self.crop and self.random_resized_crop:
            raise ValueError("crop and random_resized_crop both cut; give one of them")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of the dataset's own function."""
        return self.model_dump(exclude={"name", "crop", "flip", "random_resized_crop", "normalize", "options"},
                               exclude_none=True) | self.options

    @property
    def augmentation(self) -> Augmentation:
        return Augmentation(self.crop, self.flip, self.random_resized_crop)
