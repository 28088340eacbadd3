"""Where code of the user's own went wrong, here or in a worker: one line in place of a traceback."""

import re
import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from amun_ray.base.errors import UserError, in_words

FRAME = re.compile(r'File "([^"]+)", line (\d+)')
FAILURES = (Exception, SystemExit)  # what code of somebody else's may raise; Ctrl-C is not its own


def fault(error: BaseException, name: str) -> str | None:
    """`KIND: first line of the message (FILE, line N)`: the last line of the module of `name` on the way of `error`.

    An error of a worker has the lines that it came through there as its text. None: it came through none of them.

    Args:
        error: what was raised.
        name: of code of the user's, `package.module:NAME`, imported in this process.
    """
    file = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None)
    frames = FRAME.findall("".join(traceback.format_exception(error)))
    lines = [line for where, line in frames if where == file]
    return f"{in_words(getattr(error, 'cause', error))} ({file}, line {lines[-1]})" if lines else None


@contextmanager
def blaming(names: Collection[str]) -> Iterator[None]:
    """Raise UserError in place of whatever is raised by code of the user's called `names`."""
    try:
        yield
    except UserError:
        raise
    except FAILURES as error:
        for name in names:
            if (line := fault(error, name)) is not None:
                raise UserError(f"{name!r}: {line}") from error
        raise
