"""What a study found, in the forms in which it is told: a sentence, a table, pictures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from amun_ray.reporting.grid import grid


@dataclass(frozen=True)
class Finding:
    """The result of the study `name`: what its table shows, the table, and PNG files by name."""

    name: str
    says: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """For a terminal, and as Markdown."""
        return f"study {self.name}: {self.says}\n\n{grid(self.head, self.rows)}"

    @property
    def pictures(self) -> dict[str, bytes]:
        """The figures by the paths that they are kept under."""
        return {f"figures/study_{name}.png": png for name, png in self.figures.items()}

    @property
    def files(self) -> dict[str, bytes]:
        """The table, to be read and as data."""
        rows = [dict(zip(self.head, row, strict=True)) for row in self.rows]
        return {f"study_{self.name}.md": f"{self.text}\n".encode(),
                f"study_{self.name}.json": json.dumps(rows, indent=1).encode()}
