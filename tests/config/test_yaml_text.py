"""What a text of YAML means to a config, and what no config means; each is said in one line, and at once."""

import json
import resource
import time

import pytest

from amun_ray.base.errors import UserError
from amun_ray.config.yaml_text import BYTES, NODES, parse


@pytest.mark.parametrize(("text", "meaning"), [
    ("a: 1e-3", {"a": 0.001}), ("a: 1.5e3", {"a": 1500.0}), ("a: .5", {"a": 0.5}), ("a: 0", {"a": 0}),
    ("a: 1_000", {"a": 1000}), ("a: 0x1F", {"a": 31}), ("a: 0.10", {"a": 0.1}), ("a: 00.5", {"a": 0.5}),
    ("a: yes", {"a": True}), ("a: ~", {"a": None}), ("a:", {"a": None}), ("a: '010'", {"a": "010"}),
    ("a: '1:30'", {"a": "1:30"}), ("a: s3://b/c:1", {"a": "s3://b/c:1"}), ("a: 10:ten", {"a": "10:ten"}),
    ("a: 2024-01-01", {"a": "2024-01-01"}), ("2024-01-01: a", {"2024-01-01": "a"}), ("a: =", {"a": "="}),
    ("'1': a", {"1": "a"}), ("'on': a", {"on": "a"}), ("!!str 1: a", {"1": "a"}), ("a: !!float 1", {"a": 1.0}),
    ("\ufeffa: 1", {"a": 1}), ("a: \"b\\tc\\n\"", {"a": "b\tc\n"}), ("", None), ("# nothing", None),
    ("a: [{}, []]", {"a": [{}, []]}),
    ("a: &x [1, 2]\nb: *x\nc: *x", {"a": [1, 2], "b": [1, 2], "c": [1, 2]}),
    ("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}", {"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 3}}),
    ("a: &x {p: 1}\nb: &y {q: 2, p: 5}\nc: {<<: [*x, *y], r: 3}",
     {"a": {"p": 1}, "b": {"q": 2, "p": 5}, "c": {"p": 1, "q": 2, "r": 3}}),
    ("a: &x {p: 1}\nb: &y {<<: *x, q: 2}\nc: {<<: *y}\nd: {<<: *y}",
     {"a": {"p": 1}, "b": {"p": 1, "q": 2}, "c": {"p": 1, "q": 2}, "d": {"p": 1, "q": 2}}),
])
def test_what_is_read(text, meaning):
    assert parse(text) == meaning
    assert json.dumps(parse(text), sort_keys=True) == json.dumps(meaning, sort_keys=True)  # 1, 1.0 and True differ


BOMB = "a0: &a0 [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 9))
MERGED = "a0: &a0 {k: 0}\n" + "".join(
    f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * 10)}]}}\n" for k in range(1, 9))


@pytest.mark.parametrize(("text", "line"), [
    ("b: 1\na: 010", "line 2: 010 is 8 in YAML 1.1 and 10 in YAML 1.2; write it without the leading 0, or in quotes"),
    ("a: -0_17", "line 1: -0_17 is -15 in YAML 1.1 and -17 in YAML 1.2"),
    ("a: 1:30", "line 1: 1:30 is a number to base 60 in YAML 1.1; write it to base 10, or in quotes as a text"),
    ("a: 1:30.5", "line 1: 1:30.5 is a number to base 60"), ("a: [190:20:30]", "line 1: 190:20:30 is a number to base"),
    *((f"a: {number}", f"line 1: {number} is no finite number")
      for number in (".inf", "-.inf", "+.INF", ".nan", ".NaN", "1e999", "-1e999", ".Inf")),
    ("a: !!float inf", "line 1: inf is no finite number"),
    ("1: a", "line 1: the key 1 is no text; put it in quotes if it is meant as one"),
    ("on: a", "line 1: the key on is no text"), ("b:\n  ~: a", "line 2: the key ~ is no text"),
    (".inf: a", "line 1: the key .inf is no text"), ("? [a]\n: b", "line 1: the key of this mapping is no text"),
    ("{{a: 1}: b}", "line 1: the key of this mapping is no text"),
    ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice"), ("a: {b: 1, 'b': 2}", "line 1: the key 'b' stands twice"),
    ("a: &x {p: 1}\nb: {<<: *x, <<: *x}", "line 2: the key '<<' stands twice"),
    ("a: {<<: 3}", "while constructing a mapping"),
    ("a: !!timestamp 2024-01-01", "line 1: 'timestamp' is no kind of value that a config has"),
    ("a: !!set {b}", "line 1: 'set' is no kind of value"), ("a: !!binary aGk=", "line 1: 'binary' is no kind of value"),
    ("a: !!python/object/apply:os.system [id]", "line 1: 'python/object/apply:os.system' is no kind of value"),
    ("a: !mine 1", "line 1: '!mine' is no kind of value"), ("a: !!int b", "invalid literal for int"),
    ("a: !!bool b", "'b'"), ("a: !!float b", "could not convert string to float"),
    ("a: !!null {}", "expected a scalar"),
    (f"a: {'9' * 19}", "line 1: the number 9999999999999999999 has more than 18 digits"),
    (f"a: {'9' * 10**5}", f"line 1: the number {'9' * 40} has more than 18 digits"),
    ('a: "\\0"', "line 1: '\\x00' holds a character that no text may have"), ('a: "\\e[2J"', "'\\x1b[2J' holds a"),
    ('a: "\\ud800"', "'\\ud800' holds a character"), ('"a\\a": 1', "'a\\x07' holds a character"),
    ("a: \x00", "unacceptable character"), ("a: [", "while parsing a flow node"), ("a: b: c", "mapping values are not"),
    ("a: *x", "found undefined alias"), ("--- a\n--- b", "expected a single document"), ("a: @b", "while scanning"),
    ("a: &x [*x]", "line 1: an alias stands inside what it is an alias of"),
    ("&x a: &y {b: [*y]}", "line 1: an alias stands inside"), ("a: &y {<<: *y}", "line 1: an alias stands inside"),
    (BOMB, f"line 4: with its aliases it stands for more than {NODES} values"),
    (MERGED, f"line 5: with its aliases it stands for more than {NODES} values"),
    ("\n".join(f"k{k}: 1" for k in range(20_000)), f"more than {NODES} values"),
    *((text, "lists or mappings are nested too deeply") for text in ("[" * 10**5, "{a: " * 10**4, "- " * 10**5)),
])
def test_what_is_refused_is_one_short_line_at_once(text, line):
    started, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as caught:
        parse(text)
    said = str(caught.value)
    assert said.startswith("cannot be read as YAML: ")
    assert line in said
    assert "\n" not in said
    assert len(said) < 400
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 2**20  # KiB


def test_a_text_of_any_size_is_refused_or_read_at_once():
    assert parse("a: 1\n" + "#" * (BYTES - 5)) == {"a": 1}
    with pytest.raises(UserError, match="a config has at most 256 KiB of text, and this is more"):
        parse("a: 1\n" + "#" * BYTES)
