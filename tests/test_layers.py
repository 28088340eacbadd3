"""The walls of the house: imports point down, one floor a room, and each platform is known to its own rooms alone."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "amun_ray"
FLOORS = [{"base"}, {"data", "models"}, {"attacks", "metrics", "plots", "storage", "training"},
          {"ledger", "tracking", "unlearn"}, {"config"}, {"work"}, {"runtime"}, {"reporting"}, {"stages"},
          {"studies"}, {"sweep"}, {"api", "desk"}, {"forget"}]
ONLY_IN = {"ray": {"runtime", "stages"}, "optuna": {"stages"}, "mlflow": {"tracking"}, "pydantic": {"config"}}
NEVER_IN = {"torch": {"plots"}}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor(name: str) -> int:
    (found,) = [number for number, rooms in enumerate(FLOORS) if name in rooms]
    return found


def imported(path: Path) -> list[str]:
    """Every module that a file imports, `from amun_ray import data` as `amun_ray.data`."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"amun_ray.{alias.name}" for alias in node.names] if node.module == "amun_ray" else [node.module]
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    here = room(path)
    if here == "__init__":  # only what a type checker reads, beside the standard library
        assert imported(path) == ["importlib", "typing", "amun_ray.api"]
        return
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top == "amun_ray" and rest:  # `import amun_ray` itself is below every floor
            other = rest.split(".")[0]
            assert other == here or floor(other) < floor(here), f"{path} imports upwards: {name}"
        assert here in ONLY_IN.get(top, {here}), f"{path} imports {name}"
        assert here not in NEVER_IN.get(top, ()), f"{path} imports {name}"


def test_no_file_shadows_a_module_that_somebody_else_imports():
    import importlib.metadata
    import sys
    taken = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions())
    mine = {room(path) for path in FILES} - {"__init__"}
    assert not mine & taken


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_stay_readable(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= (120 if path.name == "sweep.py" and path.parent == PACKAGE else 300)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert code_lines(node, lines) <= 40, f"{path}: {node.name} is too long"
            assert parameters(node) <= (8 if is_documented(node) else 6), f"{path}: {node.name} has too many parameters"


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """Lines of a function that are neither empty, comment nor docstring."""
    body = [number for number in range(function.lineno, function.end_lineno + 1)
            if lines[number - 1].strip() and not lines[number - 1].strip().startswith("#")]
    if ast.get_docstring(function) is None:
        return len(body)
    text = range(function.body[0].lineno, function.body[0].end_lineno + 1)
    return len([number for number in body if number not in text])


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """All but `self`, `cls` and `**recipe`, which is another object's fields."""
    named = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")]) + (function.args.vararg is not None)


def is_documented(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether this is public, with a docstring; a constructor has its class's."""
    public = not function.name.startswith("_") and ast.get_docstring(function) is not None
    return public or function.name == "__init__"
