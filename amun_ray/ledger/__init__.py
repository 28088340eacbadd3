"""The record of deletion requests: entries in a chain, in a database that only ever grows."""

from amun_ray.ledger.database import Ledger
from amun_ray.ledger.entries import Entry, RowId, row_ids
from amun_ray.ledger.history import Asked, History, is_due

__all__ = ["Asked", "Entry", "History", "Ledger", "RowId", "is_due", "row_ids"]
