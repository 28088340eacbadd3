"""How a name in a config becomes a table row or an object of the user's own module, and how its settings are checked.

A name in a file could point to any code (`os:system`). So code is imported only from modules that whoever ran the
command, or the calling program, has allowed: see `allowing` and AMUN_ALLOW_CODE.
"""

import inspect
import os
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from amun_ray.base.blame import FAILURES
from amun_ray.base.errors import UserError, in_words

ALLOWED = "AMUN_ALLOW_CODE"  # environment variable: MODULE or MODULE:NAME, comma-separated
_allowed: list[str] = []  # by this process, in addition to the variable
KEYWORDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a sentence: `; did you mean 'x'?` with the nearest known name, or a full stop."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


def lookup(table: Mapping[str, Any], name: str, kind: str) -> Any:
    """`table[name]`, or the object behind `package.module:NAME`.

    Raises:
        UserError: the name is neither in the table nor importable, or its module is not allowed; the message lists the
            choices.
    """
    if name in table:
        return table[name]
    if ":" in name:
        return load_object(name, kind)
    raise UserError(f"unknown {kind} {name!r}{suggestion(name, table)} Known: {', '.join(sorted(table))}")


def allow(names: str | Iterable[str]) -> None:
    """Allow code to be imported from `names` in this process, each `package.module` or `package.module:NAME`.

    Allowing a module allows every name in it, but not its submodules.

    Raises:
        UserError: a name in another form.
    """
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if not _is_name(name if ":" in name else f"{name}:any"):
            raise UserError(f"{name!r} cannot be allowed: package.module or package.module:NAME is expected")
    _allowed.extend(names)


@contextmanager
def allowing(names: str | Iterable[str]) -> Iterator[None]:
    """`allow`, until the context ends."""
    before = len(_allowed)
    allow(names)
    try:
        yield
    finally:
        del _allowed[before:]


def is_allowed(name: str) -> bool:
    """Whether `package.module:NAME` may be imported."""
    given = {*_allowed, *(entry.strip() for entry in os.environ.get(ALLOWED, "").split(","))}
    return _is_name(name) and not given.isdisjoint((name, name.partition(":")[0]))


def _is_name(name: str) -> bool:
    module, _, attribute = name.partition(":")
    return all(part.isidentifier() for part in [*module.split("."), attribute])


def load_object(name: str, kind: str) -> Any:
    """Import the object `package.module:NAME`; UserError if it is missing, not allowed, or its module is broken."""
    module, _, attribute = name.partition(":")
    if not _is_name(name):
        raise UserError(f"{kind} {name!r}: a name of the form package.module:NAME is expected")
    if not is_allowed(name):
        raise UserError(f"{kind} {name!r} is code, which runs only where you allow its module: add --allow-code "
                        f"{module} to the command, or set {ALLOWED}={module} in the environment")
    try:
        loaded = import_module(module)
    except ImportError as error:
        raise UserError(f"{kind} {name!r}: module {module!r} cannot be imported: {error}; install it, or put its "
                        "folder on PYTHONPATH") from error
    except FAILURES as error:  # whatever the user's module raises on import
        raise UserError(f"{kind} {name!r}: module {module!r} cannot be imported: {in_words(error)}") from error
    if not hasattr(loaded, attribute):
        raise UserError(f"{kind} {name!r}: module {module!r} has no {attribute!r}{suggestion(attribute, vars(loaded))}"
                        .removesuffix("."))
    return getattr(loaded, attribute)


def check_arguments(
    function: Callable[..., Any], given: Mapping[str, Any], kind: str, supplied: Collection[str] = ()
) -> None:
    """Raise UserError unless `function` can be called with the keyword arguments `given`.

    Args:
        function: a row of a table, or a user's own callable; with `**kwargs` it takes any setting.
        given: the settings that the user wrote.
        kind: the row's name in messages, e.g. "dataset 'digits'".
        supplied: parameters that the caller passes by keyword; a user cannot set them.

    Raises:
        UserError: one line for each setting that does not exist (with the nearest that does), is missing, or has the
            wrong type (annotations that are classes or unions of classes are checked, others are not).
    """
    parameters = inspect.signature(function).parameters
    named = {name: parameter for name, parameter in parameters.items()
             if name not in supplied and parameter.kind in KEYWORDS}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    problems = [f"{kind} must take the keyword {name!r}" for name in supplied
                if not takes_any and (name not in parameters or parameters[name].kind not in KEYWORDS)]
    for name, value in given.items():
        if name not in named and (name in supplied or not takes_any):
            problems.append(f"{kind} has no setting {name!r}{suggestion(name, named)} "
                            f"Its settings: {', '.join(named) or 'none'}")
        elif name in named and not _fits(value, named[name].annotation):
            problems.append(f"{kind}: the setting {name!r} must be {_text(named[name].annotation)}, found {value!r}")
    problems += [f"{kind} needs the setting {name!r}" for name, parameter in named.items()
                 if parameter.default is parameter.empty and name not in given]
    if problems:
        raise UserError("\n".join(problems))


def _fits(value: Any, annotation: Any) -> bool:
    """Whether `value` fits `annotation`; True where `isinstance` cannot tell."""
    choices = _choices(annotation)
    if annotation is inspect.Parameter.empty or not all(isinstance(choice, type) for choice in choices):
        return True
    if isinstance(value, bool):  # True is an int to Python, never to a user
        return bool in choices or object in choices
    return isinstance(value, choices) or (float in choices and isinstance(value, int))


def _choices(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation itself; `list[int]` counts as `list`."""
    union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    members = typing.get_args(annotation) if union else (annotation,)
    return tuple(object if member is Any else typing.get_origin(member) or member for member in members)


def _text(annotation: Any) -> str:
    """The annotation as a user reads it: `int`, or `int or nothing` for an optional one."""
    names = {type(None): "nothing"}
    return " or ".join(names.get(choice, choice.__name__) for choice in _choices(annotation))
