"""The README's cluster section on several hosts: `ray up`, `ray submit`, results in MLflow, doors locked, `ray down`.

Two hosts of two fake GPUs each, and a laptop, as network namespaces on this machine; see `hosts.py` and `team.py`. The
second host is cut off at first and joins while the sweep runs. AMUN_SEVERAL_HOSTS=short runs what takes a few minutes,
AMUN_SEVERAL_HOSTS=long all of it, also a cable taken out in mid-sweep.
"""

import base64
import json
import os
import re
import subprocess
import threading
import time
from pathlib import Path

import hosts
import pytest
import yaml
from team import CHECK, SUBMIT, Team

PROBE = """
import socket, sys
for port in map(int, sys.argv[2:]):
    try:
        socket.create_connection((sys.argv[1], port), timeout=0.5).close()
        print(port)
    except OSError:
        pass
"""
COUNT_RUNS = """
import mlflow
client = mlflow.MlflowClient()
runs = client.search_runs([client.get_experiment_by_name("several_hosts").experiment_id])
print("RUNS", *sorted(f"{one.data.tags.get('stage', 'sweep')}:{one.info.status}" for one in runs))
print("PARAMS", sorted(value for one in runs for value in one.data.params.values()))
"""
long = pytest.mark.skipif(os.environ.get("AMUN_SEVERAL_HOSTS") != "long", reason="minutes; AMUN_SEVERAL_HOSTS=long")


class Watch(threading.Thread):
    """Looks for `words` in the arguments of every process of this machine, which are those of all hosts and more."""

    def __init__(self, *words: str) -> None:
        super().__init__(daemon=True)
        self.words, self.looked, self.found, self._over = words, 0, [], threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.5):
            self.looked += 1
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    arguments = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:  # it has ended
                    continue
                self.found += [arguments for word in self.words if word in arguments]

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


class Submitted:
    """The sweep, once, as the README has it; the worker's cable is put in when it has begun."""

    def __init__(self, team: Team) -> None:
        log, begun = team.network.folder / "ray_submit.log", time.time()
        with team.timed("ray submit"), Watch(team.password, team.token) as self.watch:
            process = team.laptop.start(SUBMIT, log)
            hosts.until(lambda: "[1/5" in log.read_text() or process.poll() is not None, 900, str(log))
            team.network.restore("worker")
            self.code = process.wait(1200)
        self.text = log.read_text()
        shards = [path.stat().st_mtime for path in team.network.shared.rglob("shard-*.parquet")]
        print(f"{self.text}\nfrom ray submit to the first shard: {min(shards, default=float('nan')) - begun:.1f} s")


@pytest.fixture(scope="module")
def submitted(team):
    return Submitted(team)


def test_the_sweep_ends_and_says_what_it_began_on(submitted):
    assert submitted.code == 0, submitted.text
    assert re.search(r"Ray: joined the cluster at 10\.77\.0\.1:6379: 1 node\(s\), 2 CPUs, 2 GPUs", submitted.text)


def test_an_actor_ran_on_every_accelerator_also_of_the_host_that_joined_late(submitted, team):
    notes = [json.loads(path.read_text()) for path in (team.network.shared / "seen").iterdir()]
    first = sorted(notes, key=lambda note: note["time"])[:4]  # the four that attacked, before any actor of the search
    assert sorted((note["host"], note["visible"]) for note in first) == [
        ("head", "0"), ("head", "1"), ("worker", "0"), ("worker", "1")]
    assert all(note["gpus"] == [note["visible"]] for note in notes)


def test_results_are_on_the_shared_storage_and_in_mlflow(submitted, team):
    results = team.network.shared / "several_hosts" / "results.json"
    assert "amun" in results.read_text()
    assert not (team.network.shared / "several_hosts" / "mlflow.db").exists(), "the server has it"
    said = team.head.python(COUNT_RUNS)
    runs = re.search("RUNS (.+)", said)[1].split()
    assert runs.count("trial:FINISHED") == 2
    assert runs.count("final:FINISHED") == 1
    assert "sweep:FINISHED" in runs
    assert team.password not in re.search("PARAMS (.+)", said)[1]


