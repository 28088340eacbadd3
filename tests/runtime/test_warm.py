"""The warm process: its forks are what a new Python would be, and where it is gone there is a new Python."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import ray

from amun_ray.runtime import warm

SCRIPT = """
import json, os, signal, sys
json.dump({"arguments": sys.argv, "name": __name__, "folder": os.getcwd(), "nice": os.nice(0),
           "environment": {name: os.environ[name] for name in os.environ if name != "_"}, "input": sys.stdin.read(),
           "oom_score": open("/proc/self/oom_score_adj").read(), "ends": signal.getsignal(signal.SIGCHLD).name,
           "loaded": "torch" in sys.modules, "parent": os.getppid(), "leads": os.getsid(0) == os.getpid()}, sys.stdout)
print("to stderr", file=sys.stderr)
"""
OF_A_FORK = {"loaded", "parent", "leads"}  # what differs from a new Python


@pytest.fixture
def begun():
    made = warm.begin.__wrapped__()
    yield made
    made.process.stdin.close()
    made.process.wait()


def told(python, folder):
    """What SCRIPT says of a process that `python` starts with two arguments, at nice 3 and an OOM score of 700."""
    def lower():
        os.nice(3)
        Path("/proc/self/oom_score_adj").write_text("700")
    script, said = folder / "script.py", folder / "said"
    script.write_text(SCRIPT)
    with open(said, "w") as out:  # stderr ends with the process, which a launcher does not wait for
        done = subprocess.run([*shlex.split(python), str(script), "one", "two words"], cwd=folder, input="given",
                              stdout=out, stderr=subprocess.PIPE, text=True, preexec_fn=lower, check=True,
                              env={**os.environ, "AMUN_TEST": "a=b\nc"})
    assert done.stderr == "to stderr\n"
    return json.loads(said.read_text())


def test_a_fork_is_what_a_new_python_would_be_and_has_everything_imported(begun, tmp_path):
    plain, fork = told(sys.executable, tmp_path), told(begun.python, tmp_path)
    assert plain["environment"]["AMUN_TEST"] == "a=b\nc"
    assert (plain["nice"], plain["oom_score"].strip(), plain["input"]) == (os.nice(0) + 3, "700", "given")
    assert {name for name in plain if plain[name] != fork[name]} <= OF_A_FORK
    assert (fork["loaded"], fork["parent"], fork["leads"]) == (True, begun.process.pid, True)
    assert not plain["loaded"]


def test_where_the_warm_process_is_gone_there_is_a_new_python(begun, tmp_path):
    begun.process.kill()
    begun.process.wait()
    assert told(begun.python, tmp_path) == told(sys.executable, tmp_path) | {"parent": os.getpid()}


def test_one_that_asks_for_nothing_keeps_no_other_from_being_served(begun, tmp_path):
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(shlex.split(begun.python)[-1])
    assert told(begun.python, tmp_path)["loaded"]


def test_it_ends_with_the_program_that_began_it_however_that_ends(tmp_path):
    code = "from amun_ray.runtime.warm import begin; print(begin().process.pid, flush=True); input()"
    program = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "TMPDIR": str(tmp_path)})
    process = psutil.Process(int(program.stdout.readline()))
    assert [path.name[:9] for path in tmp_path.iterdir()] == ["amun_warm"]
    program.send_signal(signal.SIGKILL)
    program.communicate()
    process.wait(60)
    assert not list(tmp_path.iterdir())


def test_there_is_none_where_its_address_would_be_too_long(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(warm.tempfile, "tempdir", str(long))
    assert warm.begin.__wrapped__() is None
    assert not list(long.iterdir())


def test_tasks_and_actors_of_a_ray_that_was_started_here_run_in_forks(local_ray):
    @ray.remote(num_cpus=0)
    class Actor:
        def parent(self):
            return os.getppid()

    @ray.remote(num_cpus=0)
    def parent():
        return os.getppid()
    assert {*ray.get([parent.remote(), Actor.remote().parent.remote()])} == {warm.begin().process.pid}
