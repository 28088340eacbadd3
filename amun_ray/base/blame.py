"""Where the user's own code failed, here or in a worker: one line instead of a traceback."""

import re
import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from amun_ray.base.errors import UserError, in_words

FRAME = re.compile(r'File "([^"]+)", line (\d+)')
FAILURES = (Exception, SystemExit)  # what the user's code may raise; Ctrl-C does not come from it


def fault(error: BaseException, name: str) -> str | None:
    """`KIND: first line of the message (FILE, line N)`: the last line of `name`'s module in the traceback of `error`.

    The text of a worker's error holds the worker's traceback. None: the module is not in the traceback.

    Args:
        error: what was raised.
        name: the user's code, `package.module:NAME`, imported in this process.
    """
    file = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None)
    frames = FRAME.findall("".join(traceback.format_exception(error)))
    lines = [line for where, line in frames if where == file]
    return f"{in_words(getattr(error, 'cause', error))} ({file}, line {lines[-1]})" if lines else None


@contextmanager
def blaming(names: Collection[str]) -> Iterator[None]:
    """Raise UserError instead of whatever the user's code called `names` raises."""
    try:
        yield
    except UserError:
        raise
    except FAILURES as error:
        for name in names:
            if (line := fault(error, name)) is not None:
                raise UserError(f"{name!r}: {line}") from error
        raise
