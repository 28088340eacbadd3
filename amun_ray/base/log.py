"""The package's output for people: lines of one logger, which a command prints and a notebook can silence."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO

LONGEST = 2000  # characters; longer lines are cut
logger = logging.getLogger("amun_ray")


def counted(number: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def say(text: str) -> None:
    """Log one line of progress, at level INFO."""
    logger.info(text)


class Unread(BaseException):
    """The reader of standard output has closed its end of the pipe. Not an Exception, just as Ctrl-C is not."""


def complain(text: str) -> None:
    """Write one or more lines to standard error, if anybody reads it; very long lines are cut."""
    lines = [line if len(line) <= LONGEST else f"{line[:LONGEST]}..." for line in text.split("\n")]
    try:
        print("\n".join(lines), file=sys.stderr, flush=True)
    except BrokenPipeError:
        _silence(sys.stderr)


class Printing(logging.Handler):
    """Prints each line to the current standard output, or to the one that `hushed` has replaced.

    The first line that nobody reads raises Unread; later ones are dropped silently.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stream: TextIO | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=self.stream or sys.stdout, flush=True)
        except BrokenPipeError:
            _silence(self.stream or sys.stdout)
            raise Unread from None


def _silence(stream: TextIO) -> None:
    """Redirect `stream` to nowhere, so that Python can flush it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextmanager
def speaking() -> Iterator[None]:
    """Print the logger's lines to standard output, unless the program has given the logger its own handler.

    `logging.getLogger("amun_ray").setLevel(logging.WARNING)` silences a sweep that is run from Python.
    """
    if logger.handlers:
        yield
        return
    handler, level = Printing(), logger.level
    logger.addHandler(handler)
    logger.propagate = False  # print a line once, even if the root logger has a handler
    if level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
        logger.setLevel(level)


@contextmanager
def hushed() -> Iterator[None]:
    """Discard what libraries print to standard output; the logger's lines are printed all the same."""
    printing = [handler for handler in logger.handlers if isinstance(handler, Printing)]
    for handler in printing:
        handler.stream = sys.stdout
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        for handler in printing:
            handler.stream = None


class Notes(logging.Handler):
    """Collects the warnings of a worker, whose output nobody sees."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def take(self) -> list[str]:
        """The warnings since the last call."""
        taken, self.texts = self.texts, []
        return taken
