"""The exceptions of the package, all in one place.

    ValueError
      +- UserError      something the user wrote or supplied, and can fix: ends a command with one line and exit code 2
           +- Damaged        what is stored is not what was written
           +- StorageError   the storage takes no more, or is away; an OSError, too
    RuntimeError
      +- Diverged       a training run whose loss or weights left the finite numbers: ends one trial, not the sweep
"""


class UserError(ValueError):
    """A mistake in a config, a file or an argument. The message says where, the rule, what came and what to do."""


class Damaged(UserError):
    """Stored work is not what was written, or is not there. The message begins with its file."""


class StorageError(OSError, UserError):
    """The store cannot be written. What is finished is kept; the message says what has to be fixed."""


class Diverged(RuntimeError):
    """Training produced a non-finite loss or weight."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, for a message of one line; its kind where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def in_words(error: BaseException) -> str:
    """An exception of somebody else's code as part of one line: its kind, and the first line of its message."""
    kind, line = type(error).__name__, first_line(error)
    return kind if line == kind else f"{kind}: {line}"
