"""Ray's own words for a loss become one line with what helps; a task's own error stays what it is."""

import pytest
from ray.exceptions import ActorDiedError, ObjectStoreFullError, OutOfDiskError, OutOfMemoryError, RayTaskError

from amun_ray.base.errors import Diverged, UserError
from amun_ray.runtime.losses import in_one_line, reason

DIED = ("The actor died unexpectedly before finishing this task.\n\tclass_name: Crafter\n\tpid: 12\n"
        "The actor died because its node has died. Node Id: 5f.\n\tthe actor's node was terminated")
MEMORY = "Task was killed due to the node running low on memory.\nMemory on the node (IP: 10.0.0.3) was 22.5GB / 23GB"


@pytest.mark.parametrize(("said", "found"), [
    (DIED, "The actor died because its node has died. Node Id: 5f"),
    ("The actor died unexpectedly before finishing this task.\n\tpid: 3", "Ray gives no reason"),
    (f"The actor died unexpectedly.\n\tpid: 3\n{MEMORY}", "a node was running low on memory, and Ray ended the worker; "
                                                          "let fewer workers run at once"),
    ("\x1b[36mray::make()\x1b[39m (pid=3)\n  File \"a.py\", line 1\nOSError: a disk", "OSError: a disk"),
    ("read s3://bucket?secret_key=abc failed.", "read s3://bucket?secret_key=... failed"),
])
def test_the_reason_is_one_line(said, found):
    assert reason(said).startswith(found.partition("?")[0])
    assert "abc" not in reason(said)
    assert "\n" not in reason(said)


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(("error", "found"), [
    (OutOfDiskError("no room"), "disk that it spills to"),
    (RayTaskError("f", "traceback", OutOfDiskError("no room")), "RAY_TMPDIR"),
    (ObjectStoreFullError("no room"), "object store of a node is full"),
    (OutOfMemoryError(MEMORY), "resources.cpus"),
    (ActorDiedError(), "Ray gives no reason"),
    (caused(RuntimeError("Caught unexpected exception"), OutOfMemoryError(MEMORY)), "resources.cpus"),
])
def test_what_ray_itself_raises_is_the_users_to_read(error, found):
    with pytest.raises(UserError, match=found) as told, in_one_line():
        raise error
    assert "\n" not in str(told.value)
    assert "the same command goes on" in str(told.value)


@pytest.mark.parametrize("error", [Diverged("epoch 2"), KeyError("teacher"), RuntimeError("a bug"),
                                   RayTaskError("f", "traceback", KeyError("teacher"))])
def test_the_error_of_the_work_itself_stays(error):
    with pytest.raises(type(error)) as told, in_one_line():
        raise error
    assert told.value is error
