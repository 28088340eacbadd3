"""What to log in MLflow, as data that can be sent now, or kept in a folder and sent later."""

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amun_ray.base.errors import Damaged, StorageError, first_line

KEY = "amun.key"  # the tag that identifies a run
NUMBER = re.compile(r"\d+")  # the name of an event that waits
Content = bytes | memoryview  # of a file; a view of what lies on a disk takes no memory
CONTENT = ("files", "model")  # the fields of an event that hold files


@dataclass(frozen=True, kw_only=True)
class Event:
    """Everything to log for one finished piece of work, or an addition to the sweep's own run.

    Attributes:
        key: digest of the work; a run is tagged with it and found by it.
        parent: id of the sweep's run. An event with a parent creates a complete run, unless it exists. One without a
            parent adds to the run with its key.
        above: id of the run under which a new run is shown; the parent if not given.
        name: of a new run.
        description: Markdown, shown at the top; cut, with a note, at MLflow's limit, with the whole as an artifact.
        ended: when the work ended, in seconds since 1970: the end of a new run, and the time of every metric, so that a
            request that is sent twice counts once.
        seconds: how long the work of a new run took.
        datasets: (name, digest, number of samples, context) of what the run read.
        tags, params: of the run; parameters cannot change, so only the event that creates a run has any.
        metrics: (name, value, step).
        files: artifacts, path below the run -> content; an existing path is replaced.
        model: the folder of an MLflow model, path -> content. Its scores are the run's metrics.
        registered: name under which to register the model. Its tags name its `request` and the search's score, which
            decide on the alias `best`: see `Tracker._register`.
        status: FINISHED, FAILED, KILLED or RUNNING; None leaves it unchanged.
    """

    key: str
    parent: str | None = None
    above: str | None = None
    name: str | None = None
    description: str | None = None
    ended: float = field(default_factory=time.time)
    seconds: float = 0.0
    datasets: Sequence[tuple[str, str, int, str]] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[tuple[str, float, int]] = ()
    files: Mapping[str, Content] = field(default_factory=dict)
    model: Mapping[str, Content] = field(default_factory=dict)
    registered: str | None = None
    status: str | None = None


class Spool:
    """Events not yet sent to MLflow, one folder each, in order. A folder that exists is complete."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def waiting(self) -> list[Path]:
        """The kept events, oldest first."""
        return sorted(path for path in self._numbered() if path.is_dir())

    def _numbered(self) -> list[Path]:
        return [path for path in self.folder.glob("[0-9]*") if NUMBER.fullmatch(path.name)]

    def add(self, event: Event) -> None:
        """Append an event to the queue; StorageError if there is no room for it."""
        last = max((int(path.name) for path in self._numbered()), default=0)
        partial = self.folder / f".{uuid.uuid4().hex}"
        rest = {name: value for name, value in vars(event).items() if name not in CONTENT}
        try:
            for part in CONTENT:
                write_files(partial / part, getattr(event, part))
            (partial / "event.json").write_text(json.dumps(rest, default=str))
            os.replace(partial, self.folder / f"{last + 1:08d}")
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise StorageError(f"{self.folder}: what MLflow could not be told cannot be kept: {first_line(error)}. "
                               "Once it can, the same command goes on") from error

    @staticmethod
    def read(path: Path) -> Event:
        """The event in a folder from `waiting`; Damaged if it is not what was written."""
        try:
            content: dict[str, Any] = json.loads((path / "event.json").read_text())
            return Event(**content | {part: read_files(path / part) for part in CONTENT})
        except (FileNotFoundError, ValueError, TypeError) as error:
            raise Damaged(f"{path}: not an event that was kept whole: {first_line(error)}") from error

    @staticmethod
    def set_aside(path: Path) -> Path:
        """Take a damaged event out of the queue; returns where it is now."""
        aside = path.with_name(f"damaged-{path.name}-{uuid.uuid4().hex[:8]}")
        os.replace(path, aside)
        return aside

    def remove(self, path: Path) -> None:
        """Drop an event that was sent; the last one also removes the spool itself, if nothing else is in it."""
        gone = path.with_name(f".{uuid.uuid4().hex}")
        os.replace(path, gone)
        shutil.rmtree(gone)
        if not self.waiting():
            for left in self.folder.glob(".*"):  # of a process that was killed while it wrote
                shutil.rmtree(left, ignore_errors=True)
            with suppress(OSError):
                self.folder.rmdir()


def write_files(folder: Path, files: Mapping[str, Content]) -> Path:
    """Write path -> content below `folder`, creating it; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def read_files(folder: Path) -> dict[str, bytes]:
    """Path -> content of every file below `folder`."""
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file()}
