"""The reference of every config key, out of the schema: `python docs/reference.py` writes docs/config.md and
tune_configs/schema.json, and a test says when they are no longer current."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from amun_ray.attacks import ATTACKS
from amun_ray.attacks.checks import RULES as ATTACK_RULES
from amun_ray.base.space import Allowed
from amun_ray.config.readings import READINGS
from amun_ray.config.schema import Sweep
from amun_ray.data import DATASETS
from amun_ray.models import MODELS
from amun_ray.training.recipe import RECIPES
from amun_ray.training.recipe import RULES as RECIPE_RULES
from amun_ray.unlearn import METHODS

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE, SCHEMA = REPOSITORY / "docs" / "config.md", REPOSITORY / "tune_configs" / "schema.json"
RULES = {"Recipe": RECIPE_RULES, "AttackSettings": ATTACK_RULES}
BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<=",
          "multipleOf": "a multiple of"}
OWN = {"type": "string", "pattern": "^[A-Za-z_][\\w.]*:[A-Za-z_]\\w*$"}  # package.module:NAME
HEAD = """# Every key of a config

A config is a YAML file. Only `name`, `data`, `model`, `training`, `forget` and `methods` are required. An unknown key
is an error. `--set search.trials=12` changes one key on the command line. This page is made from the schema by
`python docs/reference.py`.

Editors that know the YAML language server complete and check a config whose first line is
`# yaml-language-server: $schema=schema.json`, with the path of `tune_configs/schema.json`.
"""

Node = dict[str, Any]


def json_schema() -> Node:
    """The JSON schema of a config, with the names of the tables and the bounds that pydantic does not know."""
    schema = Sweep.model_json_schema()
    sections = schema["$defs"]
    for section, rules in RULES.items():
        for key, rule in rules.items():
            if key in sections[section]["properties"]:
                _bound(sections[section]["properties"][key], rule)
    _names(sections["Data"]["properties"]["name"], DATASETS)
    _names(sections["Model"]["properties"]["name"], MODELS, own={"type": "string"})
    _names(sections["AttackSettings"]["properties"]["name"], ATTACKS)
    _names(sections["NamedRecipe"]["properties"]["recipe"], RECIPES, own=None)
    for section, place in (("References", "references"), ("RmiaSettings", "rmia"), ("AttackSettings", "attack.search"),
                          ("MethodConfig", f"methods.{', '.join(_methods_with_readings())}")):
        sections[section]["properties"]["as"] = {
            "enum": ["paper", "scripts"], "type": "string", "default": None,
            "description": "The settings of the AMUN paper's text, or of its authors' scripts, under the other keys"
                           + (f" (of {place.partition('.')[2]} alone)." if section == "MethodConfig" else ".")}
    methods = schema["properties"]["methods"]
    entry = methods.pop("additionalProperties")
    methods |= {"properties": dict.fromkeys(METHODS, entry), "patternProperties": {OWN["pattern"]: entry},
                "additionalProperties": False}
    recipe = sections["NamedRecipe"]  # a recipe's name, with any of its fields beside it
    recipe["properties"] |= sections["Recipe"]["properties"]
    recipe["additionalProperties"] = False
    sections["Recipe"]["additionalProperties"] = False
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _methods_with_readings() -> list[str]:
    return [section.partition(".")[2] for section in READINGS if section.startswith("methods.")]


def _names(node: Node, table: Mapping[str, Any], own: Node | None = OWN) -> None:
    """Let `node` be a name of `table`, or where `own` says so the user's own."""
    node.pop("type", None)
    names = {"enum": list(table)}
    node |= names if own is None else {"anyOf": [names, own]}


def _bound(node: Node, rule: Allowed) -> None:
    """Write the bounds of `rule` into a property, beside `null` where that is allowed."""
    target = next((option for option in node.get("anyOf", ()) if option.get("type") != "null"), node)
    bounds = {"exclusiveMinimum": rule.above, "minimum": rule.at_least, "exclusiveMaximum": rule.below,
              "maximum": rule.at_most}
    target |= {key: value for key, value in bounds.items() if abs(value) != float("inf")}


