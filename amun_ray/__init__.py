"""Machine unlearning with AMUN and its baselines, as a distributed sweep on Ray, with evidence in MLflow.

This is the public face. A name is imported when it is first used, so `import amun_ray` loads neither torch nor Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amun_ray.api import (
        allow_code,
        craft,
        load_config,
        load_data,
        load_model,
        plot_confidence,
        reference_confidence,
        run,
        score,
        train,
        unlearn,
    )

__version__ = "0.1.0"
__all__ = ["allow_code", "craft", "load_config", "load_data", "load_model", "plot_confidence", "reference_confidence",
           "run", "score", "train", "unlearn"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "unlearn":  # Python binds this name to the package of methods, which can be called
        return import_module("amun_ray.unlearn")
    return getattr(import_module("amun_ray.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
