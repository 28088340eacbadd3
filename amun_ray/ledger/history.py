"""What the entries of a ledger add up to: the state of every request, which rows are forgotten, what is due.

Nothing of this is stored. It follows from the chain, so that it cannot disagree with it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from amun_ray.ledger.entries import Entry, RowId

STATES = ("received", "begun", "refused", "accepted", "promoted", "purged")


@dataclass(frozen=True)
class Asked:
    """One request, with the last entry of each kind about it; those of an earlier try are left out."""

    id: str
    received: Entry
    begun: Entry | None = None
    finished: Entry | None = None
    promoted: Entry | None = None
    purged: Entry | None = None

    @property
    def state(self) -> str:
        """The furthest of STATES that it has reached."""
        if self.purged is not None and self.promoted is not None:
            return "purged"
        if self.promoted is not None:
            return "promoted"
        if self.finished is not None:
            return "accepted" if self.finished.content["accepted"] else "refused"
        return "received" if self.begun is None else "begun"

    @property
    def rows(self) -> list[RowId]:
        return self.received.rows

    @property
    def outcome(self) -> Entry:
        """The entry that finished it: of a request that is accepted, refused, promoted or purged."""
        assert self.finished is not None, f"{self.id} is {self.state}"
        return self.finished


@dataclass(frozen=True)
class History:
    """All entries of a ledger, in order."""

    entries: Sequence[Entry]

    @property
    def opened(self) -> Entry | None:
        """The first entry, where there is one."""
        return self.entries[0] if self.entries else None

    @property
    def original(self) -> dict[str, Any]:
        """The model that a ledger begins with: `unit`, `weights`, `test_accuracy`."""
        assert self.opened is not None, "a ledger begins with its original"
        return self.opened.content["original"]

    @cached_property
    def requests(self) -> dict[str, Asked]:
        """Every request by its id, in the order in which they were received."""
        entries: dict[str, dict[str, Entry]] = {}
        for entry in self.entries:
            for request in entry.requests:
                if entry.kind == "begun":  # another try: the result of the earlier one no longer counts
                    entries[request].pop("finished", None)
                entries.setdefault(request, {})[entry.kind] = entry
        return {request: Asked(request, **kinds) for request, kinds in entries.items()}

    def of(self, *states: str) -> list[Asked]:
        """The requests in one of `states`, in the order in which they were received."""
        return [asked for asked in self.requests.values() if asked.state in states]

    @property
    def next_id(self) -> str:
        """The id of the next request."""
        return f"r{len(self.requests) + 1}"

    @property
    def step(self) -> int:
        """How many steps were begun: models made, each from the one before and for one request or a batch."""
        return sum(entry.kind == "begun" for entry in self.entries)

    @property
    def begun(self) -> Entry | None:
        """The step that was begun and not finished."""
        last = next((entry for entry in reversed(self.entries) if entry.kind in ("begun", "finished")), None)
        return last if last is not None and last.kind == "begun" else None

    @property
    def promoted(self) -> Entry | None:
        """The last promotion."""
        return next((entry for entry in reversed(self.entries) if entry.kind == "promoted"), None)

    @property
    def retired(self) -> set[str]:
        """The requests that were purged together with every model that remembered their rows."""
        return {request for entry in self.entries if entry.kind == "purged" and entry.content.get("retired")
                for request in entry.requests}

    @property
    def weights(self) -> str:
        """The digest of the weights that are in production: of the last promotion, or the original."""
        if self.promoted is not None:
            return self.promoted.content["model"]
        return self.original["weights"]

    @cached_property
    def asked(self) -> dict[RowId, str]:
        """Every row that was ever asked for, and the first request that names it. None of them is trained on again."""
        return self._named(self.requests.values())

    @property
    def pictures(self) -> set[str]:
        """Every picture that was ever asked for, also those that no model was trained on."""
        added = (picture for asked in self.requests.values() for _, picture in asked.received.content.get("added", ()))
        return {*(row.picture for row in self.asked), *added}

    @cached_property
    def forgotten(self) -> dict[RowId, str]:
        """The rows that the model in production has forgotten, and the request that did it."""
        return self._named(self.of("promoted", "purged"))

    @staticmethod
    def _named(requests: Iterable[Asked]) -> dict[RowId, str]:
        named: dict[RowId, str] = {}
        for asked in requests:
            for row in asked.rows:
                named.setdefault(row, asked.id)
        return named


def is_due(waiting: Sequence[Asked], rows: int, days: float | None, now: datetime | None = None) -> bool:
    """Whether the waiting requests have `rows` rows together, or the oldest has waited for `days`."""
    if not waiting:
        return False
    oldest = min(datetime.fromisoformat(asked.received.time) for asked in waiting)
    waited = ((now or datetime.now(UTC)) - oldest).total_seconds() / 86400
    return sum(len(asked.rows) for asked in waiting) >= rows or (days is not None and waited >= days)
