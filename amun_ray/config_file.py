"""From `--config NAME|PATH` and `--set` to a checked `Sweep`; every mistake of a file is said in one message."""

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from amun_ray.config import Sweep
from amun_ray.errors import UserError
from amun_ray.names import suggestion

INSTALLED = Path(__file__).resolve().parent / "tune_configs"
REPOSITORY = Path(__file__).resolve().parent.parent / "tune_configs"  # where an editable install finds them


def resolve(name: str) -> Path:
    """The file behind `--config NAME|PATH`: a path that exists, or a name in `tune_configs/`."""
    if name.endswith((".yaml", ".yml")) or os.sep in name:
        path = Path(name)
        if not path.is_file():
            raise UserError(f"config {name!r}: no such file")
        return path
    folder = INSTALLED if INSTALLED.is_dir() else REPOSITORY
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = sorted(found.stem for found in folder.glob("*.yaml"))
        raise UserError(f"config {name!r}: no such name{suggestion(name, known)} Known: {', '.join(known)}")
    return path


def load(name: str, overrides: list[str] | None = None) -> Sweep:
    """Read and check a config; `overrides` are `key.path=value` strings, their values written in YAML.

    Raises:
        UserError: every mistake of the file and of the overrides, in one message.
    """
    path = resolve(name)
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a mapping of settings is expected, found {type(content).__name__}")
    for override in overrides or []:
        _override(content, override)
    try:
        return Sweep.model_validate(content)
    except ValidationError as error:
        raise UserError("\n".join(f"{path}: {line}" for line in _explain(error))) from error


def _override(content: dict[str, Any], override: str) -> None:
    key_path, separator, text = override.partition("=")
    if not separator or not key_path:
        raise UserError(f"--set {override}: key.path=value is expected")
    *parents, last = key_path.split(".")
    for parent in parents:
        if not isinstance(content.get(parent), dict):
            content[parent] = {}
        content = content[parent]
    try:
        content[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override}: the value is not valid YAML") from error


def _explain(error: ValidationError) -> list[str]:
    """One line per mistake: key, rule, what came."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            lines.append(f"{key}: unknown key{suggestion(key.rpartition('.')[2], _siblings(item['loc']))}")
        elif item["type"] == "missing":
            lines.append(f"{key}: this key is required")
        elif item["type"] == "value_error":
            lines += [f"{key}: {line}" if key else line for line in str(item["ctx"]["error"]).split("\n")]
        else:
            lines.append(f"{key}: {item['msg'][0].lower()}{item['msg'][1:]}, but got {item['input']!r}")
    return lines


def _siblings(location: tuple[str | int, ...]) -> list[str]:
    """The keys that exist where an unknown one stood."""
    schema = Sweep.model_json_schema()
    node = schema
    for part in location[:-1]:
        node = node.get("properties", {}).get(part, node.get("additionalProperties", {}))
        for option in node.get("anyOf", [node]):
            if "$ref" in option:
                node = schema["$defs"][option["$ref"].rpartition("/")[2]]
    return list(node.get("properties", {}))
