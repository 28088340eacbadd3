"""What is stored and reported of models whose layers have a bound on their singular values."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from amun_ray.base.errors import UserError
from amun_ray.storage.store import Store
from amun_ray.training.spectral import bound_of, singular_values
from amun_ray.work.evidence import Models
from amun_ray.work.units import Unlearned

KEY = "singular_values"
WITHIN = 1.05  # of the bound, for a model that is loaded


def measured(model: nn.Module, images: Tensor) -> dict[str, dict[str, float]]:
    """What a result says of a model with a bound, for images of the shape of `images` (N, C, H, W); else nothing."""
    return {} if bound_of(model) is None else {KEY: singular_values(model, images)}


def check(model: nn.Module, images: Tensor, name: str) -> None:
    """Raise UserError if `model`, which is called `name`, was loaded with a layer above its bound."""
    bound = bound_of(model)
    if bound is None:
        return
    values = singular_values(model, images)
    layer = max(values, key=values.__getitem__)
    if values[layer] > WITHIN * bound:
        raise UserError(f"{name}: its layer {layer} has the singular value {values[layer]:.3g}, above "
                        f"model.spectral_clip ({bound:g}); load a checkpoint trained with the bound, or leave it out")


def by_layer(store: Store, models: Models, unlearned: Sequence[Unlearned]) -> dict[str, dict[str, float]]:
    """Layer -> what the models are -> the largest singular value that any of these has; empty without a bound."""
    groups: dict[str, list[Mapping[str, Any]]] = {
        "originals": [store.made(trained.unit) for trained in models.originals],
        "retrained": [store.made(trained.unit) for models_of in models.retrained.values() for trained in models_of],
        "references": [store.made(trained.unit) for trained in models.references]}
    for model in unlearned:
        groups.setdefault(str(model.run.contender), []).append(model.result)
    largest: dict[str, dict[str, float]] = {}
    for title, results in groups.items():
        for layer, value in _pairs(results):
            row = largest.setdefault(layer, {})
            row[title] = max(value, row.get(title, 0.0))
    return largest


def _pairs(results: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, float]]:
    return [pair for result in results for pair in result.get(KEY, {}).items()]
