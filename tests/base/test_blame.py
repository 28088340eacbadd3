"""An error that came through the user's own code is one line that says where; any other stays what it is."""

import sys

import pytest
import ray

from amun_ray.base.blame import blaming
from amun_ray.base.errors import UserError

MODULE = """
import json

def broken():
    raise KeyError("image")

def deep():
    return json.loads("{\\n")

def bye():
    raise SystemExit("I cannot\\nsay")

def through(function):
    function()
"""


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    (tmp_path / "theirs.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    import theirs
    return theirs


@pytest.mark.parametrize(("name", "words", "line"), [
    ("broken", "KeyError: 'image'", 5),
    ("deep", "JSONDecodeError: Expecting property name enclosed in double quotes: line 2 column 1 (char 2)", 8),
    ("bye", "SystemExit: I cannot", 11),
])
def test_the_last_line_of_the_users_file_is_named(theirs, name, words, line):
    with pytest.raises(UserError) as caught, blaming(["small_cnn", "theirs:Net"]):
        theirs.through(getattr(theirs, name))
    assert str(caught.value) == f"'theirs:Net': {words} ({theirs.__file__}, line {line})"


def test_an_error_of_a_worker_brings_its_lines_along(theirs):
    text = (f'ray::train() (pid=7)\n  File "{theirs.__file__}", line 3, in train\n  File "{theirs.__file__}", line 5, '
            'in broken\n  File "/python/json.py", line 9, in loads\nKeyError: image')
    with pytest.raises(UserError) as caught, blaming(["theirs:Net"]):
        raise ray.exceptions.RayTaskError("train", text, KeyError("image")).as_instanceof_cause()
    assert str(caught.value) == f"'theirs:Net': KeyError: 'image' ({theirs.__file__}, line 5)"


def ours():
    raise RuntimeError("of this file")


@pytest.mark.parametrize("names", [[], ["nowhere:Net"], ["theirs:Net"]])
def test_an_error_of_nobody_elses_stays_what_it_is(theirs, names):
    with pytest.raises(RuntimeError, match="of this file"), blaming(names):
        ours()


@pytest.mark.parametrize("kind", [UserError, KeyboardInterrupt])
def test_what_the_command_knows_already_passes(theirs, kind):
    def stop():
        raise kind("as it is")

    with pytest.raises(kind, match="^as it is$"), blaming(["theirs:Net"]):
        theirs.through(stop)
