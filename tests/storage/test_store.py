"""A unit is whole or absent, and its address depends on its inputs alone."""

import json
import pickle
import re
import socket

import pytest

from amun_ray.base.errors import StorageError, UserError
from amun_ray.storage import files
from amun_ray.storage.store import Store, Unit, digest


@pytest.fixture(params=["path", "uri", "s3"])
def store(request, tmp_path):
    if request.param == "s3":
        return Store(request.getfixturevalue("bucket")().replace("?", "/below?"))
    return Store(str(tmp_path / "store") if request.param == "path" else (tmp_path / "store").as_uri())


def test_a_relative_path_means_the_same_folder_wherever_the_store_is_sent(tmp_path, monkeypatch):
    """A trial of Tune runs in a folder of its own."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = Store("results/store")
    monkeypatch.chdir(tmp_path / "elsewhere")
    pickle.loads(pickle.dumps(store)).finish(Unit("trials", {}), {"seconds": 1.0})
    assert store.result(Unit("trials", {})) == {"seconds": 1.0}
    assert (tmp_path / "results" / "store" / "trials").is_dir()


def test_a_digest_is_that_of_the_canonical_json_or_of_the_bytes():
    assert digest({"b": 1, "a": [2]}) == digest({"a": [2], "b": 1}) == digest(b'{"a":[2],"b":1}')
    assert digest(b"") == "e3b0c44298fc1c149afb"  # sha256 of nothing


def test_units_of_other_inputs_or_another_kind_live_elsewhere():
    units = [Unit("trials", {"lr": 0.1}), Unit("trials", {"lr": 0.2}), Unit("models", {"lr": 0.1})]
    assert len({unit.folder for unit in units}) == 3
    assert Unit("trials", {"lr": 0.1}).folder == units[0].folder


def test_a_unit_is_finished_only_by_finish(store):
    unit = Unit("models", {"seed": 1})
    store.write(unit, "weights", b"abc")
    assert store.has(unit, "weights")
    assert store.result(unit) is None
    store.finish(unit, {"seconds": 2.5}, ["weights"])
    assert store.result(unit) == {"seconds": 2.5}
    assert store.read(unit, "weights").to_pybytes() == b"abc"
    assert json.loads(store.content(unit, "unit.json").to_pybytes())["inputs"] == {"seed": 1}


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    store = Store(str(tmp_path / "store"))
    unit = Unit("models", {"seed": 1})
    store.write(unit, "kept", b"old")
    (tmp_path / "store" / unit.folder / "weights").mkdir()  # the rename onto a folder fails
    with pytest.raises(StorageError, match=f"{unit.folder}/weights cannot be written: .*the same command goes on"):
        store.write(unit, "weights", b"new")
    assert sorted(path.name for path in (tmp_path / "store" / unit.folder).iterdir()) == ["kept", "weights"]
    assert not [*(tmp_path / "store").rglob("*.partial")]


def test_scratch_is_gone_afterwards(store):
    with store.scratch() as folder:
        inside = Store(folder)
        inside.put("file", b"content")
        assert inside.get("file") == b"content"
        assert list(store.times(f"scratch/{store.owner}")) == [folder.partition("?")[0].rpartition("/")[2]]
    assert inside.get("file") is None


def test_a_file_is_replaced_whole_and_one_that_is_not_there_is_none(store):
    store.put("folder/name", b"old")
    store.put("folder/name", b"new")
    assert store.get("folder/name") == b"new"
    assert list(store.times("folder")) == ["name"]
    store.remove("folder/name")
    assert store.get("folder/name") is None
    store.remove("folder/name")
    store.remove_folder("another")
    assert store.times("another") == {}


def test_an_empty_file_is_read(store):
    unit = Unit("models", {})
    store.write(unit, "nothing", b"")
    store.finish(unit, {}, ["nothing"])
    assert store.read(unit, "nothing").to_pybytes() == b""


def test_a_deleted_file_is_gone(store):
    unit = Unit("models", {})
    store.write(unit, "weights", b"abc")
    store.delete(unit, "weights")
    assert not store.has(unit, "weights")


def test_a_store_travels_to_workers_with_its_owner(store):
    unit, there = Unit("models", {}), pickle.loads(pickle.dumps(store))
    there.write(unit, "weights", b"abc")
    assert store.content(unit, "weights").to_pybytes() == b"abc"
    assert there.owner == store.owner != Store(store.uri).owner


def test_a_sound_store_is_writable_and_nothing_is_left_of_the_test(store):
    store.check_writable()
    assert store.times("scratch") == {}


@pytest.mark.parametrize("uri", ["/proc/nothing", "nonsense://x/y",
                                 "s3://bucket/below?scheme=http&endpoint_override=127.0.0.1:9"])
def test_a_store_that_cannot_be_written_is_said_so(uri):
    with pytest.raises(UserError, match=re.escape(f"storage {uri!r}")) as raised:
        Store(uri).check_writable()
    assert "\n" not in str(raised.value)


def test_a_bucket_that_is_not_there_is_said_so(bucket):
    uri = bucket().replace("bucket-", "no-bucket-")
    with pytest.raises(UserError, match="does not exist"):
        Store(uri).check_writable()


def test_a_storage_that_does_not_answer_does_not_hang_the_sweep(monkeypatch):
    monkeypatch.setattr(files, "FIRST_CONTACT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"s3://bucket/below?scheme=http&endpoint_override=127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match="does not answer within 0.2 s"):
            Store(uri).check_writable()


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_sizes_are_those_of_every_file_below_a_folder(kind, tmp_path, request):
    found = files.Files(str(tmp_path) if kind == "folder" else request.getfixturevalue("bucket")())
    assert found.sizes() == {}
    found.put("a/b/c", b"123")
    found.put("a/d", b"")
    found.put("e", b"45")
    assert {name: size for name, size in found.sizes().items() if not name.startswith("scratch")} == {
        "a/b/c": 3, "a/d": 0, "e": 2}
    assert found.sizes("a") == {"a/b/c": 3, "a/d": 0}
    assert found.sizes("none") == {}
