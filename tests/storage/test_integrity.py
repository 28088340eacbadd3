"""A stored unit is used only as it was written; a damaged one is named in one line and counts as absent."""

import hashlib
import hmac
import json
import os
import pickle
from pathlib import Path

import pytest

from amun_ray.base.errors import Damaged
from amun_ray.storage import seal
from amun_ray.storage.leases import announced, claim, release
from amun_ray.storage.sharing import make_once
from amun_ray.storage.store import Store, Unit

UNIT, RESULT = Unit("models", {"seed": 1}), {"seconds": 2.5, "weights": "1f", "curve": [{"gap": 1e-3}]}
FILES = {"weights": b"abc" * 100, "logits": b"0123456789"}


@pytest.fixture(params=["path", "uri", "s3"])
def store(request, tmp_path) -> Store:
    if request.param == "s3":
        return Store(request.getfixturevalue("bucket")().replace("?", "/below?"))
    return Store(str(tmp_path / "store") if request.param == "path" else (tmp_path / "store").as_uri())


@pytest.fixture
def local(tmp_path) -> Store:
    return make(Store(str(tmp_path / "store")))


def make(store: Store, unit: Unit = UNIT) -> Store:
    for name, content in FILES.items():
        store.write(unit, name, content + unit.digest.encode())
    store.finish(unit, RESULT, list(FILES))
    return store


def again(store: Store) -> Store:
    """The same store as another process sees it: one that has checked nothing yet."""
    from amun_ray.storage import store as module
    module._sound.clear()
    module._told.clear()
    return pickle.loads(pickle.dumps(store))


def said(capsys) -> list[str]:
    return capsys.readouterr().out.splitlines()


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1:]


DAMAGES = {"flipped": flipped, "cut": lambda content: content[:-4], "emptied": lambda content: b"",
           "longer": lambda content: content + b"\0"}


@pytest.mark.parametrize("name", [*FILES, "unit.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_once_and_its_unit_is_none_until_it_is_made_again(store, name, damage, capsys):
    make(store)
    content = store.content(UNIT, name).to_pybytes()
    store.write(UNIT, name, DAMAGES[damage](content))
    store = again(store)
    assert [store.result(UNIT), store.result(UNIT), store.is_sound(UNIT)] == [None, None, False]
    (line,) = said(capsys)
    assert line.startswith(f"  {store.path(UNIT, name)}: ")
    assert line.endswith("; it is made again")
    with pytest.raises(Damaged, match=f"{store.path(UNIT, name)}: .*; the same command makes it again"):
        store.read(UNIT, "weights" if name == "unit.json" else name)
    assert make_once(store, UNIT, lambda: make(store))
    assert store.result(UNIT) == RESULT
    assert store.content(UNIT, name).to_pybytes() == content


def test_a_file_that_is_gone_is_named(store, capsys):
    make(store)
    store.delete(UNIT, "weights")
    assert again(store).result(UNIT) is None
    assert said(capsys) == [f"  {store.path(UNIT, 'weights')}: missing; it is made again"]
    with pytest.raises(Damaged, match="weights: missing; the same command makes it again"):
        store.read(UNIT, "weights")


def test_a_unit_without_unit_json_is_none_and_its_files_are_not_read(store, capsys):
    make(store)
    store.delete(UNIT, "unit.json")
    assert again(store).result(UNIT) is None
    line = f"  {store.path(UNIT, 'unit.json')}: missing; it is made again"
    assert said(capsys) == ([line] if store.local else [])  # a server is not asked for folders
    with pytest.raises(Damaged, match="unit.json: missing; the same command"):
        store.read(UNIT, "weights")


def test_a_unit_that_another_sweep_is_making_is_not_called_damaged(local, capsys):
    local.delete(UNIT, "unit.json")
    other = Store(local.uri)
    with announced(other):
        assert claim(other, UNIT.folder)
        assert again(local).result(UNIT) is None
        assert said(capsys) == []
        release(other, UNIT.folder)


def test_every_damaged_file_of_a_unit_is_named(store, capsys):
    make(store)
    store.delete(UNIT, "weights")
    store.write(UNIT, "logits", b"")
    assert again(store).result(UNIT) is None
    assert [line.partition(": ")[0] for line in said(capsys)] == [
        f"  {store.path(UNIT, name)}" for name in ("weights", "logits")]
    with pytest.raises(Damaged, match="weights: missing; the same command makes it again"):
        store.made(UNIT)


def test_what_belongs_to_another_unit_is_not_used(store, capsys):
    other = Unit("models", {"seed": 2})
    make(make(store), other)
    store.write(UNIT, "logits", store.content(other, "logits").to_pybytes())
    assert again(store).result(UNIT) is None
    assert f"{store.path(UNIT, 'logits')}: its sha256 is " in said(capsys)[0]
    for name in (*FILES, "unit.json"):  # all of it: every checksum is right, and the address is not
        store.write(UNIT, name, store.content(other, name).to_pybytes())
    assert again(store).result(UNIT) is None
    fault = f"{store.path(UNIT, 'unit.json')}: belongs to another unit, {other.folder}"
    assert said(capsys) == [f"  {fault}; it is made again"]
    assert list(store.inputs("models")) == [{"seed": 2}]


def test_no_bit_of_unit_json_can_change(local):
    path = Path(local.path(UNIT, "unit.json"))
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1:])
        assert not local.is_sound(UNIT), content[place - 20:place + 20]
    path.write_bytes(content)
    assert local.is_sound(UNIT)


