"""What the benchmarks share: rows, their table, `--json`, and the error where something is missing.

A script in this folder imports it first: that puts the package beside it on the path, here and in Ray's workers.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

from amun_ray.base.errors import UserError  # noqa: E402

Row = dict[str, Any]  # as it is written to JSON: name, value, quartiles (of several values), unit, goal, met


class Goal(NamedTuple):
    """What a value must be, in words and as a test."""

    text: str
    met: Callable[[float], bool]


NONE = Goal("none, for comparison", lambda value: True)


def at_least(bound: float) -> Goal:
    return Goal(f">= {bound:.4g}", lambda value: value >= bound)


def at_most(bound: float) -> Goal:
    return Goal(f"<= {bound:.4g}", lambda value: value <= bound)


def near(bound: float, within: float) -> Goal:
    return Goal(f"within {within:g} of {bound:.4g}", lambda value: abs(value - bound) <= within)


def row(name: str, measured: float | Sequence[float], unit: str, goal: Goal = NONE) -> Row:
    """One claim: a number, or the median of several, by which `goal` is judged, and their quartiles."""
    values = [float(one) for one in measured] if isinstance(measured, Sequence) else [float(measured)]
    value, found = statistics.median(values), {}
    if len(values) > 1:
        first, _, third = statistics.quantiles(values, n=4, method="inclusive")
        found["quartiles"] = [round(first, 4), round(third, 4)]
    return {"name": name, "value": round(value, 4)} | found | {"unit": unit, "goal": goal.text,
                                                               "met": bool(goal.met(value))}


def in_turns(ways: Mapping[str, Callable[[], Any]], rounds: int) -> list[dict[str, tuple[float, Any]]]:
    """Run every function once per round, in rotating order: its seconds, and what it returned."""
    names = list(ways)
    found: list[dict[str, tuple[float, Any]]] = []
    for number in range(rounds):
        found.append({})
        first = number % len(names)
        for name in names[first:] + names[:first]:
            begun = time.perf_counter()
            result = ways[name]()
            found[-1][name] = time.perf_counter() - begun, result
    return found


def table(rows: Sequence[Row]) -> str:
    """A line per row, in columns."""
    def spread(entry: Row) -> str:
        return "({:,.3f} .. {:,.3f})".format(*entry["quartiles"]) if "quartiles" in entry else ""

    lines = [(entry["name"], f"{entry['value']:,.3f}", spread(entry), entry["unit"], f"goal {entry['goal']}:",
              "met" if entry["met"] else "MISSED") for entry in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{cell:{'>' if at == 1 else '<'}{width}}" for at, (cell, width) in
                               enumerate(zip(line, widths, strict=True))).rstrip() for line in lines)


def command(doc: str) -> argparse.ArgumentParser:
    """The command line of a benchmark whose docstring is `doc`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=_writable, metavar="FILE", help="write the rows there as a JSON list")
    return parser


def _writable(text: str) -> Path:
    """A path for a new file, checked before minutes of measuring."""
    path = Path(text)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path}: must be a file in a folder that is there and can be written to")
    return path


def count(text: str) -> int:
    """A number of rounds or samples."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more, but got {text!r}")
    return int(text)


def show(rows: Sequence[Row], file: Path | None) -> None:
    """Print the rows, and write them where asked."""
    print(table(rows))
    if file is not None:
        file.write_text(json.dumps(rows, indent=2) + "\n")


def end(main: Callable[[], None]) -> None:
    """Run `main` and exit: with code 2 and one line where an input is missing or wrong."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
