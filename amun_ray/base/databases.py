"""The URI of an SQLite database in a file, for whatever the path has in it, and back."""

from contextlib import suppress
from pathlib import Path

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from amun_ray.base.errors import UserError
from amun_ray.base.files import IN_URI

SQLITE = "sqlite:///"


def database_uri(path: Path) -> str:
    """The URI of an SQLite database, by which MLflow opens just this file.

    Raises:
        UserError: there is none: before version 2.1 SQLAlchemy has no way to write `?`.
    """
    for written in (str(path).translate(IN_URI), str(path)):  # before 2.1 a percent sign means itself
        if make_url(SQLITE + written).database == str(path):
            return SQLITE + written
    raise UserError(f"{path}: SQLAlchemy 2.1 is needed for a database in a folder of that name; install it, or rename "
                    "the folder")


def database(uri: str) -> Path | None:
    """The file of an SQLite database; None where `uri` names something else."""
    if not uri.startswith(SQLITE):
        return None
    with suppress(ArgumentError):
        return Path(path) if (path := make_url(uri).database) else None
    return None
