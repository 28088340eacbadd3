"""Tables as Markdown that can be read as it stands: columns are padded to one width."""

from collections.abc import Mapping, Sequence
from typing import Any

from amun_ray.reporting.rows import ACCESS, COLUMNS


def grid(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A pipe table; a `|` inside a cell is escaped."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (head, *body)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(head))]
    first, *others = ("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
                      for line in lines)
    return "\n".join([first, "|" + "|".join("-" * (width + 2) for width in widths) + "|", *others])


def mean_and_std(summary: Mapping[str, float]) -> str:
    """`mean ± std` of an entry of results.json, both with two digits."""
    return f"{summary['mean']:.2f} ± {summary['std']:.2f}"


def results_table(rows: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> str:
    """The table of a sweep, ready to be pasted: the least Avg. Gap of the methods in bold, `notes` as a list below.

    Args:
        rows: as in results.json, in its order.
    """
    gaps = [row["average_gap"]["mean"] for row in rows if row["access"] is not None]
    body = []
    for row in rows:
        cells = [mean_and_std(row[term]) for term in COLUMNS]
        if row["access"] is not None and row["average_gap"]["mean"] == min(gaps):
            cells[-1] = f"**{cells[-1]}**"
        body.append([row["method"], ACCESS[row["access"]], *cells])
    text = grid(["method", "access", *COLUMNS.values()], body)
    return "\n".join([text, "", *(f"- {note}" for note in notes if note), ""])
