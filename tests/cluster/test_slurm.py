"""`sbatch cluster/slurm.sh` on a real Slurm: two nodes of two fake GPUs, a time limit, a lost node, an array of jobs.

AMUN_SLURM=1 runs it, as root, where Debian's slurm-wlm and munge are installed: fifteen minutes on two busy cores.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import hosts
import pytest
import slurm as slurms
import yaml

READ_STATUS = """
import mlflow, sys
client = mlflow.MlflowClient("sqlite:///" + sys.argv[1])
runs = client.search_runs([one.experiment_id for one in client.search_experiments()], "tags.stage = 'sweep'")
print("STATUS", *(one.info.status for one in runs))
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurms.Slurm]:
    if os.environ.get("AMUN_SLURM") != "1":
        pytest.skip("a Slurm of its own, ten minutes: AMUN_SLURM=1")
    absent = sorted({package for tool, package in slurms.NEEDED.items()
                     if shutil.which(tool, path=hosts.SYSTEM_PATH) is None})
    if reason := hosts.missing() or (absent and f"not installed: {', '.join(absent)}"):
        pytest.skip(reason)
    with hosts.Network(tmp_path_factory.mktemp("slurm")) as network:
        yield slurms.Slurm(network)


def left_over(slurm: slurms.Slurm) -> list[Path]:
    """Tokens and process numbers of jobs that are over."""
    return [*slurm.folder.glob("amun_output/.token-*"), *slurm.folder.glob("amun_output/.driver-*")]


def test_time_is_up_and_the_same_command_goes_on(slurm):
    output = slurm.network.shared / "several_hosts"
    first = slurm.submit("--time=30 --signal=B:INT@60")
    slurm.until(first, "[3/5")
    slurm.head.run(f"scancel --batch --signal=INT {first}")  # what Slurm does a minute before the limit
    assert slurm.ended(first) == "FAILED"
    assert "ExitCode=130:0" in slurm.head.run(f"scontrol show job {first}").stdout
    assert not (output / "results.json").exists()
    assert slurm.head.python(READ_STATUS, f"{hosts.SHARED}/several_hosts/mlflow.db").split() == ["STATUS", "KILLED"]
    assert left_over(slurm) == []
    shards = {path: path.stat().st_mtime for path in output.rglob("shard-*.parquet")}
    assert shards

    second = slurm.submit()
    assert slurm.ended(second) == "COMPLETED", slurm.text(second)
    assert "2 node(s), 4 CPUs, 4 GPUs" in slurm.text(second)
    assert "amun" in (output / "results.json").read_text()
    assert {path: path.stat().st_mtime for path in shards} == shards
    assert left_over(slurm) == []
    notes = [json.loads(path.read_text()) for path in (slurm.network.shared / "seen").iterdir()]
    first = sorted(notes, key=lambda note: note["time"])[:4]
    assert sorted((note["host"], note["visible"]) for note in first) == [
        ("head", "0"), ("head", "1"), ("worker", "0"), ("worker", "1")]


def test_a_lost_node_ends_the_job_and_the_same_command_goes_on(slurm):
    given = "--set name=lost --set seed=1"
    first = slurm.submit(arguments=f"{given} --output {hosts.SHARED}/lost")
    slurm.until(first, "[1/5")
    worker = slurm.network.hosts["worker"]
    worker.run("pkill -KILL slurmd; pkill -KILL slurmstepd; pkill -KILL -f ray", check=False)
    assert slurm.ended(first) in ("FAILED", "NODE_FAIL")
    slurm.start_node("worker")
    second = slurm.submit(arguments=f"{given} --output {hosts.SHARED}/lost")
    assert slurm.ended(second) == "COMPLETED", slurm.text(second)
    assert left_over(slurm) == []


def test_an_array_runs_a_config_in_each_task(slurm):
    config = yaml.safe_load((slurm.folder / "several_hosts.yaml").read_text())
    for number in range(2):
        (slurm.folder / f"{number}.yaml").write_text(yaml.safe_dump(
            config | {"name": f"task{number}", "model": {"name": "small_cnn"}, "resources": {"cpus": 1},
                      "storage": f"{hosts.SHARED}/store", "final": {"runs": number + 1}}))
    said = slurm.head.run(
        f"cd {slurms.FOLDER} && sbatch --nodes=1 --cpus-per-task=2 --gpus-per-node=2 --array=0-2 "
        "amun_ray/cluster/slurm.sh 0.yaml 1.yaml -- --set search.trials=1 --set search.startup=1").stdout
    job = slurms.number_of(said)
    states = [slurm.ended(f"{job}_{task}") for task in range(3)]
    assert states == ["COMPLETED", "COMPLETED", "FAILED"]
    assert all((slurm.folder / "amun_output" / f"task{number}" / "results.json").exists() for number in range(2))
    assert "task 2 of the array has no config: 2 are given" in (slurm.folder / f"slurm-{job}_2.out").read_text()
