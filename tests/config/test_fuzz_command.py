"""Made-up configs through the command: a plan, or one line for each mistake, and nothing is written."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from fuzzing import FUZZ
from hypothesis import event, given
from hypothesis import strategies as st

from amun_ray.attacks import ATTACKS
from amun_ray.base.log import LONGEST
from amun_ray.config.file import SHOWN
from amun_ray.data import DATASETS
from amun_ray.models import MODELS
from amun_ray.sweep import main
from amun_ray.training.recipe import RECIPES
from amun_ray.unlearn import METHODS

PLAIN = {
    "name": "mine", "seed": 0,
    "data": {"name": "digits", "train_size": 300, "seed": 1, "crop": 1, "normalize": "none"},
    "model": {"name": "small_cnn", "options": {"width": 4}}, "training": {"recipe": "fast", "epochs": 2, "lr": 0.1},
    "originals": {"count": 2}, "forget": {"fraction": 0.1, "sets": 2}, "held_out": {"sets": 1, "originals": 1},
    "references": {"count": 4}, "rmia": {"gamma": 1.0}, "attack": {"search": {"name": "pgd_l2", "steps": 5}},
    "methods": {"amun": None, "salun": {"search": ["mask_ratio"], "settings": {"forget_statistics": 1}},
                "finetune": {"access": ["retain"], "points": [{"lr": 0.01, "schedule": "never"}]}},
    "search": {"trials": 3, "lr": {"low": 1e-4, "high": 0.1}, "schedules": ["never", "every_1"], "sampler": "grid",
               "grid": {"lr": 3}},
    "unlearning": {"batch_size": 64}, "final": {"runs": 1}, "tracking": {"models": "all"},
    "resources": {"gpus": "auto", "cpus": 1, "threads": 1},
}
NAMES = [*METHODS, *ATTACKS, *MODELS, *DATASETS, *RECIPES, "os:system", "ours:", "a.b:C", "retain", "forget_only",
         "tpe", "grid", "proxy", "every_2", "never", "auto", "imagenet", "one_cycle", "cosine", "train.parquet",
         "request.csv", "~", "/", "..", "*", "?#%", "file:///nowhere", "memory://nowhere", "x" * 300, "2024-01-01"]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 12), st.integers(), st.floats(), st.floats(0, 1), st.text(max_size=8),
    st.sampled_from([10**9, 10**17, 10**30, -1, 1e-300, 1e300, float("nan"), float("inf")]), st.sampled_from(NAMES),
    st.dates(), st.binary(max_size=4))
KEYS = st.one_of(st.sampled_from(sorted({key for part in PLAIN.values() if isinstance(part, dict) for key in part})),
                 st.text(max_size=6), st.sampled_from(NAMES))
VALUES = st.recursive(SCALARS, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.dictionaries(st.one_of(KEYS, st.integers(0, 9)), inner, max_size=3)), max_leaves=6)
SNIPPETS = ["&a", "*a", "<<: *a", "!!python/object:os.system", "!!binary", "? ", "- ", "{", "}", "[", "\t", "|",
            "---\n", "...\n", "%YAML 1.2\n", "\x00", "\u2028", "\ud800", "'", '"', "#", ": ", "010", "1:30", ".inf",
            "0x1F", "2024-01-01", "\r", "~", "\N{BYTE ORDER MARK}"]


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    """The current folder: a config's data and its forget list are there; nothing else may come to be in it."""
    folder = tmp_path_factory.mktemp("fuzz")
    pq.write_table(pa.table({"image": [b"no image"] * 3, "label": [0, 1, 0]}), folder / "train.parquet")
    (folder / "request.csv").write_text("index\n3\n5\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@st.composite
def configs(draw):
    """A valid config with up to four of its values changed, replaced or removed."""
    content = yaml.safe_load(yaml.safe_dump(PLAIN))
    for _ in range(draw(st.integers(1, 4))):
        at, steps = content, draw(st.integers(0, 2))
        key = draw(st.sampled_from(sorted(content))) if content else "name"
        for _ in range(steps):
            if not isinstance(at.get(key), dict) or not at[key]:
                break
            at = at[key]
            key = draw(st.one_of(st.sampled_from(sorted(at, key=str)), KEYS))
        if draw(st.integers(0, 4)):
            at[key] = draw(VALUES)
        else:
            at.pop(key, None)
    return content


@st.composite
def texts(draw):
    """The bytes of a valid config with a few YAML signs, or a few random bytes, inserted."""
    text = yaml.safe_dump(PLAIN, default_flow_style=draw(st.sampled_from([False, None])), sort_keys=False)
    for _ in range(draw(st.integers(1, 3))):
        at, cut = draw(st.integers(0, len(text))), draw(st.integers(0, 8))
        text = text[:at] + draw(st.one_of(st.sampled_from(SNIPPETS), st.text(max_size=4))) + text[at + cut:]
    content = bytearray(text.encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-16"])), "surrogatepass"))
    if draw(st.booleans()):
        content[draw(st.integers(0, len(content) - 1))] ^= draw(st.integers(1, 255))
    return bytes(content)


def asked(capfd, content: bytes, *arguments: str) -> int:
    """The exit code of a dry run; what it says is checked, and what it leaves behind."""
    Path("mine.yaml").write_bytes(content)
    before = sorted(Path().rglob("*"))
    code = main(["--config", "mine.yaml", "--dry-run", "--output", "out", *arguments])
    event(f"exit code {code}")
    said, error = capfd.readouterr()
    assert sorted(Path().rglob("*")) == before
    assert "Traceback" not in said + error
    if code == 0:
        assert said.startswith("sweep ")
        assert error == ""
        return code
    assert code == 2
    assert said == ""
    assert error.startswith("error: ")
    lines = error.removesuffix("\n").split("\n")
    assert len(lines) <= SHOWN + 1
    assert all(re.match(r"(error: )?\S", line) and len(line) <= LONGEST + 3 for line in lines)
    return code


@FUZZ
@given(content=st.just(yaml.safe_dump(PLAIN).encode()))
def test_what_is_changed_was_right(capfd, content):
    assert asked(capfd, content) == 0


@FUZZ
@given(content=configs())
def test_a_config_of_wrong_values_is_planned_or_refused(capfd, content):
    assert asked(capfd, yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass")) in (0, 2)


@FUZZ
@given(content=texts())
def test_a_config_of_damaged_text_is_planned_or_refused(capfd, content):
    assert asked(capfd, content) in (0, 2)


@FUZZ
@given(override=st.tuples(st.lists(KEYS, min_size=1, max_size=3).map(".".join), st.sampled_from(["=", ""]), st.one_of(
    VALUES.map(lambda value: yaml.safe_dump(value, default_flow_style=True)), st.text(max_size=9),
    st.sampled_from(SNIPPETS))).map("".join))
def test_an_override_is_planned_or_refused(capfd, override):
    assert asked(capfd, yaml.safe_dump(PLAIN).encode(), f"--set={override}") in (0, 2)


