"""Where a local MLflow database and its artifacts are, even after their folder was moved or copied.

MLflow stores absolute paths of its artifacts. In an output folder they are always beside the database, in
`mlartifacts/`. So a database that names another folder called `mlartifacts` was moved or copied, and its paths are
corrected: in place before anything is written, so that a copy never writes into the folder it was copied from; in a
temporary copy if it is only read, since the same folder may have another path on another host.
"""

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from amun_ray.base.addresses import RULE, has_credentials
from amun_ray.base.databases import SQLITE, database, database_uri
from amun_ray.base.errors import UserError, first_line

ARTIFACTS = "mlartifacts"
LOCATIONS = {"experiments": ("artifact_location",), "runs": ("artifact_uri",),
             "logged_models": ("artifact_location",), "model_versions": ("source", "storage_location")}
WAIT_SECONDS = 30  # for another writer of a database


def settle(uri: str) -> str | None:
    """Correct the artifact paths of an MLflow database that was moved or copied with its artifacts; returns a log line.

    For any other database it does nothing and returns None.

    Raises:
        UserError: the artifacts are still elsewhere, the database cannot be written, or `uri` holds credentials.
    """
    if has_credentials(uri):
        raise UserError(f"tracking.uri {uri!r} {RULE}")
    path = database(uri)
    if path is None or not (old := _elsewhere(path)):
        return None
    here = path.absolute().parent / ARTIFACTS
    if not here.is_dir() and (left := [folder for folder in map(_folder, old) if folder.is_dir()]):
        raise UserError(f"{path}: a copy without its files, which are in {left[0]}: there is no {here}. Copy them here "
                        f"too, or remove {path.name}: the sweep's command then logs everything again from the store")
    _rewrite(path, old, here)
    return f"MLflow: {path} came here from {_folder(old[0]).parent}; it now refers to the files in {here}"


@contextmanager
def readable(uri: str) -> Iterator[str]:
    """A URI for reading what `uri` names; nothing is written to it.

    A database that was moved or copied with its artifacts is read from a corrected copy, which this process keeps.
    """
    path = database(uri)
    if path is None or not (path.parent / ARTIFACTS).is_dir() or not (old := _elsewhere(path)):
        yield uri
        return
    state = path.stat()
    folder = _settled(path.absolute(), tuple(old), (state.st_mtime_ns, state.st_size))
    yield database_uri(Path(folder.name, path.name))


@contextmanager
def tidy(uri: str) -> Iterator[None]:
    """Remove the empty folder that MLflow creates when it opens a database whose URI has percent-encoded characters: it
    mistakes the encoded path for a path."""
    path = database(uri)
    folder = Path(uri.removeprefix(SQLITE)).parent
    mine = path is not None and path.parent != folder and not folder.exists()
    try:
        yield
    finally:
        if mine:
            with suppress(OSError):
                os.removedirs(folder)


@cache
def _settled(path: Path, old: tuple[str, ...], state: tuple[int, int]) -> tempfile.TemporaryDirectory[str]:
    """A folder with a corrected copy of the database `path`, made once for each `state` of it."""
    folder = tempfile.TemporaryDirectory(prefix="amun_mlflow_")
    copy = Path(folder.name, path.name)
    with _opened(path) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    _rewrite(copy, old, path.parent / ARTIFACTS)
    return folder


def _elsewhere(path: Path) -> list[str]:
    """The `mlartifacts` folders elsewhere that the experiments of a database refer to, as URIs."""
    if not path.is_file() or not path.stat().st_size:
        return []
    with _opened(path) as opened:
        if "experiments" not in _tables(opened):
            return []
        locations = [place for (place,) in opened.execute("SELECT DISTINCT artifact_location FROM experiments")]
    here = path.absolute().parent / ARTIFACTS
    return [place for place in locations if place and place.startswith("file:/") and place.endswith(f"/{ARTIFACTS}")
            and not _same(_folder(place), here)]


def _rewrite(path: Path, old: list[str] | tuple[str, ...], here: Path) -> None:
    """Replace `old` by `here` in the database, in one transaction."""
    with _opened(path) as opened:
        opened.execute("BEGIN IMMEDIATE")
        for table in LOCATIONS.keys() & _tables(opened):
            known = {row[1] for row in opened.execute(f"PRAGMA table_info({table})")}
            for column in known & set(LOCATIONS[table]):
                opened.executemany(
                    f"UPDATE {table} SET {column} = ?2 || substr({column}, length(?1) + 1) "
                    f"WHERE {column} = ?1 OR substr({column}, 1, length(?1) + 1) = ?1 || '/'",
                    [(place, here.as_uri()) for place in old])
        opened.execute("COMMIT")


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(path, WAIT_SECONDS, isolation_level=None)) as opened:
            yield opened
    except sqlite3.Error as error:
        raise UserError(f"tracking.uri {f'{SQLITE}{path}'!r}: MLflow cannot be used: {first_line(error)}") from error


def _tables(opened: sqlite3.Connection) -> set[str]:
    return {name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _folder(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def _same(first: Path, second: Path) -> bool:
    """Whether two paths are the same folder."""
    return first == second or (first.is_dir() and second.is_dir() and first.samefile(second))
