"""The folder that a sweep leaves its results in."""

import re
from pathlib import Path
from tempfile import TemporaryFile

from amun_ray.base.errors import UserError
from amun_ray.base.files import make_private

OF_RAY = re.compile(r"working_dir_files$|session_\d{4}-\d\d-\d\d_")  # folders that Ray makes for jobs and for itself
FIRST = {"store", "requests", "ledger.db", "ledger.anchor"}  # may be in an output folder before its first sweep


def check_folder(output: Path) -> None:
    """Make the output folder, which `ray job submit --working-dir` then leaves at home."""
    if any(OF_RAY.match(part) for part in output.absolute().parts):
        raise UserError(f"--output {output}: is in a folder of Ray's, which goes with its job; name one that stays")
    try:
        make_private(output)
        if {path.name for path in output.iterdir()} <= FIRST:
            (output / ".rayignore").write_text("*\n")
        with TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise UserError(f"--output {output}: not writable: {error}") from error
