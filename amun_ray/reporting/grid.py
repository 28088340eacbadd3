"""Cells as a pipe table, for a terminal and for Markdown."""

from collections.abc import Sequence


def grid(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A pipe table; a `|` inside a cell is escaped."""
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (head, *body)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(head))]
    first, *others = ("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
                      for line in lines)
    return "\n".join([first, "|" + "|".join("-" * (width + 2) for width in widths) + "|", *others])
