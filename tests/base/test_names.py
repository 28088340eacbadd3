import os
import sys
from typing import Any, Literal

import pytest

from amun_ray.base.errors import UserError
from amun_ray.base.names import ALLOWED, allow, allowing, check_arguments, is_allowed, lookup


def row(*, path: str | os.PathLike, count: int | None = None, share: float = 0.1, fast: bool = False, free=None,
        sizes: list[int] = (), kind: Literal["a", "b"] = "a", anything: Any = None):
    """Every kind of annotation that settings of table rows have."""


def open_row(first, **others):
    """Takes any setting, and requires one."""


@pytest.mark.parametrize("given", [
    {"path": "a"}, {"path": "a", "count": 3}, {"path": "a", "count": None}, {"path": "a", "share": 1},
    {"path": "a", "share": 0.5, "fast": True}, {"path": "a", "free": object(), "anything": 3, "kind": 7},
    {"path": "a", "sizes": ["not looked into"]},
])
def test_settings_that_fit_pass(given):
    check_arguments(row, given, "row")


@pytest.mark.parametrize(("given", "message"), [
    ({}, "row needs the setting 'path'"),
    ({"path": "a", "cuont": 3}, "row has no setting 'cuont'; did you mean 'count'. Its settings: path, count"),
    ({"path": 3}, "row: the setting 'path' must be str or PathLike, found 3"),
    ({"path": "a", "count": "3"}, "'count' must be int or nothing, found '3'"),
    ({"path": "a", "count": 0.5}, "'count' must be int or nothing, found 0.5"),
    ({"path": "a", "count": True}, "'count' must be int or nothing, found True"),
    ({"path": "a", "fast": 1}, "'fast' must be bool, found 1"),
    ({"path": "a", "share": True}, "'share' must be float, found True"),
    ({"path": "a", "sizes": 3}, "'sizes' must be list, found 3"),
])
def test_settings_that_do_not_fit_are_named(given, message):
    with pytest.raises(UserError, match=message):
        check_arguments(row, given, "row")


def test_an_open_row_takes_any_setting_but_not_a_supplied_one():
    check_arguments(open_row, {"first": 1, "other": 2}, "row")
    with pytest.raises(UserError, match="row has no setting 'size'"):
        check_arguments(open_row, {"first": 1, "size": 2}, "row", supplied=("size",))
    with pytest.raises(UserError, match="row needs the setting 'first'"):
        check_arguments(open_row, {"other": 2}, "row")


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module that notes each import in a file; returns that file."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(ALLOWED, raising=False)
    (tmp_path / "made_up").mkdir()
    for module in ("__init__", "nets"):
        (tmp_path / "made_up" / f"{module}.py").write_text(
            "from pathlib import Path\nPath(__file__).with_name('imported').touch()\nNet, Other = dict, list\n")
    yield tmp_path / "made_up" / "imported"
    for module in ("made_up", "made_up.nets"):
        sys.modules.pop(module, None)


def test_code_runs_only_where_its_module_is_allowed(mine):
    with pytest.raises(UserError, match=r"model 'made_up.nets:Net' is code, which runs only where you allow its "
                                        r"module: add --allow-code made_up.nets to the command, or set "
                                        r"AMUN_ALLOW_CODE=made_up.nets in the environment"):
        lookup({}, "made_up.nets:Net", "model")
    assert not mine.exists()
    with allowing("made_up.nets"):
        assert lookup({}, "made_up.nets:Net", "model") is dict
        assert lookup({}, "made_up.nets:Other", "model") is list
        with pytest.raises(UserError, match="--allow-code made_up "):
            lookup({}, "made_up:Net", "model")
    with pytest.raises(UserError, match="is code"):  # the context is over, though the module is loaded
        lookup({}, "made_up.nets:Net", "model")


@pytest.mark.parametrize(("given", "allowed"), [
    ("made_up.nets", True), ("made_up.nets:Net", True), ("other, made_up.nets", True), ("", False), (" ", False),
    ("made_up", False), ("made_up.nets:Other", False), ("made_up.nets.Net", False), ("nets", False), ("*", False)])
def test_the_environment_allows_modules_and_single_names(mine, monkeypatch, given, allowed):
    monkeypatch.setenv(ALLOWED, given)
    assert is_allowed("made_up.nets:Net") is allowed
    if not allowed:
        with pytest.raises(UserError, match="is code"):
            lookup({}, "made_up.nets:Net", "model")
        assert not mine.exists()


@pytest.mark.parametrize("name", ["", "a b", "a.", ".a", "a:", ":b", "a:b:c", "a/b", "*"])
def test_what_is_no_name_of_code_cannot_be_allowed(name):
    with pytest.raises(UserError, match="cannot be allowed: package.module or package.module:NAME is expected"):
        allow([name])
    assert not is_allowed(name)


def test_a_module_that_ends_the_process_is_one_line(mine):
    mine.with_name("nets.py").write_text("raise SystemExit(0)")
    with allowing("made_up.nets"), pytest.raises(UserError, match="cannot be imported: SystemExit: 0"):
        lookup({}, "made_up.nets:Net", "model")
