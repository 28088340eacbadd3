"""The command as a newcomer meets it: help, plan, and one clear line with exit code 2 for everything given wrong."""

import io
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from PIL import Image
from sweeping import MINE

from amun_ray import models
from amun_ray.base.errors import UserError
from amun_ray.config.sections import Resources
from amun_ray.data.dataset import Dataset
from amun_ray.models import checkpoint
from amun_ray.runtime import cluster as resources
from amun_ray.sweep import main
from amun_ray.tracking import Tracker, contact
from amun_ray.work import calibrate

REPOSITORY = Path(__file__).resolve().parent.parent
OWN_DATA = ("cifar10_airbench", "cifar10_cpu", "cifar10_cpu_short", "cifar10_small", "cifar10_small_methods", "persons",
            "photos", "photos_vit", "protocol_small", "tiny_imagenet", "tiny_imagenet_small")  # not everywhere
SHIPPED = sorted(path.stem for path in (REPOSITORY / "tune_configs").glob("*.yaml") if path.stem not in OWN_DATA)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with `mine.yaml`, where the command is given; no test of this file may come to start Ray."""
    (tmp_path / "mine.yaml").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray, "init", lambda *_, **__: pytest.fail("the mistake was not found before Ray was started"))
    return tmp_path


@pytest.fixture
def refused(here, capsys):
    """Give the command; returns the lines of its error after checking what all errors have in common."""
    def give(*arguments: str, lines: int = 1) -> list[str]:
        before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
        assert main(["--config", "mine.yaml", *arguments]) == 2
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert "[1/5" not in out  # no stage has begun
        assert err.startswith("error: ")
        found = err.removeprefix("error: ").splitlines()
        assert len(found) == lines, err
        assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before
        assert not (here / "amun_output").exists()
        return found
    return give


def sets(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


def test_help_tells_a_newcomer_what_there_is(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for word in ("python amun_ray/sweep.py", "--config NAME|PATH", "--set KEY.PATH=VALUE", "--output DIR", "--dry-run",
                 "tune_configs/", "results.json", "Exit codes", "default: default"):
        assert word in text


@pytest.mark.parametrize("flag", ["--dry-run", "--calibrate"])
def test_a_dry_run_has_nothing_to_compare(flag, capsys):
    with pytest.raises(SystemExit) as ended:
        main([flag, "--compare", "paper_table1"])
    assert ended.value.code == 2
    assert "--compare shows results" in capsys.readouterr().err


def test_a_table_that_is_not_there_to_compare_with(refused):
    assert refused("--compare", "paper_tabel1") == [
        "--compare: unknown table 'paper_tabel1'; did you mean 'paper_table1'? Known: paper_table1, paper_table2, "
        "paper_table3, paper_table4, paper_table5, paper_table_trades"]


def test_a_calibration_is_kept_for_later_dry_runs(here, capsys, monkeypatch):
    monkeypatch.setattr(calibrate, "ENOUGH_SECONDS", 0.02)
    assert main(["--config", "mine.yaml", "--calibrate", "--output", "out"]) == 0
    assert "core-hours of the device that was calibrated" in capsys.readouterr().out
    assert main(["--config", "mine.yaml", "--dry-run", "--output", "out", *sets("search.trials=3")]) == 0
    said = capsys.readouterr().out
    assert "in all " in said
    assert "0 of 9 trials" in said


def test_an_unknown_flag_ends_with_code_2(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--confg", "default"])
    assert ended.value.code == 2
    assert "--confg" in capsys.readouterr().err


def test_a_dry_run_prints_the_plan_and_writes_nothing(here, capsys):
    assert main(["--config", "mine.yaml", "--dry-run", *sets("forget.sets=2", "search.trials=3", "final.runs=2")]) == 0
    plan = capsys.readouterr().out
    assert "sweep mine: digits, 300 training and 1497 test images of 10 classes; 30 to be forgotten" in plan
    assert "trainings   12 (1 original, 3 retrained, 8 reference models), 2 epochs; 1 CPU" in plan
    assert "adversaries 90 images in 3 shards (3 sets, nearest)" in plan
    assert "search      9 trials (3 methods and accesses x 3), 10 epochs on 1 held-out case(s)" in plan
    assert "final       12 unlearned models (3 x 2 cases x 2 runs)" in plan
    assert f"results     {here / 'amun_output' / 'mine'}" in plan
    assert [path.name for path in here.iterdir()] == ["mine.yaml"]


def test_the_plan_says_by_what_is_searched_and_counts_no_model_that_is_not_needed(here, capsys):
    assert main(["--config", "mine.yaml", "--dry-run",
                 *sets("search={objective: proxy, sampler: grid, grid: {lr: 4}, trials: 9, schedules: [never]}")]) == 0
    plan = capsys.readouterr().out
    assert "trainings   10 (1 original, 1 retrained, 8 reference models)" in plan
    assert "search      12 trials (3 methods and accesses x 4), 10 epochs on 1 held-out case(s), by |FT AUC" in plan


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_config_has_a_plan(name, capsys):
    assert main(["--config", name, "--dry-run"]) == 0
    assert "final" in capsys.readouterr().out


def test_the_script_works_where_it_was_copied_to(tmp_path):
    """As `ray submit` copies it: alone, into another folder, with the package installed."""
    script = shutil.copy(REPOSITORY / "amun_ray" / "sweep.py", tmp_path / "sweep.py")
    done = subprocess.run([sys.executable, script, "--config", "default", "--dry-run"], cwd=tmp_path, check=False,
                          capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sweep digits: digits, 700 training" in done.stdout


def test_a_dry_run_loads_nothing_that_it_does_not_use(tmp_path):
    """What it takes on a quiet machine is mostly the import of torch."""
    slow = ("ray", "optuna", "mlflow", "sqlalchemy", "matplotlib", "sklearn", "scipy", "pandas", "torchvision")
    code = ("import sys; from amun_ray.sweep import main; code = main(['--dry-run'])\n"
            f"print(code, [name for name in {slow} if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_mistakes_of_a_config_come_together(refused):
    first, second, third = refused(*sets("serch.trials=3", "methods.amnu={}", "forget.fraction=2"), lines=3)
    assert "forget.fraction: must be less than 1" in first
    assert "unknown method 'amnu'; did you mean 'amun'?" in second
    assert "serch: unknown key; did you mean 'search'?" in third


def test_broken_yaml_is_one_line(refused, here):
    (here / "mine.yaml").write_text("name: [1\nmethods: {")
    assert refused()[0].startswith("mine.yaml: cannot be read as YAML: ")


def test_an_unknown_config_name_suggests_one(refused):
    assert "did you mean 'default'?" in refused("--config", "defualt")[0]


@pytest.mark.parametrize(("content", "message"), [
    (None, "rows.csv: cannot be read: "),
    ("", "no row numbers"),
    ("index\n", "no row numbers"),
    ("index\n3\n5\n3\n", "line 4: row number 3 is named twice, first in line 2"),
    ("3\n-1\n", "line 2: row number -1 is negative"),
    ("3\n300\n", "line 2: row number 300 is beyond the training set, whose rows are 0..299"),
    ("index\n3\nseven\n", "line 3: 'seven' is not a row number"),
    ("3\n4.5\n", "line 2: '4.5' is not a row number"),
    ("a,b\n1,2\n", "line 1: a, b: no header that means row numbers"),
    ("\n".join(["index", *map(str, range(151))]), "151 requested samples leave no room for held-out sets"),
    ("\n".join(["index", *map(str, range(301))]), "line 302: row number 300 is beyond the training set"),
])
def test_a_wrong_index_file_is_named_with_its_first_wrong_row(refused, here, content, message):
    if content is not None:
        (here / "rows.csv").write_text(content)
    assert message in refused(*sets("forget={indices: rows.csv}"))[0]


@pytest.mark.parametrize(("rows", "message"), [
    (pa.array([3, None]), "row 1: row number is missing"),
    (pa.array([3, 4.5]), "row 1: row number 4.5 is not an integer"),
    (pa.array(["3", "x"]), "row 1: row number 'x' is not an integer"),
    (pa.array([3, 3]), "row 1: row number 3 is named twice, first in row 0"),
])
def test_a_wrong_index_parquet_is_named_with_its_first_wrong_row(refused, here, rows, message):
    pq.write_table(pa.table({"index": rows}), here / "rows.parquet")
    assert message in refused(*sets("forget={indices: rows.parquet}"))[0]


def png(size: int = 8, mode: str = "L") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (size, size)).save(file, "PNG")
    return file.getvalue()


def table(images: list, labels: list) -> pa.Table:
    return pa.table({"image": pa.array(images), "label": pa.array(labels)})


@pytest.mark.parametrize(("content", "message"), [
    (b"no parquet", "cannot be read as parquet"),
    (table([png(), b"no image", png()], [0, 1, 1]), "row 1: the image cannot be decoded"),
    (table([png(), png()[:40], png()], [0, 1, 1]), "row 1: the image cannot be decoded"),
    (table([png(), png(), png(9)], [0, 1, 1]), "row 2: image of 9 x 9 pixels, but the first one has 8 x 8"),
    (table([png(), png(), png()], [0, 1, -2]), "row 2: label -2 is outside the classes 0..1"),
    (table([png(), png(), png()], [0, 1, 1.5]), "row 2: label 1.5 is not an integer"),
    (table(["a", "b", "c"], [0, 1, 1]), "no image column"),
    (table([png()], [0]).slice(1), "no rows"),
])
def test_wrong_data_is_named_with_its_row(refused, here, content, message):
    pq.write_table(table([png()] * 4, [0, 1, 0, 1]), here / "test.parquet")
    if isinstance(content, bytes):
        (here / "train.parquet").write_bytes(content)
    else:
        pq.write_table(content, here / "train.parquet")
    (line,) = refused(*sets("data={name: parquet, train: train.parquet, test: test.parquet}"))
    assert message in line
    assert "train.parquet" in line


def test_data_that_is_not_there_is_named(refused):
    assert refused(*sets("data={name: parquet, train: a.parquet, test: b.parquet}")) == ["a.parquet: no such file"]


def test_labels_beyond_the_classes_are_named(refused, here):
    pq.write_table(table([png()] * 3, [0, 1, 7]), here / "a.parquet")
    (line,) = refused(*sets("data={name: parquet, train: a.parquet, test: a.parquet, classes: 3}"))
    assert "a.parquet: row 2: label 7 is outside the classes 0..2" in line


def test_more_training_images_than_there_are(refused):
    assert "train_size" in refused(*sets("data.train_size=5000"))[0]


def floats() -> Dataset:
    """A dataset of the user's own whose pixels have the wrong range."""
    return Dataset("floats", np.full((4, 1, 8, 8), 0.5), np.array([0, 1, 0, 1]), 2, 2)


