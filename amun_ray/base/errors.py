"""The exceptions of the package, all in one place.

    ValueError
      +- UserError      something the user wrote or supplied and can fix: ends a command with one line and exit code 2
           +- Damaged        stored data is not what was written
           +- StorageError   the storage is full or unreachable; also an OSError
    RuntimeError
      +- Diverged       training whose loss or weights are no longer finite: ends one trial, not the sweep
"""

from amun_ray.base.addresses import redacted


class UserError(ValueError):
    """A mistake in a config, a file or an argument. The message says where, the rule, what came and what to do, without
    the credentials that an address may hold."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class Damaged(UserError):
    """Stored work is not what was written, or is missing. The message begins with the file."""


class StorageError(OSError, UserError):
    """The store cannot be written. Finished work is kept; the message says what to fix."""

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class Diverged(RuntimeError):
    """Training produced a non-finite loss or weight."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, without credentials in addresses; its type if it has none."""
    return redacted(next(iter(str(error).strip().splitlines()), type(error).__name__)).rstrip(".")


def in_words(error: BaseException) -> str:
    """An exception from other code, on one line: its type and the first line of its message."""
    kind, line = type(error).__name__, first_line(error)
    return kind if line == kind else f"{kind}: {line}"
