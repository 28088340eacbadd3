"""Whatever dies on the way: the final table is the same, and nothing finished is made again.

All of it is measured against one undisturbed run of tests/small_sweep.yaml. Fifteen sweeps are started for
it, so it runs where it is asked for: AMUN_ENDURANCE=1.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from sweeping import CONFIG, PATIENCE, REPOSITORY, Sweep, finished, finished_in, logged, made, numbers

from amun_ray.storage.store import Store

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"),
              pytest.mark.skipif("AMUN_ENDURANCE" not in os.environ, reason="starts fifteen sweeps: AMUN_ENDURANCE=1")]
UNITS = {"training": 8, "adversarial examples": 90, "search": 9, "unlearning": 12}  # of the config, by label


@pytest.fixture
def half_done(undisturbed, tmp_path) -> Path:
    """A store in which everything is finished but the final models and what comes after."""
    return Path(shutil.copytree(undisturbed[1] / "store", tmp_path / "half", copy_function=shutil.copy2,
                                ignore=shutil.ignore_patterns("unlearned", "tables")))


def test_a_driver_killed_in_every_stage_loses_nothing(undisturbed, tmp_path):
    run, output = undisturbed
    seed = random.randrange(2**32)
    draw, kept = random.Random(seed), {}
    for stage in range(1, 6):
        after = draw.uniform(0.05, 0.9) * run.duration(stage)
        Sweep("--config", CONFIG, "--output", tmp_path).kill_in(stage, after)
        now = finished(tmp_path)
        assert kept.items() <= now.items(), f"finished work was made again: {seed=}, {stage=}, {after=}"
        kept = now
    Sweep("--config", CONFIG, "--output", tmp_path).finish()
    assert kept.items() <= finished(tmp_path).items(), f"finished work was made again: {seed=}"
    assert numbers(tmp_path) == numbers(output), seed
    assert set(finished(tmp_path)) == set(finished(output)), seed
    wanted, found = logged(output), logged(tmp_path)
    assert {stage: len(group) for stage, group in found.items()} == {
        stage: len(group) for stage, group in wanted.items()}, seed
    assert {one.info.status for group in found.values() for one in group} == {"FINISHED"}, seed
    assert left_behind(tmp_path / "store") == [], seed


def left_behind(store: Path) -> list[str]:
    """What is in a store and belongs to no unit."""
    return [str(path) for folder in ("scratch", "sweeps", "leases") for path in (store / folder).iterdir()]


def test_workers_actors_and_a_node_killed_in_one_sweep(undisturbed, tmp_path):
    """SIGKILL to who trains, who attacks, who tries settings and who unlearns; and to a whole node of two."""
    with two_nodes() as nodes:
        sweep = Sweep("--config", CONFIG, "--output", tmp_path, RAY_ADDRESS=nodes["address"])
        kept = {}
        for title in ("ray::_train", "ray::Crafter.work", "ray::ImplicitFunc.train", "ray::_unlearn"):
            victim = working(title, nodes["raylets"])
            kept |= finished(tmp_path)
            os.kill(victim, signal.SIGKILL)
            if title == "ray::ImplicitFunc.train":
                os.kill(nodes["raylets"][1], signal.SIGKILL)
        sweep.finish()
    assert "2 node(s)" in sweep.text
    assert kept.items() <= finished(tmp_path).items()
    assert numbers(tmp_path) == numbers(undisturbed[1])
    assert set(finished(tmp_path)) == set(finished(undisturbed[1]))


@contextmanager
def two_nodes():
    with (pytest.MonkeyPatch.context() as patch,
          subprocess.Popen([sys.executable, str(REPOSITORY / "tests" / "two_nodes.py")], text=True,
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                           env=os.environ | {"RAY_AUTH_MODE": "disabled"}) as cluster):
        patch.setenv("RAY_AUTH_MODE", "disabled")
        yield json.loads(cluster.stdout.readline())
        cluster.stdin.close()
        cluster.wait(PATIENCE)


def working(title: str, raylets: list[int]) -> int:
    """The process of a worker of these nodes that is at `title`; waits for one."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for process in filter(str.isdigit, os.listdir("/proc")):
            try:
                parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
                if parent in raylets and Path(f"/proc/{process}/cmdline").read_bytes().startswith(title.encode()):
                    return int(process)
            except OSError:
                continue
        time.sleep(0.01)
    raise AssertionError(f"nobody came to {title}")


