"""The table of a sweep as text for a terminal, and as Markdown that can be read as it stands."""

from collections.abc import Mapping, Sequence
from typing import Any

from amun_ray.plots import mean_and_std
from amun_ray.reporting.columns import ACCESS, ATTACKS, SHOWN, shown_columns
from amun_ray.reporting.grid import grid
from amun_ray.reporting.rows import Row, marks, notes


def markdown_table(rows: Sequence[Mapping[str, Any]], remarks: Sequence[str]) -> str:
    """The table of a sweep, ready to be pasted: the least Avg. Gap of the methods in bold, `remarks` as a list below.

    Args:
        rows: as in results.json, in its order.
    """
    columns = shown_columns(rows[0])
    gaps = [row["average_gap"]["mean"] for row in rows if row["access"] is not None and "failed" not in row]
    body = []
    for row in rows:
        cells = [mean_and_std(row[term]) if term in row else "" for term in columns]
        if row["access"] is not None and "failed" not in row and row["average_gap"]["mean"] == min(gaps):
            cells[-1] = f"**{cells[-1]}**"
        body.append([row["method"], ACCESS[row["access"]], *cells])
    text = grid(["method", "access", *columns.values()], body)
    return "\n".join([text, "", *(f"- {remark}" for remark in remarks if remark), ""])


def text_table(rows: Sequence[Row]) -> str:
    """The rows as text, each number mean +- standard deviation in percent; the retrained row is the target. Below it
    the other attacks, where there are any."""
    notes_by_row = marks(rows)
    columns = shown_columns(rows[0].summary)
    text = _aligned([["method", "access", *columns.values(), "lr, schedule, epochs", ""]] + [
        [row.method, ACCESS[row.access], *(_cell(row, term) for term in columns), settings(row),
         notes_by_row.get(row.name, "")] for row in rows])
    shown = [term for term in SHOWN if any(term in row.summary for row in rows)]
    if shown:
        text += ["", *_aligned([["other attacks", "", *(ATTACKS[term][0] for term in shown)],
                                ["a good value", "", *(ATTACKS[term][1] for term in shown)]] + [
            [row.method, ACCESS[row.access], *(_cell(row, term) for term in shown)] for row in rows], heads=2)]
    return "\n".join(text + notes(rows))


def _cell(row: Row, term: str) -> str:
    if row.failed is not None or term not in row.summary:
        return ""
    return mean_and_std(row.summary[term]._asdict()).replace("±", "+-")  # a terminal may know ASCII alone


def _aligned(lines: Sequence[Sequence[str]], heads: int = 1) -> list[str]:
    """Lines of cells as lines of text, the first `heads` of them above a rule."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    ruled = [*lines[:heads], ["-" * width for width in widths], *lines[heads:]]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in ruled]


def settings(row: Row) -> str:
    """Learning rate, schedule, epochs and the method's own settings of a row, as one text."""
    if row.settings is None:
        return "<- the target" if row.method == "retrain" else ""
    own = "".join(f", {key}={value:.3g}" for key, value in row.settings.own.items())
    return f"{row.settings.lr:.2e}, {row.settings.schedule}, {row.settings.epochs}{own}"
