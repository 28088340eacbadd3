"""How much of another library's exception goes into an error line of ours."""

import pytest

from amun_ray.base.errors import first_line, in_words


@pytest.mark.parametrize(("error", "line"), [
    (OSError("no space left.\nmore of it"), "no space left"), (ValueError("\n  first\nsecond"), "first"),
    (KeyError(), "KeyError"), (ConnectionError(" "), "ConnectionError")])
def test_the_first_line_of_a_message_or_the_kind_of_one_without(error, line):
    assert first_line(error) == line
    assert in_words(error) == (line if line == type(error).__name__ else f"{type(error).__name__}: {line}")