def test_token_and_password_stand_in_no_process_list_and_in_no_file_but_their_own(submitted, team):
    assert submitted.watch.looked > 10
    assert submitted.watch.found == []
    words = [team.password, team.token, base64.b64encode(f"sweeps:{team.password}".encode()).decode()]
    found = subprocess.run(["grep", "-rlaF", "-D", "skip", "--exclude-dir=amun_venv",
                            *(f"--regexp={word}" for word in words), "."], cwd=team.network.folder,
                           capture_output=True, text=True).stdout.split()
    assert sorted(found) == sorted(f"./{host}/home/amun/{file}" for host in ("laptop", "head", "worker")
                                   for file in (".mlflow/credentials", ".ray/auth_token"))
    for file in found:
        assert (team.network.folder / file).stat().st_mode & 0o077 == 0


def test_nothing_but_ssh_answers_from_outside(submitted, team):
    for host in (team.head, team.worker):
        listening = host.run("ss -ltnH | awk '{print $4}' | sed 's/.*://' | sort -un").stdout.split()
        assert len(listening) > 5, "Ray listens on more than that"
        assert team.laptop.python(PROBE, host.address, *listening).split() == ["22"]


def test_hosts_are_checked_with_a_line_each(submitted, team):
    checked = team.laptop.run(f"{CHECK} cluster/cluster.yaml", check=False)
    assert (checked.returncode, checked.stdout) == (0, "10.77.0.1: ready\n10.77.0.2: ready\n")
    other = team.laptop.home / "amun_ray" / "other.yaml"
    config = yaml.safe_load((other.parent / "cluster" / "cluster.yaml").read_text())
    provider = config["provider"] | {"worker_ips": ["10.77.0.3", "nobody.invalid"]}
    other.write_text(yaml.safe_dump(config | {"provider": provider, "setup_commands": ["AMUN_SHARED=/nowhere bash x"]}))
    checked = team.laptop.run(f"{CHECK} other.yaml", check=False)
    assert checked.returncode == 2
    assert checked.stdout == ("10.77.0.1: no writable folder /nowhere\n"
                              "10.77.0.3: there is no such host in its network\n"
                              "nobody.invalid: there is no host of that name\n")
    team.laptop.run("ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/other")
    other.write_text(yaml.safe_dump(config | {"auth": config["auth"] | {"ssh_private_key": "~/.ssh/other"}}))
    refused = f"refuses the key {hosts.HOME}/.ssh/other for user root\n"
    checked = team.laptop.run(f"{CHECK} other.yaml", check=False)
    assert (checked.returncode, checked.stdout) == (2, f"10.77.0.1: {refused}10.77.0.2: {refused}")


def test_a_host_that_shows_another_key_than_at_first_is_refused(submitted, team):
    known = team.laptop.home / ".ssh" / "known_hosts"
    before = known.read_text()
    stranger = " ".join((team.laptop.home / ".ssh" / "other.pub").read_text().split()[:2])
    try:
        team.laptop.run(f"ssh-keygen -q -R 10.77.0.1; ssh-keygen -q -R 10.77.0.2; echo 10.77.0.1 {stranger} >> "
                        f"~/.ssh/known_hosts; echo 10.77.0.2 {stranger} >> ~/.ssh/known_hosts")
        checked = team.laptop.run(f"{CHECK} cluster/cluster.yaml", check=False)
        assert checked.returncode == 2
        assert re.findall(r"^(\S+): shows another host key .* ssh-keygen -R (\S+)$", checked.stdout, re.MULTILINE) == [
            ("10.77.0.1", "10.77.0.1"), ("10.77.0.2", "10.77.0.2")]
        team.laptop.run("pkill -f '[m]ux' || true")  # a connection that is still open
        done = team.laptop.run("cd amun_ray && ray exec cluster/cluster.yaml 'echo reached the head'", check=False)
        assert done.returncode != 0
        assert "\nreached the head" not in done.stdout
    finally:
        known.write_text(before)


