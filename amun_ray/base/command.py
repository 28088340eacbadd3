"""How every command of the package ends: one line on what went wrong, and an exit code."""

from collections.abc import Callable, Iterable

from amun_ray.base.errors import UserError
from amun_ray.base.interrupt import STOPPED, UNREAD, interruptible
from amun_ray.base.log import Unread, complain, speaking
from amun_ray.base.names import allowing


def ended(work: Callable[[], int], arguments: list[str] | None, allowed: Iterable[str]) -> int:
    """The exit code of `work`, or 2 after a user error, 130 after Ctrl-C, 141 when standard output was closed.

    Args:
        work: the command.
        arguments: of the command; None for those of this process.
        allowed: modules whose code a config may name.
    """
    try:
        with speaking(), interruptible(arguments), allowing(allowed):
            return work()
    except UserError as error:
        complain(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        return STOPPED
    except Unread:
        return UNREAD
