"""The database of a ledger: one table that is only ever inserted into, a file of SQLite or PostgreSQL by its URI.

An entry is inserted in one transaction, which reads the last one and holds the lock of all writers: BEGIN IMMEDIATE in
SQLite, an advisory lock in PostgreSQL. So entries follow each other without gaps, whoever writes, and a kill leaves an
entry whole or absent. Both locks end with the process that has them. In SQLite triggers refuse UPDATE and DELETE.

Cost: a read takes all entries: a few kilobytes for each, and 80 bytes for each row that was asked for.
"""

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, overload

import sqlalchemy as sql
from sqlalchemy.exc import SQLAlchemyError

from amun_ray.base.databases import database_uri
from amun_ray.base.errors import StorageError, UserError, first_line
from amun_ray.base.files import expanded
from amun_ray.base.log import say
from amun_ray.ledger import file
from amun_ray.ledger.anchor import Anchor
from amun_ray.ledger.entries import KINDS, Entry, check_chain, text
from amun_ray.ledger.history import History

DRIVERS = ("sqlite", "postgresql", "postgresql+psycopg2", "postgresql+psycopg")
TABLE = sql.Table(
    file.TABLE, sql.MetaData(), sql.Column("number", sql.Integer, primary_key=True, autoincrement=False),
    *(sql.Column(name, sql.Text, nullable=False) for name in file.COLUMNS[1:]))
APPEND_ONLY = "CREATE TRIGGER IF NOT EXISTS amun_ledger_no_{0} BEFORE {0} ON amun_ledger BEGIN SELECT RAISE(ABORT, " \
              "'a ledger is only added to'); END"