@pytest.mark.parametrize(("environment", "said"), [
    ("HOME=/tmp/no_home RAY_AUTH_MODE=token", "token"),
    pytest.param("RAY_AUTH_MODE=token RAY_AUTH_TOKEN=" + "0" * 64, "it may have another token", marks=long),
    pytest.param("RAY_AUTH_MODE=token RAY_ADDRESS=10.77.0.2:6390", "10.77.0.2:6390", marks=long),
])
def test_who_has_no_token_or_no_address_gets_one_line(submitted, team, environment, said):
    environment = environment if "ADDRESS" in environment else f"RAY_ADDRESS=10.77.0.1:6379 {environment}"
    done = team.sweep(team.worker, "--output /tmp/stranger", environment=f"{environment} MLFLOW_TRACKING_URI=")
    assert done.returncode == 2, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert re.search("no cluster (answers|lets this program in) at", line)
    assert said in line
    assert "Traceback" not in done.stdout


def test_another_version_and_storage_that_is_not_shared_are_named_before_work_starts(submitted, team):
    (package,) = team.worker.home.glob("amun_venv/lib/python*/site-packages/amun_ray/__init__.py")
    before = package.read_text()
    package.write_text(before.replace('__version__ = "', '__version__ = "9.'))
    try:
        done = team.submit("--set seed=1 --output /home/amun/alone")
    finally:
        package.write_text(before)
    assert "2 node(s), 4 CPUs, 4 GPUs" in done.stdout
    assert re.search(r"error: node 10\.77\.0\.2: amun_ray 9\.\S+ \(content \w+\) there, \d\S+ \(content \w+\) here",
                     done.stdout), done.stdout
    assert "node 10.77.0.2: does not see /home/amun/alone/store" in done.stdout
    assert "[1/5" not in done.stdout


@long
def test_more_gpus_than_a_node_has_lists_the_nodes(submitted, team):
    done = team.submit("--set resources.gpus=3")
    assert "2 CPUs, 2 GPUs; 2 CPUs, 2 GPUs" in done.stdout
    assert done.returncode != 0


@long
def test_a_job_and_a_sweep_by_hand_on_the_head_join_the_cluster_and_repeat_nothing(submitted, team):
    again = "--config several_hosts --allow-code pinned --output /mnt/amun/several_hosts"
    modules = """--runtime-env-json '{"env_vars": {"PYTHONPATH": "/home/amun"}}'"""  # where pinned.py is
    job = team.head.run(f"ray job submit --address http://127.0.0.1:8265 {modules} -- amun-ray {again}",
                        timeout=600).stdout
    by_hand = team.sweep(team.head, again, environment="PYTHONPATH=/home/amun")
    assert by_hand.returncode == 0
    for text in (job, by_hand.stdout):
        assert "Ray: joined the cluster at 10.77.0.1:6379: 2 node(s), 4 CPUs, 4 GPUs" in text
        assert "samples in" not in text, "nothing was attacked again"


@long
def test_mlflow_that_does_not_know_the_password_is_said_in_one_line(submitted, team):
    done = team.sweep(team.head, environment="MLFLOW_TRACKING_USERNAME=sweeps MLFLOW_TRACKING_PASSWORD=wrong")
    assert done.returncode == 2
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert "MLflow cannot be used" in line
    assert "wrong" not in line


@long
def test_a_cable_taken_out_in_mid_sweep_costs_no_more_than_what_was_in_hand(submitted, team):
    log = team.network.folder / "cut.log"
    process = team.laptop.start(f"{SUBMIT} --set seed=2 --output /mnt/amun/cut --set data.train_size=640 "
                                "--set attack.search.steps=60", log)
    hosts.until(lambda: len(list((team.network.shared / "cut").rglob("shard-*.parquet"))) >= 2, 400, str(log))
    team.network.cut("worker")
    try:
        assert process.wait(600) == 0, log.read_text()
    finally:
        team.network.restore("worker")
    assert "amun" in (team.network.shared / "cut" / "results.json").read_text()


def test_ray_down_leaves_nothing_behind(submitted, team):
    """The last test of the file: the cluster is gone after it."""
    with team.timed("ray down"):
        team.laptop.run("cd amun_ray && ray down --yes cluster/cluster.yaml", timeout=240)
    assert "raylet" not in team.head.run("ps ax -o comm").stdout
    if os.environ["AMUN_SEVERAL_HOSTS"] == "long":
        # Ray stops the head alone; the others end by themselves when they have missed it for a minute.
        hosts.until(lambda: "raylet" not in team.worker.run("ps ax -o comm").stdout, 240, "the worker's raylet ends")
