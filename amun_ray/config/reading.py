"""From `--config NAME|PATH` and `--set` to a checked model of pydantic; every mistake of a file is said in one message.

Knows no section of a config, so that a command that needs few of them loads nothing of the others.
"""


import json
import os
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from amun_ray.base.errors import UserError, first_line
from amun_ray.base.files import expanded
from amun_ray.base.names import suggestion
from amun_ray.config.yaml_text import BYTES, parse

Model = TypeVar("Model", bound=BaseModel)
INSTALLED = Path(__file__).resolve().parent.parent / "tune_configs"
REPOSITORY = Path(__file__).resolve().parent.parent.parent / "tune_configs"  # where an editable install finds them
SHOWN, LENGTH = 20, 1000  # mistakes of one message; characters of one of them
PLAIN = {"a valid array": "a list", "a valid tuple": "a list", "an object": "a mapping",
         "a valid dictionary": "a mapping", "Input should be": "must be"}  # JSON's and Python's words in those of YAML


def resolve(name: str) -> Path:
    """The file behind `--config NAME|PATH`: a path that exists, or a name in `tune_configs/`."""
    folder = INSTALLED if INSTALLED.is_dir() else REPOSITORY
    path = folder / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")) or (os.sep in name and not path.is_file()):
        path = Path(expanded(name))
        if not path.is_file():
            raise UserError(f"config {name!r}: no such file")
        return path
    if not path.is_file():
        known = sorted(str(file.relative_to(folder).with_suffix("")) for file in folder.rglob("*.yaml"))
        raise UserError(f"config {name!r}: no such name{suggestion(name, known)} Known: {', '.join(known)}")
    return path


def checked(model: type[Model], path: Path, content: Any, overrides: Sequence[str] = ()) -> Model:
    """`content`, what the YAML of `path` with `overrides` says, as `model`.

    Raises:
        UserError: every mistake, in one message.
    """
    try:  # in JSON mode a wrong type is a mistake, never converted: no true for 1, no "3" for 3
        return model.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise UserError(_message(model, path, overrides, error)) from error


def settings(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """What the file `path` says, changed by `overrides`, `key.path=value` strings with values written in YAML.

    Raises:
        UserError: it cannot be read, is no mapping, or an override is none.
    """
    values = content(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: a mapping of settings is expected, found {type(values).__name__}")
    for override in overrides:
        _override(values, override)
    return values


def content(path: Path) -> Any:
    """What the YAML of a file says; UserError for a file that cannot be read, or a text that is refused."""
    try:
        with path.open(encoding="utf-8") as file:
            return parse(file.read(BYTES + 1))  # a letter more than it takes, whatever the size of the file
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {first_line(error)}") from error


def _message(model: type[BaseModel], path: Path, overrides: Sequence[str], error: ValidationError) -> str:
    """A line for each mistake, or for the first of very many."""
    mistakes = _explain(model, error)
    lines = [f"{_source(path, key, overrides)}: {line}" for key, line in islice(mistakes, SHOWN)]
    lines = [line if len(line) <= LENGTH else f"{line[:LENGTH]}..." for line in lines]
    return "\n".join(lines + [f"{path}: ... and more mistakes than these"] * any(True for _ in mistakes))


def _source(path: Path, key: str, overrides: Sequence[str]) -> str:
    """What a mistake at `key` was written in: an override, the file, or both together."""
    changed = [override.partition("=")[0] for override in overrides]
    if any(f"{key}.".startswith(f"{setting}.") for setting in changed):
        return "--set"
    return f"{path} with --set" if any(setting.startswith(f"{key}.") for setting in changed) else str(path)


def _override(content: dict[str, Any], override: str) -> None:
    key_path, separator, text = override.partition("=")
    shown = override if override.isprintable() else repr(override)
    if not separator or not key_path or not key_path.isprintable():
        raise UserError(f"--set {shown}: key.path=value is expected")
    *parents, last = key_path.split(".")
    for parent in parents:
        if not isinstance(content.get(parent), dict):
            content[parent] = {}
        content = content[parent]
    try:
        content[last] = parse(text)
    except UserError as error:
        raise UserError(f"--set {shown}: {error}") from error


def _explain(model: type[BaseModel], error: ValidationError) -> Iterator[tuple[str, str]]:
    """`(key, line)` of each mistake; the line says key, rule and what came."""
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        for problem in _problems(model, item, key):
            yield key, f"{key}: {problem}" if key else problem


def _problems(model: type[BaseModel], item: Mapping[str, Any], key: str) -> list[str]:
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _siblings(model, item["loc"])
        near = suggestion(key.rpartition(".")[2], known)
        return [f"unknown key{near}" + (f" Known: {', '.join(known)}" if near == "." else "")]
    if item["type"] in ("missing", "missing_argument"):
        return ["this key is required"]
    if item["type"] == "value_error":
        return str(item["ctx"]["error"]).split("\n")
    rule = re.sub(r" or an? instance of \w+", "", item["msg"])
    for word, plain in PLAIN.items():
        rule = rule.replace(word, plain)
    return [f"{rule[0].lower()}{rule[1:]}, but got {reprlib.repr(item['input'])}"]


def _siblings(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """The keys that exist where an unknown one stood."""
    schema = _schema(model)
    nodes = [schema]
    for part in location[:-1]:
        other = "items" if isinstance(part, int) else "additionalProperties"
        below = [node.get("properties", {}).get(part) or node.get(other) or {} for node in nodes]
        options = [option for node in below for option in node.get("anyOf", [node])]
        nodes = [schema["$defs"][option["$ref"].rpartition("/")[2]] if "$ref" in option else option
                 for option in options]
    return [key for node in nodes for key in node.get("properties", {})]


@cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()