def test_pixels_of_another_range_are_refused_with_the_range(refused):
    (line,) = refused("--allow-code", __name__, *sets(f"data={{name: '{__name__}:floats'}}"))
    assert "found float64 (4, 1, 8, 8), values in [0.5, 0.5]" in line


@pytest.mark.parametrize(("content", "message"), [
    ("nothing", "cannot be read as safetensors"),
    ("noise", "cannot be read as safetensors"),
    ("another width", "these weights are not of this model: "),
    ("NaN", "hold NaN or infinite numbers: net."),
])
def test_wrong_weights_are_named_before_ray_starts(refused, here, content, message):
    network = models.build("small_cnn", channels=1, classes=10, size=8, mean=[0.3], std=[0.3], seed=0,
                           options={"width": 4 if content == "another width" else 8})
    state = dict(network.state_dict())
    if content == "NaN":
        last = list(state)[-1]
        state[last] = torch.full_like(state[last], float("nan"))
    if content != "nothing":
        (here / "own.safetensors").write_bytes(b"noise" if content == "noise" else checkpoint.save(state, {}))
    (line,) = refused(*sets("originals.checkpoints=[own.safetensors]"))
    assert line.startswith("own.safetensors: ")
    assert message in line


@pytest.mark.parametrize("output", ["file", "file/below", "/proc/nobody/writes/here"])
def test_an_output_folder_that_cannot_be_written_to(refused, here, output):
    (here / "file").write_text("in the way")
    (line,) = refused("--output", output)
    assert line.startswith(f"--output {output}: not writable: ")


