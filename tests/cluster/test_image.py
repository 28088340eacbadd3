"""What the Dockerfile does, but for its base image: its own lines, run in an empty home by a user without rights.

AMUN_IMAGE=1 runs it, as root: it fetches the locked packages, five gigabytes, and starts a raylet.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text().replace("\\\n", "")
AS_USER = ["setpriv", "--reuid=1000", "--regid=100", "--clear-groups", "--inh-caps=+dac_read_search",
           "--ambient-caps=+dac_read_search"]  # which this Python needs where it lies in a folder of root's alone
pytestmark = [
    pytest.mark.skipif("AMUN_IMAGE" not in os.environ, reason="fetches gigabytes: AMUN_IMAGE=1"),
    pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the lock of the image is for Python 3.11")]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """The home of the image's user after the Dockerfile's COPY and RUN lines."""
    home = Path(tempfile.mkdtemp(prefix="amun-", dir="/tmp"))  # short: Ray's sockets lie below it
    subprocess.run([sys.executable, "-m", "venv", str(home / "venv")], check=True)
    for copied in re.findall(r"^COPY --chown=ray:users (.+)$", DOCKERFILE, re.MULTILINE):
        *sources, to = copied.split()
        for name in sources:
            place = home / to / (Path(name).name if to.endswith("/") else "")
            place.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy)(REPOSITORY / name, place)
    subprocess.run(["chown", "-R", "1000:100", str(home)], check=True)
    for line in re.findall(r"^RUN (.+)$", DOCKERFILE, re.MULTILINE):
        done = in_image(home, line)
        assert done.returncode == 0, f"{line}\n{done.stdout}"
    yield home
    in_image(home, "ray stop --force")
    shutil.rmtree(home)


def in_image(home: Path, line: str) -> subprocess.CompletedProcess:
    """A line of the Dockerfile, as its user, in its home; RAY_AUTH_MODE is token, as ENV says."""
    return subprocess.run([*AS_USER, "sh", "-c", line], cwd=home, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env={"HOME": str(home), "RAY_AUTH_MODE": "token",
                                                         "PATH": f"{home / 'venv' / 'bin'}:{os.environ['PATH']}"})


def test_the_locked_packages_and_the_package_are_installed_and_fit_together(home):
    assert in_image(home, "python -m pip check").stdout.strip() == "No broken requirements found."
    assert (home / "amun_output").is_dir()
    shown = in_image(home, "amun-ray --dry-run")
    assert shown.returncode == 0, shown.stdout
    assert "sweep digits: digits, 700 training" in shown.stdout


def test_nothing_of_the_tests_is_in_it(home):
    assert "No module named" in in_image(home, "python -c 'import pytest'").stdout


def test_the_health_check_finds_a_live_raylet_and_misses_a_dead_one(home):
    command = json.loads(re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[1])
    line = shlex.join(command)
    assert in_image(home, line).returncode != 0
    begun = in_image(home, "ray get-auth-token --generate > /dev/null && ray start --head --num-cpus=1 "
                           "--dashboard-host=127.0.0.1 --disable-usage-stats --temp-dir=$HOME/r")
    assert begun.returncode == 0, begun.stdout
    checked = in_image(home, line)
    assert checked.returncode == 0, checked.stdout
