"""A unit is whole or absent, and its address depends on its inputs alone."""

import json

import pytest

from amun_ray.errors import UserError
from amun_ray.store import Store, Unit, digest


@pytest.fixture(params=["path", "uri"])
def store(request, tmp_path):
    return Store(str(tmp_path / "store") if request.param == "path" else (tmp_path / "store").as_uri())


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
    store.finish(unit, {"seconds": 2.5})
    assert store.result(unit) == {"seconds": 2.5}
    assert store.read(unit, "weights").to_pybytes() == b"abc"
    assert json.loads(store.read(unit, "unit.json").to_pybytes())["inputs"] == {"seed": 1}


def test_a_write_that_fails_leaves_nothing_behind(store, tmp_path):
    unit = Unit("models", {"seed": 1})
    store.write(unit, "kept", b"old")
    (tmp_path / "store" / unit.folder / "weights").mkdir()  # the rename onto a folder fails
    with pytest.raises(OSError, match="weights"):
        store.write(unit, "weights", b"new")
    assert sorted(path.name for path in (tmp_path / "store" / unit.folder).iterdir()) == ["kept", "weights"]


def test_a_damaged_unit_is_named(store, tmp_path):
    unit = Unit("models", {"seed": 1})
    path = store.write(unit, "unit.json", b"{half")
    with pytest.raises(UserError, match=path):
        store.result(unit)


def test_scratch_is_gone_afterwards(store, tmp_path):
    with store.scratch() as folder:
        assert folder
        assert len(list((tmp_path / "store" / "scratch").iterdir())) == 1
    assert list((tmp_path / "store" / "scratch").iterdir()) == []


@pytest.mark.parametrize("uri", ["/proc/nothing", "nonsense://x/y"])
def test_a_store_that_cannot_be_written_is_said_so(uri):
    with pytest.raises(UserError, match=uri):
        Store(uri).check_writable()
