"""What changed since the last start of a sweep in the same folder: explains why work is repeated."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from amun_ray.base.files import write_whole
from amun_ray.config.later import without_later
from amun_ray.config.schema import Sweep
from amun_ray.work.plan import ELSEWHERE

CONFIG = "config.yaml"


def changes(sweep: Sweep, output: Path) -> list[str]:
    """One line for each setting that differs from the last start in `output`, and the consequence.

    A setting that an earlier version did not know is no difference while it keeps the earlier behaviour. Writes the
    complete config of this start there for the next comparison, as a file that `--config` accepts.
    """
    path, now = output / CONFIG, sweep.model_dump(mode="json")
    before, after = _last(path), flat(without_later(now))
    absent = "not there"
    differing = [key for key in dict.fromkeys([*before, *after]) if before.get(key, absent) != after.get(key, absent)]
    write_whole(path, yaml.safe_dump(now, sort_keys=False).encode())
    if not before or not differing:
        return []
    lines = [f"  {key}: {before.get(key, absent)} -> {after.get(key, absent)}" for key in differing]
    if all(key.partition(".")[0] in (*ELSEWHERE, "study") for key in differing):
        return ["changed since the last start in this folder, without effect on the sweep's results:", *lines]
    return ["changed since the last start in this folder:", *lines,
            "  what depends on these gets a new digest and is rebuilt; the rest is taken from the store"]


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `key.path` -> value."""
    flattened: dict[str, Any] = {}
    for key, value in settings.items():
        flattened |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flattened


def _last(path: Path) -> dict[str, Any]:
    """The flat config of the last start; empty if there was none or its file is damaged."""
    try:
        content = yaml.safe_load(path.read_text())
        return flat(without_later(content)) if isinstance(content, dict) else {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError):  # the last: a section that is none
        return {}
