"""Files of an output folder: whole or absent, never written through a stranger's link; folders for one user."""

import errno
import uuid
from types import SimpleNamespace

import pytest

from amun_ray.base import files
from amun_ray.base.errors import StorageError, UserError
from amun_ray.base.files import make_private, write_whole
from amun_ray.stages.output_folder import check_folder


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "results.json"
    path.write_bytes(b"old")
    assert write_whole(path, b"new") == path
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_not_written_through_even_if_somebody_could_guess_the_name(tmp_path, monkeypatch):
    victim = tmp_path / "authorized_keys"
    victim.write_bytes(b"key")
    monkeypatch.setattr(files, "uuid", SimpleNamespace(uuid4=lambda: uuid.UUID(int=1)))
    (tmp_path / f".results.json-{uuid.UUID(int=1).hex}.partial").symlink_to(victim)
    with pytest.raises(StorageError, match="exists"):
        write_whole(tmp_path / "results.json", b"new")
    assert victim.read_bytes() == b"key"


def test_a_full_disk_is_one_line_and_the_old_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(StorageError, match="results.json: cannot be written: .*No space left.* the same command goes"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_nor_is_the_probe_of_an_output_folder(tmp_path):
    victim = tmp_path / "authorized_keys"
    victim.write_bytes(b"key")
    output = tmp_path / "output"
    output.mkdir()
    (output / ".probe").symlink_to(victim)
    check_folder(output)
    assert victim.read_bytes() == b"key"
    assert (output / ".probe").is_symlink()


def test_a_new_folder_is_for_its_owner_alone_and_an_old_one_stays_as_it_is(tmp_path):
    old = tmp_path / "old"
    old.mkdir(mode=0o755)
    make_private(old / "new" / "output")
    make_private(old)
    assert [folder.stat().st_mode & 0o777 for folder in (old, old / "new", old / "new" / "output")] == [
        0o755, 0o700, 0o700]
    (old / "file").write_bytes(b"")
    with pytest.raises(UserError, match="not writable"):
        check_folder(old / "file" / "output")