def test_storage_that_cannot_be_written_to(refused, here, tmp_path_factory):
    (here / "file").write_text("in the way")
    (line,) = refused("--output", str(tmp_path_factory.mktemp("out")), *sets("storage=file/store"))
    assert line.startswith(f"storage '{here / 'file' / 'store'}' is not writable: ")


def test_storage_of_an_unknown_kind(refused, tmp_path_factory):
    (line,) = refused("--output", str(tmp_path_factory.mktemp("out")), *sets("storage=foo://bucket/store"))
    assert line.startswith("storage 'foo://bucket/store' cannot be opened: ")


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:////proc/nobody/writes/here.db", "foo://bar",
                                 "sqlite:///broken.db", "mysql://127.0.0.1:9/nothing"])
def test_mlflow_that_cannot_be_reached_is_said_first(refused, here, uri):
    (here / "broken.db").write_bytes(b"no database" * 100)
    (line,) = refused("--output", "out", *sets(f"tracking.uri={uri}"))
    assert line.startswith(f"tracking.uri {uri!r}: MLflow cannot be used: ")
    assert not (here / "out").exists()


def test_an_mlflow_that_hangs_does_not_hang_the_sweep(here, monkeypatch):
    monkeypatch.setattr(contact, "FIRST_CONTACT_SECONDS", 1)
    with (socket.create_server(("127.0.0.1", 0)) as silent,
          pytest.raises(UserError, match="MLflow cannot be used")):
        Tracker(f"http://127.0.0.1:{silent.getsockname()[1]}", "any", None, spool=here / "spool", say=print)


