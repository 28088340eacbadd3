"""What the package tells a person: lines of one logger, which a command prints and a notebook can silence."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger("amun_ray")


def say(text: str) -> None:
    """One line of what is going on, at the level INFO."""
    logger.info(text)


class Printing(logging.Handler):
    """Prints each line to whatever standard output is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)


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
