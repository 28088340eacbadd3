"""A canary in every address that a person can give: it is in no stream and in no file."""

import pytest

from amun_ray import data
from amun_ray.base.errors import UserError
from amun_ray.forget import main as forget
from amun_ray.storage.store import Store
from amun_ray.sweep import main
from amun_ray.tracking import Archive, Tracker, load_model

CANARY = "xCANARYx"
ADDRESSES = [f"s3://AKIA:{CANARY}@bucket/x", f"https://bucket.example/x?X-Amz-Signature={CANARY}"]
KEYS = ["data.train", "data.test", "data.path", "data.root", "forget.indices", "forget.files", "forget.values",
        "model.weights", "originals.checkpoints", "tracking.uri", "storage", "requests.ledger", "requests.forgotten"]
LISTS = ("originals.checkpoints", "requests.forgotten")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", [main, forget], ids=["sweep", "forget"])
@pytest.mark.parametrize("address", ADDRESSES, ids=["user", "signature"])
@pytest.mark.parametrize("key", KEYS)
def test_a_config_with_credentials_is_refused_and_they_are_nowhere(key, address, command, tmp_path, capsys):
    value = f"[{address!r}]" if key in LISTS else repr(address)
    more = ["--set", f"{key}={value}"]
    assert command([*more, *(["--dry-run"] if command is main else ["--due"])]) == 2
    out, err = capsys.readouterr()
    assert CANARY not in out + err
    assert f"{key}" in err
    assert "must hold no credentials" in err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("value", [f"[{ADDRESSES[0]!r}]", f"{{a: {ADDRESSES[0]!r}}}"])
def test_nor_does_a_message_about_a_wrong_type_repeat_them(value, capsys):
    assert main(["--dry-run", "--set", f"storage={value}"]) == 2
    assert CANARY not in "".join(capsys.readouterr())


@pytest.mark.parametrize("uri", [f"http://user:{CANARY}@127.0.0.1:9", f"http://{CANARY}@127.0.0.1:9",
                                 f"http://127.0.0.1:9/?access_token={CANARY}"])
def test_every_door_of_the_library_refuses_or_hides_them(uri, tmp_path):
    doors = [lambda: Tracker(uri, "x", None, spool=tmp_path / "spool", say=print), lambda: Archive(uri),
             lambda: Store(uri), lambda: load_model("0" * 32, uri=uri),
             lambda: data.load("parquet", train=uri, test=uri)]
    for door in doors:
        with pytest.raises(UserError) as raised:
            door()
        assert CANARY not in str(raised.value) + repr(raised.value)
    assert not any(tmp_path.rglob("*"))
