"""An unlearned model as files: its architecture and weights, and what turns them into an MLflow model.

`model.json` and `weights.safetensors` are the model: read as data and built by this package, they give the same
predictions bit for bit. `model.json` holds the sha256 of the weights, so that no others can take their place. The
MLflow model is these two files with a signature and an example. MLflow opens it through this module, so there is no
pickle and no tracing, and a user's own network is logged like any other: by its name, `package.module:NAME`. Anyone who
can write to the registry can put another name there, so code named in a `model.json` is imported only if the loading
program allows it. Loading needs amun_ray installed; `requirements.txt` does not list it, since no package index has it.
"""

import hashlib
import importlib.metadata
import json
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import nn

from amun_ray import models
from amun_ray.base.errors import UserError
from amun_ray.base.names import ALLOWED, allowing, is_allowed
from amun_ray.metrics import predict
from amun_ray.models import checkpoint
from amun_ray.tracking.contact import downloaded
from amun_ray.tracking.event import Content, read_files

MODEL, WEIGHTS, CHECKSUMS, CLASS_NAMES = "model.json", "weights.safetensors", "sha256", "class_names"
NEEDED = ("torch", "numpy", "safetensors", "mlflow")
NETWORKS = ("torchvision", "timm", "transformers")  # needed by networks whose names begin with it
DESCRIPTION = {"name": str, "options": dict, "channels": int, "classes": int, "size": int, "mean": list, "std": list}


def model_files(description: Mapping[str, Any], weights: Mapping[str, Content]) -> dict[str, Content]:
    """The artifacts of unlearned models: the network's description, and the weights of each by file name."""
    return {f"model/{name}": content for name, content in {MODEL: _text(description, weights), **weights}.items()}


def saved_model(description: Mapping[str, Any], weights: Content, shape: tuple[int, int, int]) -> dict[str, Content]:
    """The folder of an MLflow model.

    Args:
        description: the arguments of `models.build` but for the seed, and `class_names`, where classes have any.
        weights: a safetensors file.
        shape: (C, H, W) of an image.
    """
    files: dict[str, Content] = {WEIGHTS: weights}
    needed = (*NEEDED, *(library for library in NETWORKS if description["name"].startswith(f"{library}:")))
    names = tuple(description.get(CLASS_NAMES, ()))
    return _around(shape, description["classes"], names, needed) | {MODEL: _text(description, files)} | files


def _text(description: Mapping[str, Any], weights: Mapping[str, Content]) -> bytes:
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in weights.items()}
    return json.dumps({**description, CHECKSUMS: sums}, indent=1).encode()


@cache
def _around(shape: tuple[int, int, int], classes: int, names: tuple[str, ...],
            needed: tuple[str, ...]) -> dict[str, bytes]:
    """The files that all models of a sweep share. The example is uniform grey, so that it reveals no sample."""
    signature = ModelSignature(Schema([TensorSpec(np.dtype(np.float32), (-1, *shape))]),
                               Schema([TensorSpec(np.dtype(np.float32), (-1, classes))]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model")
        mlflow.pyfunc.save_model(
            path, loader_module=__name__, signature=signature, input_example=np.full((1, *shape), 0.5, np.float32),
            metadata={CLASS_NAMES: list(names)} if names else None,
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in needed])
        return read_files(path)


class Served:
    """The object that MLflow returns as the model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def get_raw_model(self) -> nn.Module:
        """What MLflow's `PyFuncModel.get_raw_model` returns: the module, with `class_names`, as `load_model` does."""
        return self.model

    def predict(self, images: np.ndarray, params: object = None) -> np.ndarray:
        """`images` (N, C, H, W) float32 in [0, 1] -> logits (N, classes) float32; there are no `params`."""
        return predict(self.model, torch.from_numpy(np.ascontiguousarray(images))).numpy()


def _load_pyfunc(path: str) -> Served:
    """Called by MLflow, by this name, to load a model. Only the environment can allow code here: MLflow's
    `model_config` may come from the very files that are loaded."""
    return Served(_read(Path(path), WEIGHTS, path))


def load_model(source: str, *, uri: str | None = None, weights: str = WEIGHTS, own: Iterable[str] = ()) -> nn.Module:
    """An unlearned model from MLflow, in eval mode: (N, C, H, W) float32 in [0, 1] -> logits.

    Its attribute `class_names` says what each logit stands for; it is empty where classes have numbers alone.

    Args:
        source: the id of a trial or final run of a sweep, or a registered model, `models:/NAME@best`.
        uri: the tracking URI; MLflow's default if None.
        weights: a trial has one file per held-out case: `weights-0.safetensors`, `weights-1.safetensors`, ...
        own: code that the model may name besides this package's networks: `package.module:NAME`, or `package.module`
            for everything in the module. AMUN_ALLOW_CODE in the environment has the same effect.

    Raises:
        UserError: MLflow does not answer, there is no such model, its files are damaged or not those that were logged,
            or it names code that `own` does not allow.
    """
    address = source if source.startswith("models:/") else f"runs:/{source}/model"
    with downloaded(address, uri or mlflow.get_tracking_uri()) as folder:
        missing = [name for name in (MODEL, weights) if not (folder / name).is_file()]
        if missing:
            raise UserError(f"{address}: no {' and no '.join(missing)} there, but {', '.join(read_files(folder))}")
        with allowing(own):
            return _read(folder, weights, address)


def _read(folder: Path, weights: str, source: str) -> nn.Module:
    """The model in a folder, called `source` in messages; one logged without checksums is checked by the digest inside
    its weights."""
    description, sums = _description(folder / MODEL, source)
    name = f"{source}: {weights}"
    with open(folder / weights, "rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if (wanted := sums.get(weights, actual)) != actual:
        raise UserError(f"{name}: damaged, or of another model: its sha256 is {actual[:12]}, but {MODEL} says "
                        f"{wanted[:12]}; delete the run, and the sweep's command logs it again from the store")
    names = tuple(description.pop(CLASS_NAMES, ()))
    model = models.build(seed=0, **description)
    checkpoint.load_into(model, folder / weights, name)
    vars(model)[CLASS_NAMES] = names
    return model.eval()


def _description(path: Path, source: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The arguments of `models.build`, of the types that it takes, with `class_names` where there are any; and the
    sha256 of each weights file.

    UserError for anything else, and for code that is not allowed.
    """
    sums: Any = {}
    try:
        content = json.loads(path.read_text())
        sums = content.pop(CHECKSUMS, {})
        names = content.get(CLASS_NAMES, [])
        fits = content.keys() - {CLASS_NAMES} == DESCRIPTION.keys() and isinstance(names, list)
        fits = fits and all(isinstance(content[key], kind) for key, kind in DESCRIPTION.items())
        fits = fits and all(isinstance(text, str) for text in names) and len(names) in (0, content["classes"])
        fits = fits and all(isinstance(number, float | int) for number in (*content["mean"], *content["std"]))
        fits = fits and all(isinstance(text, str) for text in (*sums, *sums.values()))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        fits = False
    if not fits:
        raise UserError(f"{source}: {MODEL} does not describe a model as this package does: {', '.join(DESCRIPTION)}")
    if models.is_own(content["name"]) and not is_allowed(content["name"]):
        raise UserError(f"{source}: {MODEL} names code, {content['name']!r}, which is not run unless you allow it. If "
                        f"you trust it: load_model(..., own=({content['name']!r},)), or, for MLflow's own loader too, "
                        f"{ALLOWED}={content['name']} in the environment")
    return content, sums
