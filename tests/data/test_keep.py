"""Decoded pixels in a file: found again, shared, checked, and never half-written."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amun_ray.base.errors import UserError
from amun_ray.data import images, load
from amun_ray.data import keep as module
from amun_ray.data.keep import FACTS, PIXELS, Keep
from amun_ray.storage import seal


@pytest.fixture
def keep(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "KEPT_FROM", 0)
    return made(tmp_path)


def made(folder, secret=None):
    return Keep(folder / "kept", folder / "scratch", close=lambda facts: seal.close(facts, secret),
                open_=lambda data: seal.open_(data, secret), trusting=secret is None)


@pytest.fixture
def settings(tmp_path):
    """A folder of 12 random pictures in two classes, one of them no picture; four grey ones come first."""
    draw = np.random.default_rng(0)
    for number in range(12):
        path = tmp_path / "train" / "ab"[number // 6] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (5, 6, 3), np.uint8)
        Image.fromarray(pixels[..., 0] if number < 4 else pixels).save(path)
    (tmp_path / "train" / "a" / "1.png").write_bytes(b"no picture")
    return {"train": str(tmp_path / "train"), "test_share": 0.25, "on_error": "skip"}


def counted(monkeypatch):
    """The number of images decoded since then."""
    done = []
    real = images.picture
    monkeypatch.setattr(images, "picture", lambda *args: done.append(1) or real(*args))
    return done


def test_what_is_mapped_is_what_was_decoded_into_memory(settings, keep, monkeypatch):
    plain = load("folder", **settings)
    first = load("folder", keep=keep, **settings)
    done = counted(monkeypatch)
    again = load("folder", keep=keep, **settings)
    assert not done
    for dataset in (first, again):
        assert isinstance(dataset.pixels, np.memmap)
        assert not dataset.pixels.flags.writeable
        assert dataset.map_path == str(next(keep.folder.iterdir()) / PIXELS)
        np.testing.assert_array_equal(dataset.pixels, plain.pixels)
        for name in ("labels", "first_alike", "file_rows"):
            np.testing.assert_array_equal(getattr(dataset, name), getattr(plain, name))
        for name in ("digest", "statistics", "notes", "paths", "train_size", "class_names"):
            assert getattr(dataset, name) == getattr(plain, name)
    assert not list(keep.scratch.iterdir())
    assert plain.map_path is None


def test_few_pixels_stay_in_memory_and_leave_nothing(settings, tmp_path):
    dataset = load("folder", keep=made(tmp_path), **settings)
    assert dataset.map_path is None
    assert not (tmp_path / "kept").exists()
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("change", ["content", "order", "reading", "rows", "decoder"])
def test_another_set_is_another_entry(settings, keep, monkeypatch, change):
    load("folder", keep=keep, **settings)
    folder = Path(settings["train"])
    if change == "content":
        Image.new("RGB", (6, 5)).save(folder / "b" / "7.png")
    elif change == "order":
        first, last = (folder / "b" / name for name in ("6.png", "11.png"))
        first_bytes = first.read_bytes()
        first.write_bytes(last.read_bytes())
        last.write_bytes(first_bytes)
    elif change == "decoder":
        monkeypatch.setattr(module.PIL, "__version__", "0")
    else:
        settings |= {"reading": {"resize": 5, "center_crop": 3}, "rows": {"seed": 1}}[change]
    done = counted(monkeypatch)
    dataset = load("folder", keep=keep, **settings)
    assert done
    assert dataset.digest == load("folder", **settings).digest
    assert len(list(keep.folder.iterdir())) == 2


def test_the_names_and_places_of_the_files_do_not_count(settings, keep, monkeypatch, tmp_path):
    load("folder", keep=keep, **settings)
    Path(settings["train"]).rename(tmp_path / "elsewhere")
    done = counted(monkeypatch)
    assert load("folder", keep=keep, **settings | {"train": str(tmp_path / "elsewhere")}).map_path
    assert not done


@pytest.mark.parametrize("damage", ["touched", "changed", "cut", "facts", "alike"])
def test_a_damaged_entry_is_made_again(settings, keep, monkeypatch, damage, caplog):
    whole = load("folder", keep=keep, **settings)
    wanted, digest = whole.pixels.copy(), whole.digest
    entry = Path(whole.map_path).parent
    del whole
    content = bytearray((entry / PIXELS).read_bytes())
    if damage == "changed":
        content[7] ^= 1
    if damage in ("touched", "changed"):
        (entry / PIXELS).write_bytes(content)
    elif damage == "cut":
        (entry / PIXELS).write_bytes(content[:-1])
    elif damage == "facts":
        (entry / FACTS).write_bytes((entry / FACTS).read_bytes().replace(b'"left_out"', b'"left_in"'))
    else:
        (entry / module.ALIKE).write_bytes(b"nothing")
    done = counted(monkeypatch)
    again = load("folder", keep=keep, **settings)
    assert bool(done) == (damage != "touched")  # what only looks new is read, and found to be what was written
    np.testing.assert_array_equal(again.pixels, wanted)
    assert again.digest == digest


def test_with_a_key_an_entry_is_read_whole_and_must_be_signed(settings, keep, tmp_path, monkeypatch):
    """A writer without the key changes nothing unnoticed, even one who restores the file's times."""
    import os
    signed = made(tmp_path, b"key")
    first = load("folder", keep=signed, **settings)
    path, digest = Path(first.map_path), first.digest
    before = path.stat().st_mtime_ns
    content = bytearray(path.read_bytes())
    content[0] ^= 255
    path.write_bytes(content)
    os.utime(path, ns=(before, before))
    done = counted(monkeypatch)
    assert load("folder", keep=signed, **settings).digest == digest
    assert done
    done.clear()
    facts = json.loads((path.parent / FACTS).read_bytes())
    facts.pop("seal")
    (path.parent / FACTS).write_bytes(seal.close(facts, None))
    assert load("folder", keep=signed, **settings).digest == digest
    assert done


