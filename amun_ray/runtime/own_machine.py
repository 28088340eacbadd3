"""A Ray on this machine beside strangers: whose cluster may be joined, who can read the token, who can call."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from ray._common.utils import get_ray_address_file
from ray._private import ray_constants

from amun_ray.base.files import make_private
from amun_ray.base.log import say

TOKEN_ELSEWHERE = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
SETUP = "ray._private.authentication.authentication_token_setup"


def recorded_address() -> tuple[Path, str | None]:
    """The file in which `ray start` of this user records its cluster, and the address in it; None where there is none.

    The file is in a folder that every user of the machine can write to. Another user's is not followed: the cluster
    would run what this program sends it, and get its data.
    """
    path = Path(get_ray_address_file(None))
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
            opened = os.fstat(file.fileno())
            if stat.S_ISREG(opened.st_mode) and opened.st_uid == os.getuid():
                return path, file.read().strip()
            say(f"Ray: {path} is not this user's file, and is not followed; RAY_ADDRESS=HOST:PORT joins that cluster")
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        say(f"Ray: {path} is not followed: {error.strerror}")
    return path, None


def keep_token_private() -> None:
    """Make the token that Ray would make, since Ray's own file is readable by everybody; close one that exists."""
    path = Path.home() / ".ray" / "auth_token"
    if any(os.environ.get(name) for name in TOKEN_ELSEWHERE):
        return
    try:
        token = path.stat()
        if token.st_uid == os.getuid() and token.st_mode & 0o077:
            path.chmod(0o600)
    except FileNotFoundError:
        if _asks_for_token():
            make_private(path.parent)
            with suppress(OSError), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(32))


def _asks_for_token() -> bool:
    """Whether a Ray that starts here makes a token: by default since 2.60."""
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode is not None or find_spec("ray._private.authentication") is None or find_spec(SETUP) is None:
        return mode == "token"
    from ray._private.authentication import authentication_token_setup
    return hasattr(authentication_token_setup, "enable_token_auth_by_default")


@contextmanager
def on_loopback() -> Iterator[None]:
    """A Ray that starts in this context listens on 127.0.0.1 alone. Ray has no option for it on Linux: it replaces a
    loopback address by one that other machines reach, unless it believes that there are no clusters here."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
