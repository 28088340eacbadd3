"""Workers sign with the driver's key, which they were not started with, and which no copy of a store has."""

import json

import ray
from ray import cloudpickle

from amun_ray.runtime.key import share_key
from amun_ray.storage.store import Store, Unit

KEY, UNIT = "a key of the tests", Unit("models", {"seed": 1})


@ray.remote(num_cpus=0.5)
def work(store: Store) -> bool:
    """Make a unit, and look at it as another process would."""
    import os
    store.write(UNIT, "weights", b"abc")
    store.finish(UNIT, {}, ["weights"])
    return store.is_sound(UNIT) and "AMUN_STORE_KEY" not in os.environ


def test_a_worker_signs_with_the_key_of_the_driver(local_ray, tmp_path, monkeypatch):
    monkeypatch.setenv("AMUN_STORE_KEY", KEY)
    store = share_key(Store(str(tmp_path)))
    assert ray.get(work.remote(ray.put(store)))
    assert store.is_sound(UNIT)
    assert Store(str(tmp_path)).is_sound(UNIT)
    monkeypatch.setenv("AMUN_STORE_KEY", "another")
    assert not Store(str(tmp_path)).is_sound(UNIT)
    written = (tmp_path / UNIT.folder / "unit.json").read_bytes()
    for copy in (cloudpickle.dumps(store), repr(store.key).encode(), written):
        assert KEY.encode() not in copy


def test_without_a_key_nothing_is_signed_and_nothing_started(local_ray, tmp_path, monkeypatch):
    monkeypatch.delenv("AMUN_STORE_KEY", raising=False)
    store = Store(str(tmp_path))
    assert share_key(store) is store
    assert ray.get(work.remote(store))
    assert list(json.loads((tmp_path / UNIT.folder / "unit.json").read_text())["seal"]) == ["sha256"]