def test_a_decoding_that_is_broken_off_leaves_nothing(settings, keep):
    with pytest.raises(UserError, match="1.png: the image cannot be decoded"):
        load("folder", keep=keep, **settings | {"on_error": "stop"})
    assert not list(keep.folder.iterdir())
    assert not list(keep.scratch.iterdir())


def test_more_than_the_disk_holds_is_refused(settings, keep, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: module.shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match=r"scratch: 12 images of 6 x 5 pixels need 0.0 GiB, and this disk has 0.0 left"):
        load("folder", keep=keep, **settings)


def test_a_config_cannot_name_the_place(settings):
    with pytest.raises(UserError, match="dataset 'folder' has no setting 'keep'"):
        module_check("folder", **settings, keep="here")


def module_check(name, **settings):
    from amun_ray.data import check
    return check(name, **settings)


def test_tables_are_kept_too(pair, keep, monkeypatch):
    first = load("parquet", keep=keep, **pair)
    done = counted(monkeypatch)
    again = load("parquet", keep=keep, **pair)
    assert not done
    assert first.digest == again.digest == load("parquet", **pair).digest
    assert again.map_path


def test_a_keep_in_passing_takes_what_is_there_and_leaves_nothing_behind(settings, keep, monkeypatch):
    plain = load("folder", **settings)
    passing = load("folder", keep=keep.passing(), **settings)
    assert not [*keep.folder.iterdir(), *keep.scratch.iterdir()]
    np.testing.assert_array_equal(passing.pixels, plain.pixels)
    load("folder", keep=keep, **settings)
    done = counted(monkeypatch)
    taken = load("folder", keep=keep.passing(), **settings)
    assert not done
    assert taken.map_path == str(next(keep.folder.iterdir()) / PIXELS)
