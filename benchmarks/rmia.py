"""RMIA over 60,000 samples and 128 reference models: time and memory, beside the direct ways of computing it.

    python benchmarks/rmia.py [--json FILE]

About 10 seconds on one core. What is compared:
- ours: logits of 128 references (float16, memory-mapped) and of one target -> scores of all samples -> FT AUC;
- the direct double loop over samples x and population z, in Python, timed on some x and extrapolated to all;
- the same with NumPy doing the inner loop, also extrapolated;
- the full matrix of ratios, as privacy-meter builds it: its memory measured on 3,000 samples, extrapolated (it grows
  with the square) to 60,000.
Scores of the double loop must equal ours, or the script fails.
"""

import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from claims import Row, at_least, at_most, command, end, row, show

from amun_ray.metrics import RmiaSettings, Split, reference_mean
from amun_ray.metrics.rmia import forget_test_auc, ratios, scores

SAMPLES, MODELS, CLASSES = 60_000, 128, 10
ROWS = Split(np.arange(45_000), np.arange(45_000, 50_000), np.arange(50_000, 60_000))
LOOPED = 40  # samples x that the double loop is timed on, each against all 60,000 z
MATRIX = 3_000  # samples on which the full matrix is built
MIB = 2**20


def make_bank(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Simulated logits: a bank (models, N, classes) on disk, a target (N, classes), labels, membership (models, N)."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, SAMPLES)
    half = np.stack([rng.permutation(SAMPLES) < SAMPLES // 2 for _ in range(MODELS // 2)])
    members = np.concatenate([half, ~half])
    difficulty = rng.normal(3, 2, SAMPLES)

    def logits(member: np.ndarray) -> np.ndarray:
        values = rng.standard_normal((SAMPLES, CLASSES), dtype=np.float32)
        values[np.arange(SAMPLES), labels] += difficulty + 2 * member
        return values

    bank = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(MODELS, SAMPLES, CLASSES))
    for place, member in zip(bank, members, strict=True):
        place[:] = logits(member)
    bank.flush()
    return np.load(path, mmap_mode="r"), logits(np.arange(SAMPLES) < len(ROWS.retain)), labels, members


def seconds(function: Callable[[], Any], repeats: int = 1) -> float:
    """The least wall-clock time of `repeats` calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_mib(function: Callable[[], Any]) -> float:
    """The most memory that `function` held at once beyond what was there, in MiB; mapped file pages are not counted."""
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1] / MIB
    tracemalloc.stop()
    return peak


def double_loop(ratio: list[float], gamma: float, count: int) -> list[float]:
    """The definition for the first `count` samples."""
    return [sum(ratio[x] / z > gamma for z in ratio) / len(ratio) for x in range(count)]


def row_loop(ratio: np.ndarray, gamma: float, count: int) -> list[float]:
    """The definition with the inner loop in NumPy, for the first `count` samples."""
    return [np.count_nonzero(ratio[x] / ratio > gamma) / len(ratio) for x in range(count)]


def full_matrix(ratio: np.ndarray, gamma: float) -> np.ndarray:
    """The definition with all pairs in memory."""
    return (ratio[:, None] / ratio[None, :] > gamma).mean(axis=1)


def measure(folder: Path) -> list[Row]:
    """All rows of the benchmark."""
    bank, target, labels, members = make_bank(folder / "bank.npy")
    settings = RmiaSettings()

    def ours() -> float:
        mean = reference_mean(bank, labels, members=members, settings=settings)
        return forget_test_auc(scores(settings.confidence(target, labels), mean, gamma=settings.gamma), ROWS)

    whole, memory = seconds(ours, 3), peak_mib(ours)
    mean = reference_mean(bank, labels, settings=settings)
    confidence = settings.confidence(target, labels)
    scoring = seconds(lambda: scores(confidence, mean), 5)
    ratio = ratios(confidence, mean)
    listed, found = ratio.tolist(), scores(confidence, mean)
    if double_loop(listed, settings.gamma, LOOPED) != found[:LOOPED].tolist():
        raise AssertionError("the scores differ from the double loop's")
    loop = seconds(lambda: double_loop(listed, settings.gamma, LOOPED)) * SAMPLES / LOOPED
    rows = seconds(lambda: row_loop(ratio, settings.gamma, 10 * LOOPED)) * SAMPLES / (10 * LOOPED)
    matrix = peak_mib(lambda: full_matrix(ratio[:MATRIX], settings.gamma)) * (SAMPLES / MATRIX) ** 2
    return [
        row("rmia_60000x128_seconds", whole, "s", at_most(2)),
        row("rmia_score_one_model_seconds", scoring, "s", at_most(0.1)),
        row("speedup_vs_double_loop", loop / scoring, "x (loop extrapolated)", at_least(1000)),
        row("speedup_vs_numpy_row_loop", rows / scoring, "x (loop extrapolated)", at_least(10)),
        row("peak_memory_mib", memory, "MiB", at_most(64)),
        row("full_ratio_matrix_memory_mib", matrix, "MiB (extrapolated)", at_least(memory)),
    ]


def main() -> None:
    """Measure, print, and write the rows where asked."""
    options = command(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        show(measure(Path(folder)), options.json)


if __name__ == "__main__":
    end(main)