@pytest.mark.parametrize("content", [b"[]", b"null", b"7", b'{"kind": "models"}', b"[" * 10**5, b"\xff",
                                     b'{"seal": 1}', b'{"seal": {"sha256": 7}}'])
def test_any_other_unit_json_is_damaged(local, content, capsys):
    local.write(UNIT, "unit.json", content)
    assert local.result(UNIT) is None
    assert len(said(capsys)) == 1
    assert list(local.inputs("models")) == []


def test_a_file_is_checked_once_in_a_process_and_again_when_it_was_touched(local, monkeypatch):
    counted = []
    monkeypatch.setattr(seal, "checksum", lambda data: counted.append(len(data)) or hashlib.sha256(data).hexdigest())
    store, sizes = again(local), [len(content) + 20 for content in FILES.values()]
    for _ in range(3):
        assert store.result(UNIT) == RESULT
        store.read(UNIT, "weights")
        counted[:] = [size for size in counted if size in sizes]  # without unit.json, which is read each time
    assert counted == sizes
    path = Path(store.path(UNIT, "weights"))
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(0, 1))
    store.read(UNIT, "weights")
    assert [size for size in counted if size in sizes] == [*sizes, sizes[0]]
    os.utime(path, ns=(0, 1))
    with path.open("r+b") as file:  # in place: the inode stays
        file.write(b"X")
    with pytest.raises(Damaged):
        store.read(UNIT, "weights")


def test_what_a_worker_wrote_is_read_for_its_checksum(local):
    unit = Unit("sets", {})
    pickle.loads(pickle.dumps(local)).write(unit, "shard", b"abc")
    local.finish(unit, {}, ["shard"])
    written = json.loads(local.content(unit, "unit.json").to_pybytes())
    assert written["files"] == {"shard": hashlib.sha256(b"abc").hexdigest()}


def test_files_that_two_sweeps_wrote_at_once_do_not_make_a_sound_unit(local):
    """Each is whole, but the unit would be of both."""
    unit, second = Unit("models", {"seed": 3}), pickle.loads(pickle.dumps(local))
    local.write(unit, "logits", b"of the first")
    second.write(unit, "logits", b"of the second")
    local.finish(unit, {}, ["logits"])
    assert not local.is_sound(unit)


# Units of an earlier version


def without_seal(store: Store) -> None:
    content = json.loads(store.content(UNIT, "unit.json").to_pybytes())
    store.write(UNIT, "unit.json", json.dumps({key: content[key] for key in ("kind", "inputs", "result")}).encode())


def test_a_unit_of_an_earlier_version_is_used_and_said_so_once(store, capsys):
    make(store, Unit("models", {"seed": 2}))
    without_seal(make(store))
    store = again(store)
    assert store.result(UNIT) == RESULT
    assert store.read(UNIT, "weights").to_pybytes().startswith(FILES["weights"])
    (line,) = said(capsys)
    assert line.startswith(f"  {store.locate('models')}: units of an earlier version, which wrote no checksums")
    store.delete(UNIT, "weights")
    with pytest.raises(Damaged, match=f"weights: missing; remove {store.locate(UNIT.folder)}, and the same command"):
        store.read(UNIT, "weights")