def test_a_cluster_that_is_named_and_does_not_answer(monkeypatch):
    def init(*_, **__):
        raise ConnectionError("nobody there")
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # other tests may have left theirs running
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(UserError, match=r"no cluster .* 10.0.0.1:6379: nobody there"):
        resources.connect()


def test_a_worker_larger_than_any_node_is_refused():
    cluster = resources.Cluster(((2.0, 0.0), (4.0, 1.0)), "test")
    with pytest.raises(UserError, match="one worker asks for 8 CPUs and 1 GPUs, and no node has that. The nodes: 2"):
        resources.worker_options(Resources(cpus=8), cluster)
    assert resources.worker_options(Resources(cpus=4, gpus=0.5), cluster) == {"num_cpus": 4, "num_gpus": 0.5}
    assert resources.slots({"num_cpus": 1, "num_gpus": 0}, cluster) == 6


def test_a_ray_that_does_not_start_is_tried_again_and_then_said(monkeypatch):
    tries = []

    def init(*_, **__):
        tries.append(1)
        raise Exception("The current node timed out during startup.\nTraceback ...")
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # other tests may have left theirs running
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_TMPDIR", "/nowhere")
    with pytest.raises(UserError, match=r"Ray does not start on this machine: .* timed out during startup\. Is it"):
        resources.connect()
    assert len(tries) == resources.STARTS


@pytest.mark.parametrize("storage", ["s3://KEY:SECRET@bucket/x", "s3://KEY@bucket/x"])
def test_a_storage_with_a_key_in_it_is_refused_and_the_key_not_repeated(refused, storage):
    (line,) = refused(*sets(f"storage={storage}"))
    assert "storage: must hold no credentials" in line
    assert "KEY" not in line.replace("ACCESS_KEY", "")
    assert "SECRET" not in line.replace("AWS_SECRET", "")


def test_storage_that_does_not_answer_is_one_line(refused, tmp_path_factory):
    uri = "s3://bucket/x?scheme=http&endpoint_override=127.0.0.1:9"
    (line,) = refused("--output", str(tmp_path_factory.mktemp("out")), *sets(f"storage={uri}"))
    assert line.startswith(f"storage {uri!r} ")


@pytest.mark.parametrize(("peak_gib", "workers"), [(0.1, 21), (1.0, 8), (10.0, 1), (40.0, 1)])
def test_as_many_workers_share_a_gpu_as_fit_with_room_to_spare(peak_gib, workers):
    found = resources.fit_on_gpu(int(peak_gib * 2**30), 15 * 2**30)  # 15 GiB; 0.59 GiB for each context, memory x 1.25
    assert found == workers
    cluster = resources.Cluster(((64.0, 1.0),), "test")
    assert resources.slots({"num_cpus": 1, "num_gpus": resources.gpu_share(workers)}, cluster) == workers


def test_auto_is_a_whole_gpu_until_it_is_measured():
    cluster = resources.Cluster(((4.0, 1.0),), "test")
    assert resources.worker_options(Resources(gpus="auto"), cluster) == {"num_cpus": 1, "num_gpus": 1}


def test_more_trials_at_once_than_the_cluster_holds_are_refused():
    with pytest.raises(UserError, match="search.concurrent: 3 trials at once are asked for, but the cluster holds 2 "):
        resources.check_concurrent(3, 2)
    resources.check_concurrent(2, 2)
    resources.check_concurrent(None, 2)


def test_a_gpu_that_was_asked_for_is_missed_and_the_default_one_is_not():
    cluster = resources.Cluster(((2.0, 0.0), (4.0, 0.0)), "test")
    assert resources.worker_options(Resources(), cluster) == {"num_cpus": 1, "num_gpus": 0}
    assert resources.worker_options(Resources(gpus=0), cluster) == {"num_cpus": 1, "num_gpus": 0}
    with pytest.raises(UserError, match="1 GPUs, and no node has that. The nodes: 2 CPUs, 0 GPUs; 4 CPUs, 0 GPUs; "
                                        "without resources.gpus, workers compute on CPUs"):
        resources.worker_options(Resources(gpus=1), cluster)


def test_gpus_that_train_together_are_workers_of_one_each_and_must_all_be_there():
    cluster = resources.Cluster(((8.0, 2.0), (8.0, 1.0)), "test")
    assert resources.worker_options(Resources(gpus=3), cluster) == {"num_cpus": 1, "num_gpus": 1}
    assert [Resources(gpus=gpus).together for gpus in ("auto", 0, 0.5, 1, 3)] == [1, 1, 1, 1, 3]
    with pytest.raises(UserError, match="resources.gpus: 4 GPUs train one model together, and the cluster has 3"):
        resources.worker_options(Resources(gpus=4), cluster)