class Ledger:
    """The ledger at `uri`, `sqlite:///PATH` or `postgresql://...`; `anchor` is a file of this machine, see `Anchor`.
    Nothing is made before the first entry.

    Raises:
        UserError: a URI of another form, or a database without its driver.
    """

    def __init__(self, uri: str, anchor: Path) -> None:
        self.uri, self.anchor = uri, Anchor(anchor)
        self._engine = self._made()
        self._name = str(self._engine.url.database) if self._is_file else str(self._engine.url)  # without the password

    @classmethod
    def of(cls, uri: str | None, output: Path) -> "Ledger":
        """The ledger at `uri` or, where there is none, that of the sweep in the folder `output`."""
        return cls(expanded(uri) if uri else database_uri(output / file.NAME), output / file.ANCHOR)

    @property
    def history(self) -> History:
        """All entries, read and verified now.

        Raises:
            Damaged: the chain is broken, see `check_chain`; or the anchor is, or is gone from beside the file.
            UserError: the database cannot be read, or is something else.
        """
        beside = self._is_file and self.anchor.path.parent == Path(self._name).parent
        return file.verified(self._entries, self._name, self.anchor, beside=beside)

    def trust(self, digest: str) -> Entry:
        """Write the anchor anew, at the entry that has `digest`: for a person who kept that digest elsewhere.

        Raises:
            Damaged: the chain is broken.
            UserError: no entry has it.
        """
        entries = self._entries
        check_chain(entries, self._name)
        entry = next((each for each in entries if each.digest == digest), None)
        if entry is None:
            raise UserError(f"--trust {digest}: no entry of ledger {self._name} has this digest; if it is the one that "
                            "you kept, entries were removed or replaced")
        with self._talking("trusted"):
            self.anchor.write(entry.number, entry.digest)
        return entry

    @property
    def _entries(self) -> list[Entry]:
        """All entries, as they are."""
        if self._is_file:
            return file.entries_of(Path(self._name))
        with self._talking("read"), self._engine.connect() as connection:
            return self._read(connection)

    @overload
    def append(self, kind: str, requests: Sequence[str] = (), content: Mapping[str, Any] | None = None, *,
               expected: None = None) -> Entry: ...

    @overload
    def append(self, kind: str, requests: Sequence[str] = (), content: Mapping[str, Any] | None = None, *,
               expected: int) -> Entry | None: ...

    def append(self, kind: str, requests: Sequence[str] = (), content: Mapping[str, Any] | None = None, *,
               expected: int | None = None) -> Entry | None:
        """Add an entry with the time of now.

        Args:
            kind: one of KINDS; `content` as `entries` says.
            expected: the number that it must get; nothing is added, and None returned, where another process was
                faster.

        Raises:
            UserError: the clock is behind the last entry.
            StorageError: the database takes no more: a full disk, a server that is away, another process that has
                had its lock for a minute.
        """
        assert kind in KINDS, kind
        with self._talking("written"), self._inserting() as connection:
            last = self._last(connection)
            entry = Entry.after(last, kind, requests, self._now(last), json.loads(text(content or {})))
            if expected not in (None, entry.number):
                return None
            if last is None:
                self.anchor.begin()
            connection.execute(TABLE.insert().values(
                {name: getattr(entry, name) for name in ("number", "kind", "time", "before", "digest")} |
                {"requests": json.dumps(entry.requests), "content": text(entry.content)}))
        with suppress(OSError):  # a disk that is full just now: the anchor stays at an earlier entry
            self.anchor.write(entry.number, entry.digest)
        return entry

    @contextmanager
    def working(self) -> Iterator[None]:
        """While this is open no other process works on the requests of this ledger; one that wants to waits, and says
        so. Entries may be added by anybody all the same: a request can always be received."""
        with self._locked_file() if self._is_file else self._locked_server():
            yield

    @contextmanager
    def _locked_file(self) -> Iterator[None]:
        with self._talking("locked"):
            Path(f"{self._name}.lock").touch()
        with open(f"{self._name}.lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._say_waiting()
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _locked_server(self) -> Iterator[None]:
        with self._talking("locked"):
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        with connection:
            with self._talking("locked"):
                if not connection.scalar(sql.select(sql.func.pg_try_advisory_lock(self._key, 1))):
                    self._say_waiting()
                    connection.execute(sql.select(sql.func.pg_advisory_lock(self._key, 1)))
            yield
            connection.execute(sql.select(sql.func.pg_advisory_unlock(self._key, 1)))

    def _made(self) -> sql.Engine:
        try:
            url = sql.make_url(self.uri)
            if url.drivername not in DRIVERS or not url.database or url.database == ":memory:":
                raise UserError(f"ledger {url}: must be sqlite:///PATH or postgresql+psycopg2://HOST/DATABASE")
            timeout = {"timeout": file.WAIT_SECONDS} if url.get_backend_name() == "sqlite" else {}
            return sql.create_engine(url, connect_args=timeout, poolclass=sql.NullPool)
        except ImportError as error:
            package = "psycopg[binary]" if error.name == "psycopg" else "amun_ray[postgresql]"
            raise UserError(f"ledger {url}: its driver {error.name} is not installed; pip install '{package}'"
                            ) from error
        except SQLAlchemyError as error:
            raise UserError(f"the ledger's URI cannot be used: {first_line(error)}") from error

    @property
    def _is_file(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    @property
    def _key(self) -> int:
        """What the advisory locks of this ledger are called, a 31-bit number."""
        return int.from_bytes(hashlib.sha256(TABLE.name.encode()).digest()[:4], "big") >> 1

    @contextmanager
    def _inserting(self) -> Iterator[sql.Connection]:
        """A transaction that no other one inserts beside."""
        with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE" if self._is_file else "BEGIN")
            try:
                if not self._is_file:
                    connection.execute(sql.select(sql.func.pg_advisory_xact_lock(self._key, 2)))
                TABLE.create(connection, checkfirst=True)
                if self._is_file:
                    for change in ("UPDATE", "DELETE"):
                        connection.exec_driver_sql(APPEND_ONLY.format(change))
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                with suppress(SQLAlchemyError):
                    connection.exec_driver_sql("ROLLBACK")
                raise

    @contextmanager
    def _talking(self, what: str) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, OSError) as error:
            if isinstance(error, StorageError):
                raise
            raise file.unusable(self._name, what, getattr(error, "orig", None) or error) from error

    def _read(self, connection: sql.Connection) -> list[Entry]:
        if not sql.inspect(connection).has_table(TABLE.name):
            return []
        return [Entry.stored(*row) for row in connection.execute(TABLE.select().order_by(TABLE.c.number))]

    def _last(self, connection: sql.Connection) -> Entry | None:
        row = connection.execute(TABLE.select().order_by(TABLE.c.number.desc()).limit(1)).first()
        return None if row is None else Entry.stored(*row)

    def _now(self, last: Entry | None) -> str:
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        if last is not None and now < last.time:
            raise UserError(f"the clock of this machine says {now}, and the last entry of {self._name} is of "
                            f"{last.time}; set the clock")
        return now

    def _say_waiting(self) -> None:
        say(f"another process works on the requests of {self._name}; waiting for its end")