@pytest.fixture
def small_disk(tmp_path) -> Path:
    """A disk of its own, of 64 MiB, which `resize` changes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=False,
                                           capture_output=True).returncode:
        pytest.skip("a disk of a known size cannot be mounted here: that needs root, and a kernel that lets it")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def resize(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)


def test_a_disk_that_is_full_stops_a_sweep_with_one_line_and_room_lets_it_go_on(undisturbed, half_done, small_disk,
                                                                               tmp_path):
    store = Path(shutil.copytree(half_done, small_disk / "store", copy_function=shutil.copy2))
    kept = finished_in(store)
    one = sum(path.stat().st_size for path in next((undisturbed[1] / "store" / "unlearned").iterdir()).iterdir())
    space = os.statvfs(small_disk)
    resize(small_disk, (space.f_blocks - space.f_bfree) * space.f_frsize + int(2.5 * one))  # room for two of twelve
    command = ("--config", CONFIG, "--output", tmp_path / "out", "--set", f"storage={store}")
    full = Sweep(*command).finish(code=2)
    (line,) = [line for line in full.lines if line.startswith("error: ")]
    assert f"storage '{store}': unlearned/" in line
    assert "No space left on device" in line
    assert "the same command goes on" in line
    assert "Traceback" not in full.text
    assert not [*store.rglob("*.partial")]
    now = finished_in(store)
    assert kept.items() <= now.items()
    resize(small_disk, 64 << 20)
    Sweep(*command).finish()
    assert now.items() <= finished_in(store).items()
    assert numbers(tmp_path / "out") == numbers(undisturbed[1])


def test_ctrl_c_once_ends_in_order_and_twice_at_once(undisturbed, half_done, tmp_path):
    command = ("--config", CONFIG, "--output", tmp_path / "out", "--set", f"storage={half_done}")
    kept = finished_in(half_done)
    for times in (1, 2):
        before = len(unlearned(half_done))
        stopped = Sweep(*command).when(lambda before=before: len(unlearned(half_done)) > before)
        for _ in range(times):
            stopped.interrupt()
            time.sleep(0.2)
        stopped.finish(code=130)
        assert "stopping; Ctrl-C again stops at once" in stopped.text
        assert "stopped; what is finished is kept. To go on: python " in stopped.text
        assert f"--set storage={half_done}" in stopped.text
        assert "Traceback" not in stopped.text
        now = finished_in(half_done)
        assert kept.items() <= now.items()
        kept = now
        if times == 1:
            (said,) = re.findall(r"^  unlearning: (\d+) of 12 models are finished$", stopped.text, re.MULTILINE)
            assert int(said) <= len(unlearned(half_done)) <= int(said) + (os.cpu_count() or 1)
            (parent,) = logged(tmp_path / "out")["sweep"]
            assert parent.info.status == "KILLED"
    Sweep(*command).finish()
    assert kept.items() <= finished_in(half_done).items()
    assert numbers(tmp_path / "out") == numbers(undisturbed[1])
    assert left_behind(half_done) == []


def unlearned(store: Path) -> list[Path]:
    """The final models that are finished."""
    return [*store.glob("unlearned/*/unit.json")]


def test_sweeps_at_once_on_one_storage_share_the_work(undisturbed, tmp_path):
    """Two of the same config, and one of another that shares most of it: each unit is made by one of them."""
    storage = tmp_path / "store"
    other = json.dumps({"amun": None})
    with ExitStack() as running:
        sweeps = {name: running.enter_context(ended(Sweep(
            "--config", CONFIG, "--output", tmp_path / name, "--set", f"storage={storage}", *more)))
            for name, more in {"first": (), "second": (), "other": ("--set", f"methods={other}")}.items()}
    for label, count in UNITS.items():
        assert {label: sum(made(sweep, label) for sweep in sweeps.values())} == {label: count}
    wanted = numbers(undisturbed[1])
    assert numbers(tmp_path / "first") == numbers(tmp_path / "second") == wanted
    assert numbers(tmp_path / "other") == [row for row in wanted if row["method"] != "finetune"]
    more = set(finished_in(storage)) ^ set(finished(undisturbed[1]))
    assert [name.partition("/")[0] for name in more] == ["tables"]  # the other config's, which has a table of its own
    assert left_behind(storage) == []


@contextmanager
def ended(sweep: Sweep):
    yield sweep
    sweep.finish()


def test_a_second_sweep_in_the_same_folder_is_told_and_waits(undisturbed, tmp_path):
    """The first is a process of this test that lives, and then ends."""
    from amun_ray.storage.leases import announced, claim
    output = tmp_path / "out"
    shutil.copytree(undisturbed[1], output, copy_function=shutil.copy2)
    first = Store(str(output / "store"))
    with announced(first):
        assert claim(first, "output")
        second = Sweep("--config", CONFIG, "--output", output)
        line = second.until("belongs to a sweep that is still running")
        assert f"--output {output} " in line
        assert f"process {os.getpid()}" in line
    second.finish()
    assert finished(output) == finished(undisturbed[1])


def test_a_sweep_in_an_object_store(bucket, tmp_path):
    """A tiny one, and the same command again; the key to the bucket is told to nobody."""
    place = bucket()
    base, _, options = place.partition("?")
    storage = f"{base}/team?{options}"
    tiny = ["training.epochs=1", "methods={amun: {access: [forget_only]}}", "forget.sets=1", "search.trials=1",
            "search.epochs=1", "final.runs=1", f"storage={storage}"]
    sweep = Sweep("--config", CONFIG, "--output", tmp_path, *(word for one in tiny for word in ("--set", one))).finish()
    store = Store(storage)
    assert {kind: len(store.times(kind)) for kind in ("models", "adversarial_sets", "trials", "unlearned")} == {
        "models": 7, "adversarial_sets": 2, "trials": 1, "unlearned": 1}
    assert [store.times(folder) for folder in ("sweeps", "leases", "scratch")] == [{}, {}, {}]
    (parent,) = logged(tmp_path)["sweep"]
    assert parent.data.params["storage"] == storage
    assert "a-secret" not in json.dumps(parent.data.params) + sweep.text
