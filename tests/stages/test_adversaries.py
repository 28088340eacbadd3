"""Stage 2 writes the same bytes whatever happens to its workers."""

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import driving
import numpy as np
import pytest
from driving import ROWS, SHARD_SIZE, arm, copy_original, run, shard_files

from amun_ray.base.errors import UserError
from amun_ray.base.status import Status
from amun_ray.data import shards
from amun_ray.stages import adversaries
from amun_ray.storage import seal
from amun_ray.storage.store import VOUCHER, Store, Unit
from amun_ray.work.artifacts import numbers, read_adversaries

TIMEOUT_SECONDS = 300  # of a driver in a process of its own; it takes 20 on an idle machine


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A store with a trained network and nothing else; beside it the gate of its trap, unarmed."""
    folder = tmp_path_factory.mktemp("trained")
    driving.train_original(folder / "store", folder / "gate")
    return folder / "store"


@pytest.fixture
def gate(trained) -> Path:
    """The path is an option of the network, so every test has the same; tests of this file do not run side by side."""
    folder = trained.parent / "gate"
    folder.mkdir(exist_ok=True)
    for left in folder.iterdir():
        left.unlink()
    return folder


@pytest.fixture
def store(trained, tmp_path) -> Path:
    return copy_original(trained, tmp_path / "store")


@pytest.fixture(scope="module")
def one_worker(local_ray, trained, tmp_path_factory):
    """The set as one undisturbed worker makes it, and its folder."""
    folder = copy_original(trained, tmp_path_factory.mktemp("one worker") / "store")
    return run(folder, trained.parent / "gate", workers=1), folder


@pytest.fixture
def wanted(one_worker) -> dict[str, bytes]:
    return content(one_worker[1])


@pytest.fixture
def half_done(one_worker, store) -> Path:
    """A store in which the shards 0, 2, 4 and 6 of the set are finished, and the set is not."""
    for file in shard_files(one_worker[1])[::2]:
        target = store / file.relative_to(one_worker[1])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    return store


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in shard_files(folder)}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """What changes when a shard is written again: every write makes a new file."""
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in shard_files(folder)}


def test_a_set_holds_every_row_once_and_its_numbers_agree(one_worker):
    made, folder = one_worker
    store = Store(str(folder))
    read = [shards.decode(file.read_bytes()) for file in shard_files(folder)]
    assert made.shards == len(read) == -(-len(ROWS) // SHARD_SIZE)
    assert np.concatenate([rows["index"] for rows, _ in read]).tolist() == ROWS.tolist()
    assert {metadata["eps_init"] for _, metadata in read} == {repr(made.report["eps_init"])}
    found = numbers(store, made)
    flipped = found["status"] == Status.FLIPPED
    assert 0 < flipped.sum() < len(ROWS)  # some are wrong from the start: the network is a poor one
    assert made.report["flipped_percent"] == pytest.approx(100 * flipped.mean())
    images, labels, sources = read_adversaries(store, made)
    assert len(images) == len(labels) == (found["status"] != Status.FAILED).sum()
    assert sources.tolist() == [place for place, status in enumerate(found["status"]) if status != Status.FAILED]


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_gives_the_same_bytes(workers, local_ray, store, gate, wanted, one_worker):
    made = run(store, gate, workers=workers)
    assert content(store) == wanted
    assert made == one_worker[0]


def test_a_finished_set_starts_no_worker(one_worker, gate, wanted, monkeypatch):
    monkeypatch.setattr(adversaries, "ActorQueue", None)
    before = stamps(one_worker[1])
    assert run(one_worker[1], gate) == one_worker[0]
    assert stamps(one_worker[1]) == before


def test_bad_shards_are_named_and_rebuilt_and_the_others_left_alone(local_ray, half_done, gate, wanted, capsys):
    flipped, cut, foreign, sound = shard_files(half_done)
    damaged = bytearray(flipped.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    flipped.write_bytes(damaged)
    cut.write_bytes(cut.read_bytes()[:-100])
    foreign.write_bytes(sound.read_bytes())
    before = stamps(half_done)
    made = run(half_done, gate, workers=1)
    assert content(half_done) == wanted
    kept = {name for name, stamp in stamps(half_done).items() if before.get(name) == stamp}
    assert kept == {sound.name}
    assert made.report["flipped_percent"] > 0
    said = capsys.readouterr().out.splitlines()
    for file, reason in ((flipped, "damaged, or no shard"), (cut, "damaged, or no shard"), (foreign, "made from rows")):
        assert sum(str(file) in line and reason in line for line in said) == 1


def test_a_shard_of_another_first_radius_is_foreign(one_worker, half_done, gate, capsys):
    """Had two drivers calibrated differently, their shards must not end up in one set."""
    first, second, *_ = shard_files(half_done)
    rows, metadata = shards.decode(second.read_bytes())
    given = {key: value for key, value in metadata.items() if key not in shards.OWN_KEYS}
    second.write_bytes(shards.encode(rows, metadata=given | {"eps_init": "0.5"}))
    found = adversaries._missing(*cut_set(half_done, gate))
    assert [shard.number for shard in found] == [1, 2, 3, 5, 7]
    assert {shard.radius for shard in found} == {one_worker[0].report["eps_init"]}
    assert f"{second}: made from eps_init 0.5" in capsys.readouterr().out
    assert first.exists()


def test_with_a_key_a_bad_shard_leaves_the_others_to_their_own_vouchers(tmp_path, monkeypatch, capsys):
    """A set's unit.json vouches for all its shards, and goes with one of them. Whatever has no voucher of its own must
    be made again at once: unsigned, it could not be in the next unit.json."""
    monkeypatch.setenv(seal.KEY, "a key")
    unit, signed = Unit("adversarial_sets", {"original": "w", "dataset": "d"}), Store(str(tmp_path))
    pieces = [adversaries.Shard("set", None, unit, number, ROWS[8 * number:][:8], 0.5) for number in range(4)]
    shape = {"index": (8,), "image": (8, 1, 2, 2)}
    for shard in pieces:
        rows = {name: np.zeros(shape.get(name, (8,)), dtype) for name, (dtype, _) in shards.COLUMNS.items()}
        signed.write(unit, shard.name, shards.encode(rows, metadata=shard.lineage))
        signed.vouch(unit, shard.name)
    signed.finish(unit, {}, [shard.name for shard in pieces])
    workspace = SimpleNamespace(store=signed, sweep=driving.sweep(tmp_path))
    files = shard_files(tmp_path)
    files[1].with_name(files[1].name + VOUCHER).unlink()
    assert adversaries._missing(workspace, pieces) == []  # unit.json vouches for it
    files[3].write_bytes(b"")
    assert [shard.number for shard in adversaries._missing(workspace, pieces)] == [1, 3]
    assert [file.exists() for file in files] == [True, False, True, False]
    said = capsys.readouterr().out
    assert f"  {files[1]}: not signed, and AMUN_STORE_KEY is set; it is made again\n" in said
    assert said.count("it is made again") == 2


def cut_set(folder: Path, gate: Path):
    """The workspace of `run`, and the shards of its set."""
    caught = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adversaries, "_missing", lambda workspace, pieces: caught.extend([workspace, pieces]) or [])
        patch.setattr(adversaries, "_finished", lambda *_: None)
        run(folder, gate)
    return caught


@pytest.mark.parametrize("blow", ["worker", "actor"])
def test_a_lost_worker_costs_nothing_but_time(blow, local_ray, half_done, gate, wanted):
    """`worker`: the process gets SIGKILL in the middle of a shard. `actor`: `ray.kill` of the actor there."""
    before = stamps(half_done)
    arm(gate, blow, half_done)
    run(half_done, gate)
    assert (gate / "struck").exists()
    assert content(half_done) == wanted
    assert stamps(half_done).items() >= before.items()


def test_a_driver_that_was_killed_goes_on_where_it_was(local_ray, store, gate, wanted):
    killed = drive("alone", store, gate)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    finished = stamps(store)
    assert 2 <= len(finished) < len(wanted)
    run(store, gate)
    assert content(store) == wanted
    assert stamps(store).items() >= finished.items()


def test_a_lost_node_costs_nothing_but_time(store, gate, wanted):
    done = drive("cluster", store, gate)
    assert done.returncode == 0, done.stderr
    assert "finished without the node that was lost" in done.stdout
    assert content(store) == wanted


def drive(how: str, store: Path, gate: Path) -> subprocess.CompletedProcess:
    """A driver in its own process, with a Ray of its own."""
    return subprocess.run([sys.executable, driving.__file__, how, str(store), str(gate)], text=True,
                          capture_output=True, timeout=TIMEOUT_SECONDS, check=False)


@pytest.mark.parametrize(("rows", "message"), [
    (np.array([], np.int64), "forget set 'final 0': it is empty"),
    (np.array([3, 200]), "row 200 is outside the training rows 0..199"),
    (np.array([-1, 3]), "row -1 is outside"),
    (np.array([5, 3, 5]), "row 5 is there more than once"),
    (np.array([0.5, 1.0]), "rows must be integers"),
])
def test_rows_that_make_no_forget_set_are_refused_before_work_starts(rows, message, local_ray, store, gate,
                                                                     monkeypatch):
    monkeypatch.setattr(adversaries, "ActorQueue", None)
    with pytest.raises(UserError, match=message):
        run(store, gate, rows=rows)


def test_a_broken_model_is_named_with_its_shard(local_ray, store, gate):
    with pytest.raises(UserError, match="shard 0 of original 0, final 0: model: it returned NaN"):
        run(store, gate, workers=1, unit=driving.BROKEN)


def test_the_order_of_the_rows_does_not_matter(one_worker, gate, monkeypatch):
    monkeypatch.setattr(adversaries, "ActorQueue", None)
    assert run(one_worker[1], gate, rows=ROWS[::-1]) == one_worker[0]


def test_a_worker_stumbles_over_the_memory_of_its_device_once(local_ray, store, gate, capsys):
    """Calibration and all shards of one worker share what it found out."""
    (gate / "room").write_text("3")
    made = run(store, gate, cpus=local_ray.cluster_resources()["CPU"])
    assert made.shards > 2
    assert len(ROWS) == 60  # so the first two tries, of up to 128 and 64 images, are of as many
    assert (gate / "stumbles").read_text().split() == ["60", "60", "32", "16", "8", "4"]
    said = [line for line in capsys.readouterr().out.splitlines() if "out of GPU memory" in line]
    assert len(said) == 1
    assert said[0].endswith("goes on with 2 images at a time")


def test_a_warning_of_many_workers_is_said_once(capsys):
    class Queue:
        def run(self, items, submit):
            yield from ((item, (None, ["out of GPU memory: on with 4"], 2.0)) for item in items)

    pieces = [adversaries.Shard("set", None, Unit("x", {}), number, ROWS[:2]) for number in range(3)]
    spent = adversaries._build(Queue(), pieces, [], {})
    assert spent == {pieces[0].unit.digest: 6.0}
    assert capsys.readouterr().out.count("shard 0 of set: out of GPU memory") == 1
