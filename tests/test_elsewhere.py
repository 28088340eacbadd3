"""The command among things of others: a thread, a program's own Ray and Ctrl-C, a pipe, modules of the user's."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import ray
from sweeping import MINE

from amun_ray import sweep
from amun_ray.base.errors import UserError
from amun_ray.runtime import cluster, nodes
from amun_ray.storage.store import Store

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPT = [sys.executable, str(REPOSITORY / "amun_ray" / "sweep.py")]

@pytest.fixture
def config(tmp_path) -> Path:
    (tmp_path / "mine.yaml").write_text(MINE)
    return tmp_path / "mine.yaml"


def test_in_a_thread(config):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(sweep.main(["--config", str(config), "--dry-run"])))
    thread.start()
    thread.join()
    assert codes == [0]


@pytest.fixture
def own_ctrl_c():
    """Python's own handler, also where pytest runs in the background of a shell, which lets it ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_programs_own_ctrl_c_stays_as_it_is(config, own_ctrl_c, monkeypatch, capsys):
    """In a notebook the second Ctrl-C must not end the kernel, and with it all that its user has there."""
    during = []

    def interrupted(*_: object) -> None:
        during.append(signal.getsignal(signal.SIGINT))
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "run", interrupted)
    assert sweep.main(["--config", str(config)]) == 130
    assert during == [signal.default_int_handler] == [signal.getsignal(signal.SIGINT)]
    assert capsys.readouterr().err.endswith("what is finished is kept. To go on: the same call again\n")


@pytest.mark.parametrize("arguments", [["--dry-run"], ["--set", "lr=3"]], ids=["what is said", "an error"])
def test_a_reader_that_goes_away_ends_it_quietly(config, arguments):
    read, write = os.pipe()
    os.close(read)  # what `| head` comes to
    with open(write, "wb") as closed:
        done = subprocess.run([*SCRIPT, "--config", config, *arguments], stdout=closed, cwd=config.parent, check=False,
                              stderr=closed if "--set" in arguments else subprocess.PIPE)
    assert (done.returncode, done.stderr) == ((2, None) if "--set" in arguments else (141, b""))


OWN = "def network(*, channels, classes, size):\n    raise RuntimeError('it is mine')"


def _run_own(script: Path, config: Path, module: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, script, "--config", config, "--dry-run", "--allow-code", module, "--set",
                           f"model={{name: '{module}:network'}}"],
                          capture_output=True, text=True, check=False, env=os.environ | environment)


def test_a_users_module_may_have_the_name_of_one_of_our_rooms(config):
    own = config.parent / "own" / "models"
    own.mkdir(parents=True)
    (own / "__init__.py").write_text(OWN)
    done = _run_own(SCRIPT[1], config, "models", PYTHONPATH=str(own.parent))
    assert done.returncode == 2
    assert "model 'models:network'" in done.stderr
    assert "RuntimeError: it is mine" in done.stderr


def test_the_script_finds_modules_beside_it_where_ray_submit_copied_it(config):
    home = config.parent / "home"
    home.mkdir()
    (home / "pinned.py").write_text(OWN)
    shutil.copy(SCRIPT[1], home)
    done = _run_own(home / "sweep.py", config, "pinned")
    assert done.returncode == 2
    assert "RuntimeError: it is mine" in done.stderr


WORKER = """
import ray
from amun_ray.runtime import cluster
cluster.connect()
@ray.remote
def found():
    import queue, mine
    return queue.__file__, mine.__file__
import queue, mine
print((queue.__file__, mine.__file__) == ray.get(found.remote()), mine.__file__)
"""


def test_workers_find_the_modules_that_the_command_finds(tmp_path):
    """Ray would put the folder in which the command is given before all others, for them alone."""
    for name in ("mine", "queue", "own/mine"):
        (tmp_path / name).with_suffix(".py").parent.mkdir(exist_ok=True)
        (tmp_path / name).with_suffix(".py").write_text("")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "worker.py").write_text(WORKER)
    done = subprocess.run([sys.executable, "scripts/worker.py"], cwd=tmp_path, capture_output=True, text=True,
                          check=False, env=os.environ | {"PYTHONPATH": "own", "RAY_ADDRESS": "local"})
    assert done.stdout == f"True {tmp_path / 'own' / 'mine.py'}\n", done.stderr


@pytest.mark.parametrize(("variables", "folder"), [
    ({"TMPDIR": "t"}, "t"), ({"RAY_TMPDIR": "r", "TMPDIR": "t"}, "r")], ids=["TMPDIR", "RAY_TMPDIR"])
def test_a_cluster_that_ray_start_made_is_found_by_rays_own_rule(tmp_path, monkeypatch, variables, folder):
    given = {}
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(ray, "init", lambda **options: given.update(options))
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    monkeypatch.setenv("RAY_ADDRESS", "")
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    (tmp_path / folder / "ray").mkdir(parents=True)
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        (tmp_path / folder / "ray" / "ray_current_cluster").write_text(address)
        assert cluster.connect().origin == f"Ray: joined the cluster at {address}"
    assert "address" not in given


@pytest.fixture(scope="module", autouse=True)
def _no_ray():
    ray.shutdown()  # that of other tests


@pytest.fixture(scope="module")
def programs_ray(tmp_path_factory):
    """A Ray of a program's own, in which it has an actor, and whose workers find `folder / "theirs"`."""
    folder = tmp_path_factory.mktemp("program")
    (folder / "theirs").mkdir()
    path = os.pathsep.join([str(folder / "theirs"), str(REPOSITORY)])
    cluster.start_here(num_cpus=1, log_to_driver=False, logging_level="error",  # twice, where the machine is busy
                   runtime_env={"env_vars": {"PYTHONPATH": path}})

    @ray.remote(num_cpus=0)
    class Counter:
        count = 0

        def up(self) -> int:
            self.count += 1
            return self.count

    counter = Counter.remote()
    assert ray.get(counter.up.remote()) == 1
    yield counter, folder
    ray.shutdown()


def test_a_programs_own_ray_is_used_and_left_running(programs_ray, config, capsys, monkeypatch):
    from amun_ray.stages.experiment import Experiment

    def stop(*_: object) -> None:
        raise UserError("far enough")

    monkeypatch.setattr(Experiment, "run", stop)
    assert sweep.main(["--config", str(config), "--output", str(config.parent / "out")]) == 2
    said = capsys.readouterr()
    assert "Ray: that of this program, which stays as it is: 1 node(s), 1 CPUs, 0 GPUs" in said.out
    assert said.err == "error: far enough\n"
    assert ray.get(programs_ray[0].up.remote()) == 2


def test_a_module_that_is_another_one_for_workers_is_named(programs_ray, tmp_path, monkeypatch):
    theirs = programs_ray[1] / "theirs" / "mine_here_and_there.py"
    theirs.write_text("VERSION = 1")
    (tmp_path / theirs.name).write_text("VERSION = 2")
    monkeypatch.syspath_prepend(tmp_path)
    store = Store(str(tmp_path / "store"))
    with pytest.raises(UserError, match=f"module 'mine_here_and_there' is {theirs} there, with another content than "
                                        f"{tmp_path / theirs.name} here"):
        nodes.check_nodes(store, ["mine_here_and_there"])
    nodes.check_nodes(store, ["json"])