# Against a writer

KEY, OTHER = "a key of the tests", "another key of the tests"


@pytest.fixture
def signed(local, monkeypatch) -> Store:
    monkeypatch.setenv("AMUN_STORE_KEY", KEY)
    return make(local)


def rewritten(store: Store, secret: bytes | None) -> None:
    """A forgery by someone who knows the format: another result, with a valid checksum."""
    content = json.loads(store.content(UNIT, "unit.json").to_pybytes())
    del content["seal"]
    store.write(UNIT, "unit.json", seal.close(content | {"result": {"seconds": 0.0}}, secret))


def test_the_signature_is_an_hmac_of_all_that_unit_json_says(signed):
    content = json.loads(signed.content(UNIT, "unit.json").to_pybytes())
    found = content.pop("seal")
    text = json.dumps(content, indent=1).encode()
    assert found == {"sha256": hashlib.sha256(text).hexdigest(),
                     "hmac": hmac.new(KEY.encode(), text, "sha256").hexdigest()}
    assert content["files"] == {name: hashlib.sha256(data + UNIT.digest.encode()).hexdigest()
                                for name, data in FILES.items()}


def test_a_signed_unit_takes_the_key_to_make(signed, capsys):
    assert signed.result(UNIT) == RESULT
    for secret, reason in ((None, "it is not signed, and AMUN_STORE_KEY is set"),
                           (OTHER.encode(), "not signed with this AMUN_STORE_KEY")):
        rewritten(signed, secret)
        assert signed.result(UNIT) is None
        assert said(capsys) == [f"  {signed.path(UNIT, 'unit.json')}: {reason}; it is made again"]
    make(signed)
    without_seal(signed)
    assert signed.result(UNIT) is None
    assert list(signed.inputs("models")) == []


def test_without_the_key_a_writer_is_believed_and_an_accident_is_not(signed, monkeypatch):
    monkeypatch.delenv("AMUN_STORE_KEY")
    assert signed.result(UNIT) == RESULT
    rewritten(signed, None)
    assert signed.result(UNIT) == {"seconds": 0.0}
    signed.write(UNIT, "logits", b"")
    assert signed.result(UNIT) is None


def test_an_empty_key_is_no_key(local, monkeypatch):
    monkeypatch.setenv("AMUN_STORE_KEY", "")
    assert local.result(UNIT) == RESULT


def test_a_file_that_a_worker_wrote_is_signed_by_the_worker(signed, monkeypatch):
    """Between a worker that writes and the driver that finishes a unit, a writer has time."""
    unit, worker = Unit("sets", {}), pickle.loads(pickle.dumps(signed))
    for name in ("0", "1", "2"):
        worker.write(unit, name, name.encode())
        worker.vouch(unit, name)
    signed.write(unit, "1", b"forged")
    signed.write(unit, "3", b"planted")
    driver = again(signed)
    faults = [driver.fault(unit, name) for name in "0123"]
    assert [bool(fault) for fault in faults] == [False, True, False, True]
    assert faults[3] == f"{driver.path(unit, '3')}: not signed, and AMUN_STORE_KEY is set"
    for names in ("01", "03"):
        with pytest.raises(Damaged):
            driver.finish(unit, {}, list(names))
    driver.finish(unit, {}, ["0", "2"])
    assert driver.is_sound(unit)
    assert KEY.encode() not in driver.content(unit, "0.seal").to_pybytes()
    monkeypatch.delenv("AMUN_STORE_KEY")
    worker.write(unit, "4", b"")
    worker.vouch(unit, "4")
    assert not driver.has(unit, "4.seal")
    assert driver.fault(Unit("sets", {"another": 1}), "0") is None


def test_the_key_is_in_no_copy_of_a_store_and_in_no_file(signed):
    assert KEY.encode() not in pickle.dumps(signed)
    assert KEY not in repr(signed) + repr(vars(signed))
    for path in Path(signed.uri).rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()
