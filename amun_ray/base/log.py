"""What the package tells a person: lines of one logger, which a command prints and a notebook can silence."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

LONGEST = 2000  # characters of a line that a person reads
logger = logging.getLogger("amun_ray")


def say(text: str) -> None:
    """One line of what is going on, at the level INFO."""
    logger.info(text)


class Unread(BaseException):
    """Nobody reads standard output any more: the other end of a pipe is closed. As little an Exception as Ctrl-C."""


def complain(text: str) -> None:
    """A line, or several, to standard error, if anybody reads it; a very long one is cut."""
    lines = [line if len(line) <= LONGEST else f"{line[:LONGEST]}..." for line in text.split("\n")]
    try:
        print("\n".join(lines), file=sys.stderr, flush=True)
    except BrokenPipeError:
        _silence(sys.stderr)


class Printing(logging.Handler):
    """Prints each line to whatever standard output is at that moment.

    The first line that nobody reads raises Unread; those after it are lost without a word.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), flush=True)
        except BrokenPipeError:
            _silence(sys.stdout)
            raise Unread from None


def _silence(stream: TextIO) -> None:
    """Let `stream` lead nowhere, so that what it still holds can be written when Python ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextmanager
def speaking() -> Iterator[None]:
    """Print what is said to standard output, as it is, unless the program has given the logger a handler of its own.

    `logging.getLogger("amun_ray").setLevel(logging.WARNING)` silences a sweep that is run from Python.
    """
    if logger.handlers:
        yield
        return
    handler, level = Printing(), logger.level
    logger.addHandler(handler)
    logger.propagate = False  # a line is printed once, whoever has set up the root logger
    if level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
        logger.setLevel(level)


class Notes(logging.Handler):
    """Keeps the warnings of a worker, whose own output nobody sees."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def take(self) -> list[str]:
        """The warnings since the last call."""
        taken, self.texts = self.texts, []
        return taken
