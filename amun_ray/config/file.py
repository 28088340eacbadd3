"""From `--config NAME|PATH` and `--set` to a checked `Sweep`, and from a file to a checked request."""

from pathlib import Path

from amun_ray.base.errors import UserError
from amun_ray.config.reading import REPOSITORY, SHOWN, checked, content, resolve, settings
from amun_ray.config.schema import Sweep
from amun_ray.config.sections import Forget

__all__ = ["REPOSITORY", "SHOWN", "load", "load_request", "resolve"]


def load(name: str, overrides: list[str] | None = None) -> Sweep:
    """Read and check a config; `overrides` are `key.path=value` strings with values in YAML.

    Raises:
        UserError: all mistakes of the file and the overrides, in one message.
    """
    path, overrides = resolve(name), overrides or []
    return checked(Sweep, path, settings(path, overrides), overrides)


def load_request(name: str) -> Forget:
    """The request in a file: a YAML file holds the section `forget` of a config; any other means `indices: FILE`.

    Raises:
        UserError: all mistakes of the file, in one message.
    """
    path = Path(name)
    request = content(path) if path.suffix in (".yaml", ".yml") else {"indices": name}
    forget = checked(Forget, path, request)
    for way in ("fraction", "folds"):
        if getattr(forget, way) is not None:
            raise UserError(f"{path}: {way}: draws rows at random; a request names those that it is about")
    return forget