def page() -> str:
    """docs/config.md: a table for each section."""
    schema = json_schema()
    tables = [_table("The whole config", schema, schema["required"])]
    for key, node in schema["properties"].items():
        tables += _sections(schema, key, node)
    return "\n".join([HEAD, *tables, *_own_settings()])


def _own_settings() -> Iterator[str]:
    """The table of what single methods let a user set."""
    yield ("## The settings of single methods\n\n`methods: {scrub: {settings: {NAME: VALUE}, search: [NAME]}}` gives "
           "or searches them.\n\n| method | setting | default | a search looks at |\n|---|---|---|---|")
    for method, row in METHODS.items():
        for key, setting in row.settings.items():
            looked = (", ".join(map(str, setting.choices)) if setting.choices is not None else
                      f"{setting.low:g} to {setting.high:g}{', logarithmic' if setting.log else ''}")
            yield f"| `{method}` | `{key}` | {setting.default:g} | {looked} |"
    yield ""


def _sections(schema: Node, path: str, node: Node) -> Iterator[str]:
    """The tables of the sections at and below the key `path`."""
    for name in _references(node):
        section = schema["$defs"][name]
        if name == "NamedRecipe":
            yield (f"## training: named recipes\n\n`training: {{recipe: NAME}}` takes all settings of a recipe: "
                   f"{', '.join(f'`{each}`' for each in RECIPES)}. Keys beside it change single settings: "
                   "`{recipe: fast, epochs: 8}`.\n")
            continue
        place = f"{path}.METHOD" if name == "MethodConfig" else f"{path}[]" if name == "Point" else path
        yield _table(place, section, section.get("required", ()))
        for key, below in section["properties"].items():
            yield from _sections(schema, f"{place}.{key}", below)


def _references(node: Any) -> list[str]:
    """The sections that a property refers to, each once."""
    if isinstance(node, list):
        return list(dict.fromkeys(name for item in node for name in _references(item)))
    if not isinstance(node, dict):
        return []
    if "$ref" in node:
        return [node["$ref"].rpartition("/")[2]]
    return _references([value for key, value in node.items() if key != "default"])


def _table(title: str, section: Node, required: Any) -> str:
    rows = [f"| `{key}` | {_type(node)} | {'**required**' if key in required else _default(node)} | {_range(node)} | "
            f"{node['description']} |" for key, node in section["properties"].items()]
    heading = title if " " in title else f"`{title}`"
    return "\n".join([f"## {heading}", "", "| key | type | default | range | what it is |", "|---|---|---|---|---|",
                      *rows, ""])


def _options(node: Node) -> list[Node]:
    """What a property may be, without `null`."""
    return [option for option in node.get("anyOf", [node]) if option.get("type") != "null"]


def _type(node: Node) -> str:
    names = []
    for option in _options(node):
        if "$ref" in option or "properties" in option:
            names.append("section")
        elif option.get("type") == "array":
            names.append(f"list of {_type(option['items'])}s")
        else:
            kind = option.get("type", "string")
            names.append({"object": "mapping", "string": "text", "integer": "whole number",
                          "boolean": "true or false"}.get(kind, kind))
    return " or ".join(dict.fromkeys(names))


def _default(node: Node) -> str:
    value = node.get("default")
    if _type(node) == "section":
        return "see below" if value is not None else "none"
    if value is None:
        return "none" if "default" in node else "empty"
    return "empty" if value in ([], {}) else f"`{json.dumps(value)}`".replace('"', "")


def _range(node: Node) -> str:
    said = []
    for option in _options(node):
        option = option.get("items", option)
        said += [f"`{value}`" for value in option.get("enum", [])]
        said += [f"`{option['const']}`"] if "const" in option else []
        said += [f"{sign} {option[key]:g}" for key, sign in BOUNDS.items() if key in option]
        said += ["`package.module:NAME`"] if option.get("pattern") == OWN["pattern"] else []
    return ", ".join(said)


def files() -> dict[Path, str]:
    """What each file must contain."""
    return {PAGE: page(), SCHEMA: json.dumps(json_schema(), indent=1) + "\n"}


if __name__ == "__main__":
    for path, content in files().items():
        path.write_text(content)
