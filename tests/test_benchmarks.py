"""The benchmarks: their shared rows and table by hand, and that a mistake in what they are given is one line."""

import importlib
import json
import re
import runpy
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from amun_ray.base.errors import UserError
from amun_ray.base.seeds import generator
from amun_ray.models import build
from amun_ray.training.augment import Augmentation
from amun_ray.training.parts import place
from amun_ray.training.recipe import Recipe

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
PARTS = ("claims", "adversary_model", "adversary_rivals")  # of the scripts
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in PARTS)


@pytest.fixture
def module(monkeypatch):
    """Import one of the folder by its name, as `python benchmarks/NAME.py` does; nothing of that is left behind."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    for name in ("PYTHONPATH", "RAY_worker_niceness"):
        monkeypatch.setenv(name, "")
    before = set(sys.modules)
    yield importlib.import_module
    for name in {path.stem for path in FOLDER.glob("*.py")} & set(sys.modules) - before:
        del sys.modules[name]


def test_a_row_is_the_median_its_quartiles_and_what_became_of_its_goal(module):
    claims = module("claims")
    assert claims.row("speed", [4, 1, 2, 3, 100], "x", claims.at_least(3)) == {
        "name": "speed", "value": 3.0, "quartiles": [2.0, 4.0], "unit": "x", "goal": ">= 3", "met": True}
    assert claims.row("memory", 12.34567, "MiB") == {
        "name": "memory", "value": 12.3457, "unit": "MiB", "goal": "none, for comparison", "met": True}


def test_the_study_of_requests_finds_its_parts_from_any_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.delitem(sys.modules, "claims", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["continuous.py", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(FOLDER.parent / "examples" / "continuous.py"), run_name="__main__")
    assert end.value.code == 0
    assert "--share SHARE" in capsys.readouterr().out
    del sys.modules["claims"]


def test_the_simulated_sweeps_are_those_of_the_results_and_of_the_readme(module):
    rows = module("scaling").sweeps()
    assert [row for row in json.loads((FOLDER / "results" / "scaling.json").read_text())
            if row["name"].startswith(("idle", "sweep"))] == rows
    readme = (FOLDER / "README.md").read_text()
    for gpus, (before, after, earlier, now) in ((64, rows[:4]), (512, rows[4:])):
        goal = f"{after['goal'].removeprefix('<= ')} %, {'met' if after['met'] else 'missed'}"
        assert (f"| {gpus} | {before['value']:.0f} % | {after['value']:.0f} % | {goal} | {earlier['value']:.3g} min | "
                f"{now['value']:.3g} min |") in readme


@pytest.mark.parametrize(("goal", "arguments", "inside", "outside", "text"), [
    ("at_least", (0.9,), (0.9, 1), (0.89,), ">= 0.9"),
    ("at_most", (240,), (240, -1), (240.01,), "<= 240"),
    ("near", (1, 0.25), (0.75, 1.25), (0.74, 1.26), "within 0.25 of 1"),
])
def test_goals(module, goal, arguments, inside, outside, text):
    made = getattr(module("claims"), goal)(*arguments)
    assert made.text == text
    assert [made.met(value) for value in (*inside, *outside)] == [True] * len(inside) + [False] * len(outside)


def test_the_table_has_a_line_per_row_and_the_file_the_same_rows(module, tmp_path, capsys):
    claims = module("claims")
    rows = [claims.row("speed", [1, 2, 3], "x", claims.at_least(3)), claims.row("much_memory", 1234.5, "MiB")]
    claims.show(rows, tmp_path / "rows.json")
    assert capsys.readouterr().out.splitlines() == [
        "speed            2.000  (1.500 .. 2.500)  x    goal >= 3:                  MISSED",
        "much_memory  1,234.500                    MiB  goal none, for comparison:  met"]
    assert json.loads((tmp_path / "rows.json").read_text()) == rows


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from Linux")
def test_memory_that_processes_share_counts_once(module):
    """64 MiB of it, which a child reads too, and 48 MiB of its own; an interpreter takes some 10."""
    search = module("search")
    before, shared = search.tree_mib(), SharedMemory(create=True, size=64 * 2**20)
    shared.buf[:] = bytes(len(shared.buf))
    both = (f"import mmap, os; there = open('/dev/shm/{shared.name.strip('/')}', 'r+b'); "
            "seen = mmap.mmap(there.fileno(), 0); sum(memoryview(seen)[::4096])")
    child = subprocess.Popen([sys.executable, "-c", f"{both}\nown = bytearray(os.urandom(1) * 48 * 2**20)\n"
                              "print('ready', flush=True); input()"], text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == "ready\n"
    try:
        assert search.tree_mib() - before == pytest.approx(64 + 48 + 10, abs=12)
    finally:
        child.communicate("\n")
        shared.close()
        shared.unlink()


@pytest.mark.parametrize("name", SCRIPTS)
def test_where_the_rows_cannot_be_written_is_said_before_anything_is_measured(module, name, tmp_path, monkeypatch,
                                                                              capsys):
    script, nowhere = module(name), tmp_path / "nowhere" / "rows.json"
    monkeypatch.setattr(sys, "argv", [name, "--json", str(nowhere)])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 2
    assert f"--json: {nowhere}: must be a file in a folder that is there" in capsys.readouterr().err


def test_data_that_is_missing_ends_in_one_line(module, tmp_path, monkeypatch, capsys):
    script, claims = module("adversaries"), module("claims")
    monkeypatch.setattr(sys, "argv", ["adversaries", "--data", str(tmp_path), "--model", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as ended:
        claims.end(script.main)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(rf"error: .*{tmp_path}/cifar10-train\.parquet.*\n", err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", ["0", "-1", "2.5", "many"])
def test_a_count_is_a_whole_number(module, given, monkeypatch, capsys):
    script = module("scaling")
    monkeypatch.setattr(sys, "argv", ["scaling", "--rounds", given])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == 2
    assert f"must be a whole number of 1 or more, but got '{given}'" in capsys.readouterr().err


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_ends_as_all_of_them_do(name):
    """Rows, their table and their file are made in `claims` alone."""
    text = (FOLDER / f"{name}.py").read_text()
    assert text.endswith('\n\nif __name__ == "__main__":\n    end(main)\n')
    assert not re.search(r"^def (row|table|show)\(|json\.dumps|ArgumentParser\(", text, re.MULTILINE)


def test_a_replayed_search_ends_what_is_hopeless_and_what_is_past_its_best(module):
    """The original is at 10, so that the first round must be able to reach 7, and the second the best of the first."""
    script = module("early_stop")
    curves = [[8.5, 7.5, 6.0, 5.0], [9.9, 9.9, 0.0, 0.0],    # the second: 0.1 better in an epoch
              [4.0, 7.0, 7.0, 3.0], [9.9, 1.0, 1.0, 1.0]]    # past its best, and hopeless in the first epoch
    search = script.Search(curves, 10.0)
    assert script.replay(search, 2) == (4 + 1 + 3 + 1, (4.0, 2, 0))
    assert script.replay(script.Search(curves[:2], 10.0), 2) == (4 + 1, (5.0, 0, 3))
    values = {row["name"]: row["value"] for row in script.compare([search, script.Search(curves[:1], 10.0)], 2)}
    assert values == {"early_stop_cost_share": 0.65, "early_stop_same_best_percent": 50, "early_stop_lost": 4,
                      "early_stop_searches": 2, "early_stop_trials": 5}


def test_a_replayed_search_whose_first_round_is_hopeless_runs_what_may_be_best_again(module):
    """After two epochs all are; then the second runs to the end, by which the third is hopeless, but not the first."""
    script = module("early_stop")
    curves = [[9.75, 9.35, 9.0, 8.6, 8.0, 7.9], [9.6, 9.3, 8.95, 8.6, 8.25, 8.0], [9.9, 9.9, 0.0, 0.0, 0.0, 0.0]]
    assert script.replay(script.Search(curves, 10.0), 3) == (3 * 2 + 6 + 6, (7.9, 0, 5))
    late = [[9.9, 9.9, 9.0], [9.9, 9.9, 9.5], [9.0, 9.0, 9.1]]  # where the first was hopeless no other is judged
    assert script.replay(script.Search(late, 10.0), 2) == (2 * 1 + 3 + 3 + 3, (9.0, 0, 2))


def test_no_training_of_a_pack_counts_before_all_are_warm(module, monkeypatch):
    """Of two first epochs one takes 0.3 s longer; the clock of the quicker training starts after both."""
    script, delays, warm = module("packing"), [0.0, 0.3], []

    def epochs(*_, recipe, **__):
        time.sleep(delays.pop())
        warm.append(time.time())
        yield from range(recipe.epochs)

    monkeypatch.setattr(script, "fit", epochs)
    monkeypatch.setattr(script, "WARM", {2: threading.Barrier(2)})
    with ThreadPoolExecutor(2) as pool:
        spans = list(pool.map(script.train_one, ["small_cnn"] * 2, [2] * 2, [4] * 2, ["cpu"] * 2))
    assert len(warm) == 2
    assert all(max(warm) <= start <= end for start, end in spans)


@pytest.mark.parametrize("name", ["small_cnn", "resnet20", "airbench"])
@pytest.mark.parametrize("way", ["grouped", "mapped"])
def test_models_trained_together_equal_those_trained_alone(module, way, name):
    """Weights and batch norm statistics, to the noise of float32 logits in float64: 1e-5 of what training changed."""
    script, number, options = module("together"), 3, {"resnet20": {"width": 4, "blocks": 1}}.get(name, {"width": 4})
    recipe = Recipe(lr=0.02, epochs=2, batch_size=16, schedule="one_cycle")
    rng = np.random.default_rng(0)
    parts = [place(rng.integers(0, 256, (40, 3, 12, 12), np.uint8), rng.integers(0, 3, 40), augment=True)
             for _ in range(number)]

    def models():
        return [build(name, channels=3, classes=3, size=12, mean=[0.4, 0.5, 0.6], std=[0.2] * 3, seed=seed,
                      options=options).double() for seed in range(number)]

    trained = {}
    for each in ("alone", way):
        trained[each] = models()
        assert list(script.WAYS[each](trained[each], parts, recipe=recipe, augmentation=Augmentation(2, True),
                                      generators=[generator(seed, "order") for seed in range(number)])) == [1, 2]
    for before, alone, together in zip(models(), trained["alone"], trained[way], strict=True):
        state, found = alone.state_dict(), together.state_dict()
        for key, value in before.state_dict().items():
            change = (state[key] - value).double().norm()
            assert (change > 0) == (not key.startswith("normalize"))
            assert (found[key] - state[key]).double().norm() <= 1e-5 * change, key


def test_a_layer_that_mixes_what_it_should_not_is_refused(module):
    with pytest.raises(UserError, match="^a layer GroupNorm cannot be grouped$"):
        module("together").Grouped([nn.GroupNorm(2, 4), nn.GroupNorm(2, 4)])
