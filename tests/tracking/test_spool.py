"""An event that is kept comes back as it was, in order, whole or not at all."""

import errno
import tracemalloc

import pyarrow as pa
import pytest

from amun_ray.base.errors import Damaged, StorageError
from amun_ray.tracking import Event, event, model_files
from amun_ray.tracking.event import Spool, write_files

EVENT = Event(key="k", parent="p", name="a run", tags={"stage": "trial", "original": 0}, params={"lr": 0.1},
              metrics=[("loss", 1.5, 0), ("loss", 0.5, 1)], files={"model/weights": b"\0\1", "notes.txt": b""},
              model={"MLmodel": b"text", "data/x": b"y"}, registered="name", status="FINISHED", above="g",
              description="text", seconds=1.5, datasets=[("digits", "d", 5, "D_F")])
LISTS = ("files", "model", "metrics", "datasets")


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool")


def test_an_event_comes_back_as_it_was(spool):
    spool.add(EVENT)
    (path,) = spool.waiting()
    found = spool.read(path)
    assert found.files == EVENT.files
    assert found.model == EVENT.model
    assert [tuple(entry) for entry in found.metrics] == EVENT.metrics
    assert [tuple(entry) for entry in found.datasets] == EVENT.datasets
    assert {name: value for name, value in vars(found).items() if name not in LISTS} == {
        name: value for name, value in vars(EVENT).items() if name not in LISTS}


def test_events_keep_their_order_and_the_last_one_takes_the_folder_with_it(spool):
    assert spool.waiting() == []
    for number in range(12):
        spool.add(Event(key=str(number)))
    assert [spool.read(path).key for path in spool.waiting()] == [str(number) for number in range(12)]
    for path in spool.waiting()[:11]:
        spool.remove(path)
    spool.add(Event(key="later"))
    assert [spool.read(path).key for path in spool.waiting()] == ["11", "later"]
    for path in spool.waiting():
        spool.remove(path)
    assert not spool.folder.exists()


def test_an_event_that_was_cut_off_while_it_was_written_does_not_count(spool, monkeypatch):
    monkeypatch.setattr("amun_ray.tracking.event.os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        spool.add(EVENT)
    assert spool.waiting() == []


@pytest.mark.parametrize("damage", [
    lambda path: path.write_text(path.read_text()[:40]), lambda path: path.write_text("[]"),
    lambda path: path.write_text('{"key": "k", "other": 1}'), lambda path: path.write_bytes(b"\xff"),
    lambda path: path.unlink()], ids=["truncated", "list", "other", "bytes", "gone"])
def test_an_event_that_is_not_what_was_kept_is_named_and_can_be_set_aside(spool, damage):
    spool.add(EVENT)
    spool.add(Event(key="later"))
    first, second = spool.waiting()
    damage(first / "event.json")
    with pytest.raises(Damaged, match=f"^{first}: "):
        spool.read(first)
    aside = spool.set_aside(first)
    assert aside.name.startswith("damaged-00000001")
    assert spool.waiting() == [second]
    spool.remove(second)
    assert list(spool.folder.iterdir()) == [aside]  # which stays until somebody has looked at it


def test_stray_files_are_no_events(spool):
    spool.add(EVENT)
    for name in (".DS_Store", "1.txt", "00000002", "notes"):
        (spool.folder / name).write_text("")
    (path,) = spool.waiting()
    spool.add(Event(key="later"))
    assert [spool.read(one).key for one in spool.waiting()] == ["k", "later"]
    assert path.name == "00000001"


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(spool, monkeypatch):
    spool.add(EVENT)
    write = event.write_files

    def full(folder, files):
        write(folder, files)
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(event, "write_files", full)
    with pytest.raises(StorageError, match=f"^{spool.folder}: .* No space left on device. Once it can"):
        spool.add(Event(key="later"))
    assert [path.name for path in spool.folder.iterdir()] == ["00000001"]


def test_weights_are_kept_without_a_copy_in_memory(tmp_path):
    """As the store hands them out: a view of a file on its disk."""
    size = 32 * 2**20
    (tmp_path / "weights").write_bytes(bytes(range(256)) * (size // 256))
    weights = memoryview(pa.memory_map(str(tmp_path / "weights")).read_buffer())
    tracemalloc.start()
    written = write_files(tmp_path / "event", model_files({"name": "vgg19"}, {"weights-0.safetensors": weights}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size / 16
    assert (written / "model" / "weights-0.safetensors").read_bytes() == bytes(weights)
