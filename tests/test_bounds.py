"""Both ends of what pyproject.toml allows: constraints.txt is within, constraints-oldest.txt is the lower end."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]


def pinned(name: str) -> dict[str, Version]:
    lines = (REPOSITORY / name).read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    return {canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in pins}


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_what_is_pinned_is_allowed(name):
    pins = pinned(name)
    assert [f"{wanted}, pinned {pins[canonicalize_name(wanted.name)]}" for wanted in REQUIREMENTS
            if pins[canonicalize_name(wanted.name)] not in wanted.specifier] == []


def test_the_oldest_are_the_lower_bounds():
    """The first lines of constraints-oldest.txt are the command that makes it."""
    pins = pinned("constraints-oldest.txt")
    assert [f"{wanted}, pinned {pins[canonicalize_name(wanted.name)]}" for wanted in REQUIREMENTS
            for bound in wanted.specifier if Version(bound.version) != pins[canonicalize_name(wanted.name)]] == []
