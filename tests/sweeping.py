"""The command run as a user runs it, in a process of its own, with nothing of its Ray left behind."""

import atexit
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

from sqlalchemy.engine import make_url

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = REPOSITORY / "tests" / "small_sweep.yaml"
MINE = """
name: mine
data: {name: digits, train_size: 300}
model: {name: small_cnn, options: {width: 8}}
training: {epochs: 2, lr: 0.1}
forget: {fraction: 0.1}
methods: {finetune: , amun: }
"""  # a config of a user's own
NAMES_QUOTED = make_url("sqlite:///%3F").database == "?"  # from SQLAlchemy 2.1 on
ODD = "a b%20c?d#e~" if NAMES_QUOTED else "a b%20c#d~"  # a folder with all that means something else in a URI
PATIENCE = 600  # seconds after which a run that does not end is a failure
STAGE = re.compile(r"\[(\d)/5 ")


class Sweep:
    """`python amun_ray/sweep.py ...`: its output as it comes, and an end that takes its Ray with it."""

    script = "sweep.py"

    def __init__(self, *arguments: str | Path, cwd: Path = REPOSITORY, **environment: str) -> None:
        self.lines: list[str] = []
        self.stages: dict[int, float] = {}  # number -> time at which it began
        self.ended: float | None = None
        self._mark = f"AMUN_TEST_RUN={uuid.uuid4().hex}"  # inherited by every process of this run, and by no other
        name, _, value = self._mark.partition("=")
        self._process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "amun_ray" / self.script), *map(str, arguments)], cwd=cwd, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job has it ignored
            env=os.environ | {"RAY_ADDRESS": "local", name: value} | environment)
        atexit.register(self._clean)  # a test run that is broken off leaves no sweep behind
        self._queue: Queue[str | None] = Queue()
        Thread(target=self._listen, daemon=True).start()

    def finish(self, code: int = 0) -> "Sweep":
        """Wait for the end; fails unless it is that of the exit code."""
        while self._next_line(PATIENCE) is not None:
            pass
        found = self._process.wait(PATIENCE)
        self.ended = time.monotonic()
        self._clean()
        assert found == code, self.text
        return self

    def reach(self, stage: int) -> "Sweep":
        """Wait until `stage` has begun, or the end has come before."""
        while stage not in self.stages:
            if self._next_line(PATIENCE) is None:
                break
        return self

    def until(self, text: str) -> str:
        """Wait for a line that has `text` in it."""
        while (line := self._next_line(PATIENCE)) is not None:
            if text in line:
                return line
        raise AssertionError(f"never said {text!r}:\n{self.text}")

    def when(self, condition: Callable[[], bool]) -> "Sweep":
        """Wait for `condition`; fails where the end comes before."""
        while not condition():
            assert self._process.poll() is None, "\n".join(iter(self._queue.get, None))
            time.sleep(0.02)
        return self

    def worker(self, title: str) -> int:
        """The process of a worker of this run that is at `title`; waits for one."""
        found: list[int] = []

        def seen() -> bool:
            for process in map(int, filter(str.isdigit, os.listdir("/proc"))):
                with suppress(OSError):
                    if Path(f"/proc/{process}/cmdline").read_bytes().startswith(title.encode()):
                        found.extend([process] * self._is_mine(process))
            return bool(found)
        self.when(seen)
        return found[0]

    def interrupt(self) -> None:
        """Ctrl-C: SIGINT to the whole process group, as a terminal sends it."""
        os.killpg(self._process.pid, signal.SIGINT)

    def kill_in(self, stage: int, after: float) -> None:
        """SIGKILL the driver `after` seconds into `stage`, if it is still there."""
        self.reach(stage)
        time.sleep(after)
        self._process.kill()
        self._process.wait(PATIENCE)
        self._clean()

    def duration(self, stage: int) -> float:
        """Seconds that a stage took."""
        return self.stages.get(stage + 1, self.ended) - self.stages[stage]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def _listen(self) -> None:
        for line in self._process.stdout:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def _next_line(self, timeout: float) -> str | None:
        try:
            line = self._queue.get(timeout=timeout)
        except Empty:
            self._process.kill()
            raise AssertionError(f"nothing was said for {timeout} s:\n{self.text}") from None
        if line is not None:
            self.lines.append(line)
            if (begun := STAGE.match(line)) is not None:
                self.stages[int(begun[1])] = time.monotonic()
        return line

    def _clean(self) -> None:
        """End what is left of this run and no other's: Ray's processes outlive a driver that is killed, for a while."""
        for _ in range(100):
            left = [process for process in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is_mine(process)]
            if not left:
                return
            for process in left:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.1)
        raise AssertionError(f"processes {left} do not end")

    def _is_mine(self, process: int) -> bool:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
            return state != "Z" and self._mark.encode() in Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        except OSError:
            return False


def results(output: Path) -> list[dict]:
    return json.loads((output / "results.json").read_text())


def numbers(output: Path) -> list[dict]:
    """results.json without the run ids, which differ from database to database."""
    return [{key: value for key, value in row.items() if key != "mlflow_run_ids"} for row in results(output)]


def made(sweep: Sweep, label: str) -> int:
    """How many units of a stage this sweep made itself, by its own words."""
    return sum(int(count) - int(stored or 0) for count, stored in re.findall(
        rf"^  {label}[^:]*: (\d+) \w+ in [\d.]+ s(?:, (\d+) of them from the store)?$", sweep.text, re.MULTILINE))


def finished(output: Path) -> dict[str, int]:
    """As `finished_in`, of the store that a sweep has in its own folder."""
    return finished_in(output / "store")


def finished_in(store: Path) -> dict[str, int]:
    """Every file of a finished unit of work, and every finished shard, with the time at which it was written."""
    units = [path.parent for path in store.rglob("unit.json")]
    files = [path for unit in units for path in unit.iterdir()] + [*store.rglob("shard-*.parquet")]
    return {str(path.relative_to(store)): path.stat().st_mtime_ns for path in files}


def uri(output: Path) -> str:
    """The MLflow database that a sweep has in its own folder."""
    from amun_ray.tracking import database_uri
    return database_uri(output / "mlflow.db")


def logged(output: Path) -> dict[str, list]:
    """Every run of that database by its stage."""
    return runs_of(uri(output))


def runs_of(tracking: str) -> dict[str, list]:
    """Every run of a sweep `small` at a tracking URI, by its stage."""
    from mlflow import MlflowClient
    client = MlflowClient(tracking_uri=tracking)
    (experiment,) = [one for one in client.search_experiments() if one.name == "small"]
    groups: dict[str, list] = {}
    for one in client.search_runs([experiment.experiment_id], max_results=1000):
        groups.setdefault(one.data.tags["stage"], []).append(one)
    return groups
