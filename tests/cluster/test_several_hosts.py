"""The README's cluster section on several hosts: `ray up`, `ray submit`, results in MLflow, doors locked, `ray down`.

Two hosts of two fake GPUs each, and a laptop, as network namespaces on this machine; see `hosts.py` and `team.py`. What
takes more than a few minutes - a cable taken out in mid-sweep - runs with AMUN_SEVERAL_HOSTS=long, the rest with short.
"""

import json
import os
import re
import time

import hosts
import pytest
from team import SUBMIT

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
runs = mlflow.MlflowClient().search_runs([mlflow.MlflowClient().get_experiment_by_name("several_hosts").experiment_id])
print("RUNS", *sorted(f"{one.data.tags.get('stage', 'sweep')}:{one.info.status}" for one in runs))
"""
long = pytest.mark.skipif(os.environ.get("AMUN_SEVERAL_HOSTS") != "long", reason="minutes; AMUN_SEVERAL_HOSTS=long")


@pytest.fixture(scope="module")
def submitted(team):
    """The sweep, once, as the README has it."""
    started = time.time()
    with team.timed("ray submit"):
        done = team.submit(check=False)
    print(done.stdout)
    shards = [path.stat().st_mtime for path in team.network.shared.rglob("shard-*.parquet")]
    print(f"from ray submit to the first shard: {min(shards, default=float('nan')) - started:.1f} s")
    return done


def test_the_sweep_ends_and_says_what_it_runs_on(submitted):
    assert submitted.returncode == 0, submitted.stdout
    assert re.search(r"Ray: joined the cluster at 10\.77\.0\.1:6379: 2 node\(s\), 4 CPUs, 4 GPUs", submitted.stdout)


def test_an_actor_ran_on_every_accelerator_of_every_host(submitted, team):
    notes = [json.loads(path.read_text()) for path in (team.network.shared / "seen").iterdir()]
    first = sorted(notes, key=lambda note: note["time"])[:4]  # the four that attacked, before any actor of the search
    assert sorted((note["host"], note["visible"]) for note in first) == [
        ("head", "0"), ("head", "1"), ("worker", "0"), ("worker", "1")]
    assert all(note["gpus"] == [note["visible"]] for note in notes)


def test_results_are_on_the_shared_storage_and_in_mlflow(submitted, team):
    results = team.network.shared / "several_hosts" / "results.json"
    assert "amun" in results.read_text()
    assert not (team.network.shared / "several_hosts" / "mlflow.db").exists(), "the server has it"
    said = run_python(team.head, COUNT_RUNS)
    (line,) = [line for line in said.splitlines() if line.startswith("RUNS")]
    assert line.split()[1:].count("trial:FINISHED") == 2
    assert line.split()[1:].count("final:FINISHED") == 1
    assert "sweep:FINISHED" in line


def test_the_token_stands_in_no_process_list(submitted, team):
    token = (team.laptop.home / ".ray" / "auth_token").read_text().strip()
    for host in (team.head, team.worker):
        assert token not in host.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
        assert host.run("stat -c %a ~/.ray/auth_token").stdout.strip() == "600"


def test_nothing_but_ssh_answers_from_outside(team):
    for host in (team.head, team.worker):
        listening = host.run("ss -ltnH | awk '{print $4}' | sed 's/.*://' | sort -un").stdout.split()
        assert len(listening) > 5, "Ray listens on more than that"
        assert run_python(team.laptop, PROBE, host.address, *listening).split() == ["22"]


@pytest.mark.parametrize(("environment", "said"), [
    ("HOME=/nowhere RAY_AUTH_MODE=token", "token"),
    ("RAY_AUTH_MODE=token RAY_AUTH_TOKEN=" + "0" * 64, "it may have another token"),
    ("RAY_AUTH_MODE=token RAY_ADDRESS=10.77.0.2:6390", "10.77.0.2:6390"),
])
def test_who_has_no_token_or_no_address_gets_one_line(team, environment, said):
    environment = environment if "ADDRESS" in environment else f"RAY_ADDRESS=10.77.0.1:6379 {environment}"
    done = team.sweep(team.worker, "--output /tmp/stranger", environment=f"{environment} MLFLOW_TRACKING_URI=")
    assert done.returncode == 2, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert re.search("no cluster (answers|lets this program in) at", line)
    assert said in line
    assert "Traceback" not in done.stdout


def test_more_gpus_than_a_node_has_lists_the_nodes(submitted, team):
    done = team.submit("--set resources.gpus=3", check=False)
    assert "2 CPUs, 2 GPUs; 2 CPUs, 2 GPUs" in done.stdout
    assert done.returncode != 0


def test_a_node_with_another_version_is_named_before_work_starts(submitted, team):
    (package,) = team.worker.home.glob("amun_venv/lib/python*/site-packages/amun_ray/__init__.py")
    before = package.read_text()
    package.write_text(before.replace('__version__ = "', '__version__ = "9.'))
    try:
        done = team.submit("--set seed=1", check=False)
    finally:
        package.write_text(before)
    assert re.search(r"error: node 10\.77\.0\.2: amun_ray 9\.\S+ \(content \w+\) there, \d\S+ \(content \w+\) here",
                     done.stdout), done.stdout
    assert "[1/5" not in done.stdout


def test_storage_that_one_host_alone_sees_is_named_before_work_starts(submitted, team):
    done = team.submit("--output /home/amun/alone", check=False)
    assert re.search(r"error: node 10\.77\.0\.2: does not see /home/amun/alone/store", done.stdout), done.stdout


@long
def test_a_cable_taken_out_in_mid_sweep_costs_no_more_than_what_was_in_hand(submitted, team):
    log = team.network.folder / "cut.log"
    process = team.laptop.start(f"{SUBMIT} --set seed=2 --output /mnt/amun/cut --set data.train_size=640 "
                                "--set attack.search.steps=60", log)
    hosts.until(lambda: len(list((team.network.shared / "cut").rglob("shard-*.parquet"))) >= 2, 240, str(log))
    team.network.cut("worker")
    try:
        assert process.wait(400) == 0, log.read_text()
    finally:
        team.network.mend("worker")
    assert "amun" in (team.network.shared / "cut" / "results.json").read_text()


def test_ray_down_leaves_nothing_behind(submitted, team):
    """The last test of the file: the cluster is gone after it."""
    with team.timed("ray down"):
        team.laptop.run("cd amun_ray && ray down --yes cluster/cluster.yaml", timeout=120)
    assert "raylet" not in team.head.run("ps ax -o comm").stdout
    # Ray stops the head alone; the others end by themselves when they have missed it for a minute.
    hosts.until(lambda: "raylet" not in team.worker.run("ps ax -o comm").stdout, 180, "the worker's raylet ends")


def run_python(host, program: str, *arguments: str) -> str:
    """Run a Python program on a host."""
    file = host.folder / "tmp" / "program.py"
    file.write_text(program)
    return host.run(f"python /tmp/program.py {' '.join(arguments)}", timeout=120).stdout
