"""A ledger in a file of SQLite, read without SQLAlchemy, which takes longer to import than 4,000 entries to verify."""

import sqlite3
from contextlib import closing
from pathlib import Path

from amun_ray.base.errors import StorageError, first_line
from amun_ray.ledger.anchor import Anchor
from amun_ray.ledger.entries import Entry, check_chain
from amun_ray.ledger.history import History

NAME, ANCHOR = "ledger.db", "ledger.anchor"  # in the folder of the sweep
TABLE, COLUMNS = "amun_ledger", ("number", "kind", "requests", "time", "content", "before", "digest")
WAIT_SECONDS = 60  # for another process that inserts an entry


def history_of(output: Path) -> History:
    """All entries of the ledger in a sweep's folder, read and verified now; as `Ledger.history`."""
    return verified(entries_of(output / NAME), str(output / NAME), Anchor(output / ANCHOR), beside=True)


def entries_of(path: Path) -> list[Entry]:
    """All entries in a file, as they are; none where there is no file.

    Raises:
        StorageError: it cannot be read.
    """
    if not path.exists():  # SQLite would make an empty one
        return []
    try:
        with closing(sqlite3.connect(path, timeout=WAIT_SECONDS)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [TABLE]).fetchall():
                return []
            return [Entry.stored(*row) for row in connection.execute(
                f"SELECT {', '.join(COLUMNS)} FROM {TABLE} ORDER BY number")]
    except (sqlite3.Error, OSError) as error:
        raise unusable(str(path), "read", error) from error


def verified(entries: list[Entry], name: str, anchor: Anchor, *, beside: bool) -> History:
    """What entries come to, if the chain is whole.

    Args:
        name: what messages call the ledger.
        beside: whether the anchor must be there, since the ledger is a file in its folder.

    Raises:
        Damaged: the chain is broken, see `check_chain`; or the anchor is, or is gone from beside the file.
    """
    remembered = anchor.read()
    if remembered is None and entries and beside:
        anchor.missing(name)
    check_chain(entries, name, remembered)
    return History(tuple(entries))


def unusable(name: str, what: str, error: Exception) -> StorageError:
    """The error of a ledger that cannot be read, written or locked."""
    return StorageError(f"ledger {name} cannot be {what}: {first_line(error)}. Once it can, the same command goes on")
