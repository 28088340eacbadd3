"""A small sweep with `resources.gpus: auto`, on a Ray that says it has a GPU.

    python tests/stages/beside.py OUTPUT

Its workers compute on CPUs, side by side as on a GPU. What these have to measure there, time and memory, is made up:
three trainings fit, and two trials. The last line that it prints says what was measured.
"""

import json
import sys
from pathlib import Path

from amun_ray.runtime.cluster import CONTEXT_BYTES, SPARE, start_here
from amun_ray.stages import packing, search
from amun_ray.sweep import main as sweep

SECONDS = {1: 1.0, 2: 1.25, 3: 1.75}
PEAK = 2**30
CONFIG = Path(__file__).resolve().parent.parent / "small_sweep.yaml"


def room(workers: int) -> tuple[int, int]:
    """The memory of a worker, and of a GPU that holds just so many."""
    return PEAK, int(workers * (CONTEXT_BYTES + SPARE * PEAK)) + 1


def main(output: Path) -> None:
    start_here(num_cpus=4, num_gpus=1, log_to_driver=False, logging_level="error")
    measure, first, seen = packing.side_by_side, search.measure_first, []

    def beside(workspace, options, number):
        pace = measure(workspace, options, number)
        seen.append((number, pace is not None and pace.seconds > 0 and pace.memory is None))
        return packing.Pace(SECONDS[number], room(3))

    def trial(*given):
        seen.append(("trial", first(*given) is None))
        return room(2)

    packing.side_by_side, search.measure_first = beside, trial
    sweep(["--config", str(CONFIG), "--set", "resources.gpus=auto", "--output", str(output)])
    print(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
