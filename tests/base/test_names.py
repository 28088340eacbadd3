import os
from typing import Any, Literal

import pytest

from amun_ray.base.errors import UserError
from amun_ray.base.names import check_arguments


def row(*, path: str | os.PathLike, count: int | None = None, share: float = 0.1, fast: bool = False, free=None,
        sizes: list[int] = (), kind: Literal["a", "b"] = "a", anything: Any = None):
    """Every sort of annotation that rows of tables have."""


def open_row(first, **others):
    """Takes any setting but needs one."""


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
