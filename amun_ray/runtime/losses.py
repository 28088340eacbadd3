"""What a sweep says when Ray has lost a worker for good, or has no room for an object: one line, with what helps."""

from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayError, RayTaskError

from amun_ray.base.addresses import redacted
from amun_ray.base.errors import UserError

KEPT = "what is finished is kept, and the same command goes on from there"
KNOWN = {  # in Ray's words: in ours, and what helps
    "running low on memory":
        "a node was running low on memory, and Ray ended the worker; let fewer workers run at once (a higher "
        "resources.cpus or resources.gpus), or use nodes with more memory",
    "object store is full":
        "the object store of a node is full, and so is the disk that it spills to; make room on the disk of RAY_TMPDIR "
        "(else TMPDIR, else /tmp), or name a folder on another disk there"}
NO_REASON = ("\t", "The actor died unexpectedly")  # how lines begin that give names alone


def reason(text: str) -> str:
    """Why Ray lost a worker or could not keep an object, in one line. `text`: what Ray says, several lines."""
    for words, ours in KNOWN.items():
        if words in text:
            return ours
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(NO_REASON)]
    if not lines:
        return "Ray gives no reason"
    return redacted(lines[-1 if "ray::" in lines[0] else 0]).rstrip(".")  # a task's traceback ends with its error


@contextmanager
def in_one_line() -> Iterator[None]:
    """Raise UserError with the reason, instead of what Ray itself raises. The error of a task's own code stays.

    Tune wraps in a RuntimeError what it does not expect: that a worker is ended for want of memory before its trial.
    """
    try:
        yield
    except (RayError, RuntimeError) as error:
        cause: BaseException | None = error if isinstance(error, RayError) else error.__cause__
        while isinstance(cause, RayTaskError):
            cause = cause.cause
        if isinstance(cause, RayError):
            raise UserError(f"Ray: {reason(str(cause))}; {KEPT}") from error
        raise
