"""The functions of the public face: a sweep, and the steps of the paper one by one, on rows of a dataset.

Everything runs in this process, on a GPU where there is one; only `run` starts Ray. The sweep uses the same functions
below. Rows are those of `Dataset`: training rows first. A mistake in an argument raises UserError. So does a name of
code, `package.module:NAME`, in a config or in a call, unless `allow_code` has named its module.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from amun_ray import attacks, metrics, models
from amun_ray.attacks import AdversarialRows, AttackSettings
from amun_ray.base.files import expanded
from amun_ray.base.names import allow as allow_code
from amun_ray.base.seeds import derive, generator
from amun_ray.base.tensors import shared_tensor
from amun_ray.config.file import load as load_config
from amun_ray.config.schema import Sweep
from amun_ray.data import load as load_data
from amun_ray.data.dataset import Dataset
from amun_ray.data.splits import check_rows, reference_halves
from amun_ray.plots import confidence_histograms, png
from amun_ray.training.augment import Augmentation
from amun_ray.training.loop import fit
from amun_ray.training.parts import place
from amun_ray.training.recipe import RECIPES, Recipe
from amun_ray.unlearn import unlearned as unlearn

if TYPE_CHECKING:
    from amun_ray.tracking import load_model

__all__ = ["allow_code", "craft", "load_config", "load_data", "load_model", "plot_confidence", "reference_confidence",
           "run", "score", "train", "unlearn"]


def __getattr__(name: str) -> Any:
    if name != "load_model":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from amun_ray.tracking import load_model  # seconds of MLflow

    return load_model


def run(config: Sweep | str | Path = "default", output: str | Path | None = None,
        overrides: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A whole sweep, as the command runs it; `pandas.DataFrame(run(...))` is its table.

    Args:
        config: what `load_config` returns, a name in tune_configs/, or the path of a YAML file.
        output: the folder of results; `amun_output/NAME` if not given. The same call again repeats nothing.
        overrides: as `--set`, e.g. `["search.trials=12"]`; with a name or a path only.

    Returns:
        A flat dict for each row of the table, `retrain` and `original` first. `method`, `access`, `lr`, `schedule`,
        `epochs`; `setting_NAME` of a searched setting; for every score in percent `NAME_mean`, `NAME_std`, `NAME_n`,
        and the ends of the 95 % interval of its mean, `NAME_low` and `NAME_high`; `mlflow_run_ids`. A value that a row
        does not have is None. `results.json` has the same values, nested.

    Raises:
        UserError: a mistake in the config, the data or the output folder.
    """
    from amun_ray import sweep

    if isinstance(config, Sweep):
        if overrides:
            raise ValueError("overrides belong to a config by name or path; change the Sweep itself")
        chosen = config
    else:
        chosen = load_config(str(config), list(overrides))
    rows = sweep.run(chosen, Path(expanded(str(output or Path("amun_output", chosen.name)))))
    flat = [_flat(row) for row in rows]
    return [{key: row.get(key) for key in dict.fromkeys(key for each in flat for key in each)} for row in flat]


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of results.json without nesting."""
    flat: dict[str, Any] = {key: row[key] for key in ("method", "access", "lr", "schedule", "epochs")}
    flat |= {f"setting_{key}": value for key, value in row["settings"].items()}
    scores = {key: value for key, value in row.items() if isinstance(value, dict) and "mean" in value}
    for term, summary in (scores | row["attacks"]).items():
        flat |= {f"{term}_{key}": value for key, value in summary.items()}
        flat |= {f"{term}_{key}": value for key, value in row["intervals"].get(term, {}).items()}
    return flat | {"mlflow_run_ids": row["mlflow_run_ids"]}


def train(data: Dataset, model: str = "small_cnn", *, forget: Collection[int] = (), seed: int = 0,
          options: Mapping[str, Any] | None = None, augmentation: Augmentation | None = None,
          **recipe: Any) -> nn.Module:
    """A model trained from scratch on all training rows except `forget`: an original, or a retrained model.

    Args:
        model: a row of MODELS, or `package.module:NAME`; `options` are its constructor's.
        forget: training rows that the model must not see.
        recipe: fields of `training.recipe.Recipe`, over those of the recipe `fast`: `epochs=30, lr=0.1`.

    Returns:
        The model in eval mode: (N, C, H, W) float32 in [0, 1] -> logits (N, classes).
    """
    rows = np.setdiff1d(data.train_rows, check_rows(forget, data.train_size)) if len(forget) else data.train_rows
    return _trained(_network(data, model, seed, options), data, rows, seed, augmentation, recipe)


def reference_confidence(data: Dataset, model: str = "small_cnn", *, count: int = 8, seed: int = 0,
                         options: Mapping[str, Any] | None = None, augmentation: Augmentation | None = None,
                         **recipe: Any) -> np.ndarray:
    """Mean confidence (N,) of `count` reference models, each trained on half of all N samples: what RMIA divides by.

    Arguments as in `train`; `count` is even, at least 4.
    """
    halves = reference_halves(len(data), count, seed)
    logits = []
    for half, own in zip(halves, (derive(seed, "reference", number) for number in range(count)), strict=True):
        network = _network(data, model, own, options)
        logits.append(_logits(_trained(network, data, np.flatnonzero(half), own, augmentation, recipe), data))
    return metrics.reference_mean(logits, data.labels, members=halves)


def craft(model: nn.Module, data: Dataset, forget: Collection[int], *, attack: str = "nearest",
          **settings: Any) -> AdversarialRows:
    """The adversarial set of the rows `forget`: for each the nearest image found that `model` takes for another class.

    Args:
        attack: a row of ATTACKS; `settings` are fields of `AttackSettings`.

    Returns:
        Rows verified on `model`, in the order of `forget`; `kept` says which have an adversarial image.
    """
    rows = check_rows(forget, data.train_size)
    device = next(model.parameters()).device
    images = torch.from_numpy(data.pixels[rows]).to(device).float() / 255
    return attacks.craft(model, images, torch.from_numpy(data.labels[rows]).to(device), indices=rows,
                         settings=AttackSettings(name=attack, **settings))


def score(model: nn.Module, data: Dataset, forget: Collection[int], reference: np.ndarray) -> dict[str, float]:
    """Accuracies and RMIA AUCs of a model in percent, see `metrics.score`; `reference`: from `reference_confidence`.

    A good unlearned model has those of the retrained one; `metrics.average_gap` is the distance.
    """
    split = metrics.Split.of(check_rows(forget, data.train_size), labels=data.labels, train_size=data.train_size)
    return metrics.score(_logits(model, data), data.labels, split, reference)


class Picture(bytes):
    """A PNG file, which a notebook shows and `Path.write_bytes` writes."""

    def _repr_png_(self) -> bytes:
        return bytes(self)


def plot_confidence(by_title: Mapping[str, nn.Module], data: Dataset, forget: Collection[int]) -> Picture:
    """How sure each model is of retained, forgotten and unseen images, a panel for each title."""
    split = metrics.Split.of(check_rows(forget, data.train_size), labels=data.labels, train_size=data.train_size)
    values = {title: metrics.logit_scaled(_logits(model, data), data.labels) for title, model in by_title.items()}
    parts = {"retain": split.retain, "forget": split.forget, "test": split.unseen}
    return Picture(png(confidence_histograms({title: {name: each[rows] for name, rows in parts.items()}
                                              for title, each in values.items()})))


def _network(data: Dataset, model: str, seed: int, options: Mapping[str, Any] | None) -> nn.Module:
    mean, std = data.statistics
    return models.build(model, channels=data.channels, classes=data.classes, size=data.size, mean=mean, std=std,
                        seed=seed, options=options)


def _trained(network: nn.Module, data: Dataset, rows: np.ndarray, seed: int, augmentation: Augmentation | None,
             recipe: Mapping[str, Any]) -> nn.Module:
    """`network`, trained on `rows` of `data`, in eval mode."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)
    part = place(data.pixels[rows], data.labels[rows], augment=True, device=device)
    for _ in fit(network, [part], recipe=Recipe(**{**vars(RECIPES["fast"]), **recipe}),
                 augmentation=augmentation or Augmentation(), generator=generator(seed, "order")):
        pass
    return network.eval()


def _logits(model: nn.Module, data: Dataset) -> np.ndarray:
    """(N, classes) float32 of every sample."""
    return metrics.predict(model, shared_tensor(data.pixels)).numpy()
