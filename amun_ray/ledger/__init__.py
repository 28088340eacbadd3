"""The record of deletion requests: entries in a chain, in a database that only ever grows.

`Ledger` is loaded when it is first used, since SQLAlchemy takes a second that a reader of a file spares.
"""

from typing import TYPE_CHECKING, Any

from amun_ray.ledger.entries import Entry, RowId, row_ids
from amun_ray.ledger.history import Asked, History, is_due

if TYPE_CHECKING:
    from amun_ray.ledger.database import Ledger

__all__ = ["Asked", "Entry", "History", "Ledger", "RowId", "is_due", "row_ids"]


def __getattr__(name: str) -> Any:
    if name != "Ledger":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from amun_ray.ledger.database import Ledger

    return Ledger
