"""`ray job submit --working-dir` leaves the output folder at home; one that goes with a job is refused."""

import logging
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

from amun_ray.base.errors import UserError
from amun_ray.stages.output_folder import check_folder


def packed(folder: Path, package: Path) -> set[str]:
    """The files that a job with this working directory takes along."""
    create_package(str(folder), package, include_gitignore=True, logger=logging.getLogger("test"))
    return set(zipfile.ZipFile(package).namelist())


def test_a_job_takes_no_results_along(tmp_path):
    home = tmp_path / "home"
    (home / "amun_output" / "mine" / "store").mkdir(parents=True)  # made before, for decoded images
    (home / "mine.yaml").touch()
    check_folder(home / "amun_output" / "mine")
    (home / "amun_output" / "mine" / "store" / "weights").write_bytes(bytes(1000))
    (home / "amun_output" / "mine" / "mlflow.db").touch()
    assert {name for name in packed(home, tmp_path / "package.zip") if not name.endswith("/")} == {"mine.yaml"}


def test_a_folder_with_files_of_the_users_own_stays_as_it_is(tmp_path):
    (tmp_path / "networks.py").touch()
    check_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["networks.py"]


@pytest.mark.parametrize("place", ["session_2026-11-26_16-15-32_938019_7/amun_output/mine",
                                   "working_dir_files/_ray_pkg_1/amun_output/mine"])
def test_a_folder_that_ray_removes_with_the_job_is_refused(tmp_path, place):
    with pytest.raises(UserError, match="goes with its job; name one that stays"):
        check_folder(tmp_path / place)
    assert not any(tmp_path.iterdir())
