"""How a name written by a user becomes a row of a table or an object of the user's own module."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from amun_ray.errors import UserError, in_words


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the nearest known name, or a full stop: the end of a sentence."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


def lookup(table: Mapping[str, Any], name: str, kind: str) -> Any:
    """`table[name]`, or the object behind `package.module:NAME`.

    Raises:
        UserError: the name is neither in the table nor importable; the message lists the choices.
    """
    if name in table:
        return table[name]
    if ":" in name:
        return load_object(name, kind)
    raise UserError(f"unknown {kind} {name!r}{suggestion(name, table)} Known: {', '.join(sorted(table))}")


def load_object(name: str, kind: str) -> Any:
    """Import the object named by `package.module:NAME`; UserError when it is not there, or its module is broken."""
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), attribute]):
        raise UserError(f"{kind} {name!r}: a name of the form package.module:NAME is expected")
    try:
        loaded = import_module(module)
    except ImportError as error:
        raise UserError(f"{kind} {name!r}: module {module!r} cannot be imported: {error}; install it, or put its "
                        "folder on PYTHONPATH") from error
    except Exception as error:  # whatever the user's module does when it is imported
        raise UserError(f"{kind} {name!r}: module {module!r} cannot be imported: {in_words(error)}") from error
    if not hasattr(loaded, attribute):
        raise UserError(f"{kind} {name!r}: module {module!r} has no {attribute!r}{suggestion(attribute, vars(loaded))}"
                        .removesuffix("."))
    return getattr(loaded, attribute)
