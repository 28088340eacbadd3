"""YAML as people write it, read as data: texts, integers, finite numbers, booleans, lists, and mappings with text keys.

YAML 1.1 allows more: dates, octal and base-60 numbers, infinities, objects, and text of a few hundred bytes that
expands to gigabytes. Ambiguous values are refused, and so is whatever no setting can be. 1e-3 is a number, although
YAML 1.1 requires 1.0e-3; a key may occur once, and `<<` merges.
"""

import math
import re
from typing import Any
from unicodedata import category

import yaml

from amun_ray.base.errors import UserError

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
BASE_60 = re.compile(r"[-+]?\d[\d_]*(:\d+)+(\.\d*)?")
INFINITE = re.compile(r"\.(?=inf|nan)")  # Python has no point before these
OCTAL = re.compile(r"[-+]?0[\d_]+")
BYTES, NODES, DIGITS = 2**18, 10_000, 18  # limits of a text, of the nodes its aliases expand to, and of an integer
PREFIX = "tag:yaml.org,2002:"
KNOWN = {f"{PREFIX}{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}
MERGE = f"{PREFIX}merge"


class Loader(yaml.SafeLoader):
    """PyYAML's loader, without dates, with 1e-3 as a number, and with a limit on expansion."""

    yaml_implicit_resolvers = {  # noqa: RUF012, as PyYAML has it
        first: [(tag, form) for tag, form in forms if tag not in (f"{PREFIX}timestamp", f"{PREFIX}value")]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._nodes += 1
        if self._nodes > NODES:
            raise UserError(f"more than {NODES} values")
        return super().compose_node(parent, index)


Loader.add_implicit_resolver(f"{PREFIX}float", NUMBER, list("-+.0123456789"))


def parse(text: str) -> Any:
    """The content of a YAML text.

    Raises:
        UserError: not YAML, or values that no setting can have; the message names the line, but not the file.
    """
    if len(text) > BYTES:
        raise UserError(f"a config has at most {BYTES // 1024} KiB of text, and this is more")
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, {})
        return loader.construct_document(node)
    except RecursionError:
        raise UserError("cannot be read as YAML: lists or mappings are nested too deeply") from None
    except UserError as error:
        raise UserError(f"cannot be read as YAML: {error}") from None
    except (yaml.YAMLError, ValueError, KeyError) as error:  # KeyError, ValueError: `!!bool x`, `!!int x`
        raise UserError(f"cannot be read as YAML: {' '.join(str(error).split())}") from error


def _check(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many values `node` expands to, counting aliases each time; UserError for values that no setting can have.

    `sizes` holds the counts of other nodes, by id; 0 marks one that is still being counted.
    """
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise _error(node, "an alias stands inside what it is an alias of")
        return sizes[id(node)]
    sizes[id(node)] = 0
    if node.tag not in KNOWN:
        raise _error(node, f"{node.tag.removeprefix(PREFIX)!r} is no kind of value that a config has")
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(node)
    elif isinstance(node, yaml.MappingNode):
        _check_keys(node)
    children = [] if isinstance(node, yaml.ScalarNode) else [
        child[1] if isinstance(node, yaml.MappingNode) else child for child in node.value]
    size = 1 + sum(_check(child, sizes) for child in children)
    if size > NODES:
        raise _error(node, f"with its aliases it stands for more than {NODES} values")
    sizes[id(node)] = size
    return size


def _check_keys(node: yaml.MappingNode) -> None:
    keys = set()
    for key, _ in node.value:
        if key.tag not in (f"{PREFIX}str", MERGE) or not isinstance(key, yaml.ScalarNode):
            written = key.value if isinstance(key, yaml.ScalarNode) else "of this mapping"
            raise _error(key, f"the key {written} is no text; put it in quotes if it is meant as one")
        if key.value in keys:
            raise _error(key, f"the key {key.value!r} stands twice")
        _check_scalar(key)
        keys.add(key.value)


def _check_scalar(node: yaml.ScalarNode) -> None:
    kind, text = node.tag.removeprefix(PREFIX), node.value
    if any(category(letter) in ("Cc", "Cs") for letter in text if letter not in "\t\n"):
        raise _error(node, f"{text[:40]!r} holds a character that no text may have")
    if kind == "int" and len(text) > DIGITS:
        raise _error(node, f"the number {text[:40]} has more than {DIGITS} digits")
    if kind in ("int", "float") and BASE_60.fullmatch(text):
        raise _error(node, f"{text} is a number to base 60 in YAML 1.1; write it to base 10, or in quotes as a text")
    if kind == "int" and OCTAL.fullmatch(text):
        raise _error(node, f"{text} is {int(text.replace('_', ''), 8)} in YAML 1.1 and {int(text)} in YAML 1.2; write "
                           "it without the leading 0, or in quotes as a text")
    if kind == "float" and not math.isfinite(float(INFINITE.sub("", text.lower()).replace("_", ""))):
        raise _error(node, f"{text} is no finite number")


def _error(node: yaml.Node, problem: str) -> UserError:
    return UserError(f"line {node.start_mark.line + 1}: {problem}")
