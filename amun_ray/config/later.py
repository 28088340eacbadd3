"""Settings added after stores had been written: not part of digests while they have the effect of earlier versions.

So work in older stores is still found.
"""

from collections.abc import Mapping
from typing import Any

from amun_ray.config.audit import AuditConfig

SECTIONS: Mapping[str, Mapping[str, Any]] = {  # section -> setting -> the value that changes nothing
    "data": dict.fromkeys(("normalize", "path", "test_share", "resize", "center_crop", "interpolation", "on_error",
                           "random_resized_crop")),
    "model": {"weights": None, "spectral_clip": None},
    "training": {"optimizer": "sgd", "warm_up": 0.0, "clip": 0.0, "label_smoothing": 0.0,
                 "loss": "cross_entropy", "beta": 6.0, "norm": "linf", "epsilon": 0.031, "inner_steps": 10,
                 "inner_step": 0.0},
    "references": {"epochs": None},
    "forget": {**dict.fromkeys(("classes", "column", "values", "pattern", "files", "folds")), "choose": "random"},
    "search": {"select": "least", "score_samples": None},
    "final": {"reference": None, "compared": None},
    "audit": AuditConfig().model_dump(),
    "unlearning": {"optimizer": "sgd", "clip": 0.0},
}
METHOD: Mapping[str, Any] = {"lr": None}  # of each method
METHOD_LR: Mapping[str, Any] = {"forget_only": None}  # of its `lr`
ATTACK: Mapping[str, Any] = {"competitors": None, "tolerance": None}  # of the attack's search
WHOLE = ("audit", "study")  # sections that were added as such


def without_later(dump: Mapping[str, Any]) -> dict[str, Any]:
    """A dumped config, or a part of it, without later settings that keep the earlier behaviour."""
    changed: dict[str, Any] = {section: _without(dump[section], values) for section, values in SECTIONS.items()
                               if section in dump}
    if "attack" in dump:
        changed["attack"] = dump["attack"] | {"search": _without(dump["attack"]["search"], ATTACK)}
    if "methods" in dump:
        changed["methods"] = {name: method and _method(method) for name, method in dump["methods"].items()}
    return {section: content for section, content in {**dump, **changed}.items() if content or section not in WHOLE}


def _method(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept = _without(settings, METHOD)
    return kept | {"lr": _without(kept["lr"], METHOD_LR)} if "lr" in kept else kept


def _without(settings: Mapping[str, Any], at_rest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in at_rest or value != at_rest[key]}
