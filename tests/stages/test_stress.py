"""Ray under stress: nodes, memory and disk that go, long searches, two sweeps at once. docs/cluster.md has the figures.

It takes long, so it runs where it is asked for: AMUN_ENDURANCE=1. Each test is a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from stressing import LOW_MEMORY
from sweeping import CONFIG, REPOSITORY, Sweep, finished, numbers

pytestmark = pytest.mark.skipif("AMUN_ENDURANCE" not in os.environ, reason="takes long: AMUN_ENDURANCE=1")
HERE = Path(__file__).resolve().parent
PATIENT = {"RAY_raylet_start_wait_time_s": "300", "RAY_agent_register_timeout_ms": "300000"}  # a busy machine is slow
TINY = {"name": "big", "data": {"name": "stressing:big"}, "model": {"name": "stressing:Mean"},
        "training": {"epochs": 1, "lr": 0.1}, "forget": {"fraction": 0.05}, "references": {"count": 4},
        "attack": {"search": {"name": "pgd_l2", "steps": 1}}, "methods": {"finetune": None},
        "search": {"trials": 1, "epochs": 1}, "final": {"runs": 1}}


def run(script: Path, *arguments: str | Path) -> Any:
    """What a script of the tests prints as JSON in its last line."""
    done = subprocess.run([sys.executable, script, *arguments], check=True, text=True, stdout=subprocess.PIPE,
                          env=os.environ | PATIENT | {"RAY_AUTH_MODE": "disabled"})
    return json.loads(done.stdout.splitlines()[-1])


def stressed(kind: str, folder: Path, *arguments: str) -> Any:
    return run(HERE / "stressing.py", kind, folder, *arguments)


def test_a_search_outlives_twenty_nodes_that_go_as_their_trial_begins(tmp_path):
    found = stressed("spot", tmp_path, "20")
    assert (found["trials"], found["finished"], found["deaths"]) == (20, 20, 20)


def test_a_long_search_holds_its_memory_and_leaves_little_in_rays_folders(tmp_path):
    found = stressed("long", tmp_path, "500")
    seen = {one["trials"]: one for one in found["seen"]}
    assert {one["workers"] for one in seen.values()} == {1}
    for process in ("driver", "worker"):
        assert seen[500][process] - seen[200][process] < 16 * 2**20
    for folder in ("session", "tune"):  # bytes that a trial leaves there
        assert (seen[500][folder]["bytes"] - seen[200][folder]["bytes"]) / 300 < 4096
    assert found["snapshots"] < 0.05 * found["seconds"]


def test_two_sweeps_on_one_cluster_have_equal_parts_of_it(tmp_path):
    for kind, found in stressed("share", tmp_path).items():
        assert found["first_ended_after"] > 0, f"{kind}: the second had to wait for the end of the first"
        assert 35 < found["percent"] < 65, f"{kind}: {found}"


def test_a_search_without_enough_memory_ends_with_the_reason(tmp_path):
    assert "running low on memory, and Ray ended the worker" in stressed("short", tmp_path)["error"]


def refused(*command: str | Path, **environment: str) -> str:
    """The one line with which a sweep ends."""
    ended = Sweep(*command, **environment).finish(code=2)
    assert "Traceback" not in ended.text
    (line,) = [line for line in ended.lines if line.startswith("error: ")]
    return line


def test_a_sweep_without_enough_memory_ends_with_one_line_after_a_few_attempts(tmp_path):
    line = refused("--config", CONFIG, "--output", tmp_path, **LOW_MEMORY)
    assert "running low on memory, and Ray ended the worker" in line
    assert "the same command goes on" in line


def test_a_set_larger_than_the_object_store_needs_a_disk_and_without_one_nothing_is_lost(tmp_path):
    config = tmp_path / "big.yaml"
    config.write_text(yaml.safe_dump(TINY))
    command = ("--config", config, "--output", tmp_path / "out", "--allow-code", "stressing")
    store = {"RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": str(80 << 20)}
    Sweep(*command, **store).finish()
    kept, table = finished(tmp_path / "out"), numbers(tmp_path / "out")
    line = refused(*command, "--set", "final.runs=2", **store, RAY_local_fs_capacity_threshold="0.01")
    assert "the object store of a node is full, and so is the disk that it spills to" in line
    assert finished(tmp_path / "out") == kept
    assert numbers(tmp_path / "out") == table


def test_head_and_worker_find_together_where_both_were_told_the_same(tmp_path):
    found = run(REPOSITORY / "tests" / "runtime" / "pairing.py", tmp_path)
    assert [pair for pair, outcome in found.items() if outcome == "joins"] == [
        "token: head with, worker with", "unset: head without, worker with", "unset: head without, worker without"]
    refused = {pair: outcome for pair, outcome in found.items() if outcome != "joins"}
    assert list(refused) == ["token: head with, worker without", "token: head without",
                             "unset: head with, worker with", "unset: head with, worker without"]
    assert all("AuthenticationError" in outcome for outcome in refused.values())


def test_a_job_leaves_results_at_home_and_keeps_none_where_they_would_go_with_it(tmp_path):
    found = stressed("job", tmp_path)
    code, said = found["look"]
    assert code == 0
    assert {line for line in said.splitlines() if line.startswith("./")} == {"./mine.yaml"}
    code, said = found["sweep"]
    assert code == 1
    (line,) = {line for line in said.splitlines() if line.startswith("error: ")}  # Ray repeats the end of what it said
    assert "is in a folder of Ray's, which goes with its job; name one that stays" in line
