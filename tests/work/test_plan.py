"""What a plan makes of a user's files and forget list: which pictures are forgotten, and what is printed."""

import io
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from amun_ray import data
from amun_ray.base.errors import UserError
from amun_ray.config import file as config_file
from amun_ray.work.plan import Plan

CONFIG = """
name: mine
data: {{name: parquet, train: {folder}/train, test: {folder}/test.parquet}}
model: {{name: small_cnn, options: {{width: 4}}}}
training: {{epochs: 1, lr: 0.1}}
forget: {{indices: {folder}/request.csv}}
methods: {{amun: }}
"""
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 4, 4), np.uint8)


def write(path, images, person=None):
    """A parquet file of grey images, their labels 0, 1, 2 in turn; `person` is whose each is."""
    cells = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        cells.append(file.getvalue())
    further = {} if person is None else {"person": person}
    pq.write_table(pa.table({"image": cells, "label": [row % 3 for row in range(len(images))]} | further), path)


@pytest.fixture
def plan(tmp_path):
    """The plan of a config over two training files (rows 0..19, 20..29) and a test file of ten."""
    (tmp_path / "train").mkdir()
    write(tmp_path / "train" / "a.parquet", IMAGES[:20])
    write(tmp_path / "train" / "b.parquet", IMAGES[20:30])
    write(tmp_path / "test.parquet", IMAGES[30:])
    (tmp_path / "request.csv").write_text("index\n25\n3\n17\n")
    (tmp_path / "mine.yaml").write_text(CONFIG.format(folder=tmp_path))

    def plan(*overrides):
        sweep = config_file.load(str(tmp_path / "mine.yaml"), list(overrides))
        return Plan(sweep, data.load(sweep.data.name, **sweep.data.settings))

    return plan


def forgotten(plan):
    """The pictures of the final forget set."""
    return plan.dataset.pixels[plan.sets.final[0]][:, 0]


def test_a_request_counts_over_the_files_in_their_order(plan, tmp_path):
    made = plan()
    np.testing.assert_array_equal(forgotten(made), IMAGES[[3, 17, 25]])
    lines = str(made).splitlines()
    assert lines[1:5] == [
        f"  training    {tmp_path}/train/a.parquet: rows 0..19",
        f"  training    {tmp_path}/train/b.parquet: rows 20..29",
        f"  test        {tmp_path}/test.parquet: rows 0..9",
        f"  forget      3 rows of {tmp_path}/request.csv, column 'index': 3, 17, 25"]
    assert made.warnings == []


def test_a_crop_leaves_something_of_the_image(plan):
    plan("data.crop=3").check()
    with pytest.raises(UserError, match=r"^data.crop: must be less than the 4 pixels of a side, but got 4$"):
        plan("data.crop=4").check()


@pytest.mark.parametrize("seed", range(4))
def test_a_request_means_rows_of_the_files_also_where_a_subset_is_taken(plan, tmp_path, seed):
    subset = plan("data.train_size=12", f"data.seed={seed}").dataset.file_rows[:12]
    wanted = np.sort(np.random.default_rng(seed).choice(subset, 4, replace=False))
    (tmp_path / "request.csv").write_text("index\n" + "".join(f"{row}\n" for row in wanted))
    made = plan("data.train_size=12", f"data.seed={seed}")
    np.testing.assert_array_equal(forgotten(made), IMAGES[wanted])
    assert not np.isin(made.sets.held_out[0], made.sets.final[0]).any()
    absent = np.setdiff1d(np.arange(30), subset)[0]
    (tmp_path / "request.csv").write_text(f"index\n{absent}\n")
    with pytest.raises(UserError, match=f"request.csv: line 2: row number {absent} is not among the 12 of 30 training"):
        assert plan("data.train_size=12", f"data.seed={seed}").sets


def test_a_list_of_files_and_a_glob_are_taken(plan, tmp_path):
    listed = f"data.train=[{tmp_path}/train/b.parquet, {tmp_path}/train/a*]"
    made = forgotten(plan(listed))  # row 3 is in b, row 17 is row 7 of a, row 25 is row 15 of a
    np.testing.assert_array_equal(made, IMAGES[[23, 7, 15]])
    assert plan(f"data.train={tmp_path}/train/*.parquet").identity["dataset"] == plan().identity["dataset"]


@pytest.mark.parametrize("value", ["5", "[]", "[a.parquet, 5]", "''", "{a: b}"])
def test_files_of_another_kind_are_one_mistake(plan, value):
    with pytest.raises(UserError, match="data.train: must be a path or a list of paths, but got") as error:
        plan(f"data.train={value}")
    assert "\n" not in str(error.value)


def test_what_is_probably_a_mistake_is_said_in_plan_and_report(plan, tmp_path):
    images = IMAGES.copy()
    images[28] = images[17]
    images[31] = images[4]
    write(tmp_path / "train" / "b.parquet", images[20:30])
    write(tmp_path / "test.parquet", images[30:])
    made = plan()
    assert len(made.warnings) == 2
    assert "1 of 10 test images are training images, pixel by pixel (training row = test row: 4 = 1)" in str(made)
    assert "shows what is to be forgotten, pixel by pixel (forgotten row = remaining row: 17 = 28)" in str(made)
    (tmp_path / "request.csv").write_text("index\n3\n17\n28\n")
    assert len(plan().warnings) == 1


def test_another_list_of_the_same_name_is_another_sweep(plan, tmp_path):
    """Else a finished sweep would be shown for a request that it never was about."""
    before = plan().identity
    (tmp_path / "request.csv").write_text("index\n17\n25\n3\n")
    assert plan().identity == before  # the order of a list means nothing
    (tmp_path / "request.csv").write_text("index\n17\n25\n4\n")
    assert plan().identity != before
    fraction = plan("forget={fraction: 0.1}")
    assert fraction.request is None
    assert fraction.identity.keys() == {"sweep", "dataset"}  # as ever: digests of stored tables rest on it


def test_a_class_is_forgotten_and_another_one_is_searched_on(plan):
    made = plan("forget={classes: [1]}")
    assert made.sets.final[0].tolist() == [row for row in range(30) if made.dataset.labels[row] == 1]
    (held_out,) = made.sets.held_out
    (label,) = set(made.dataset.labels[held_out])
    assert label != 1
    assert len(held_out) == (made.dataset.labels[:30] == label).sum()
    lines = str(made).splitlines()
    assert lines[4:7] == ["  forget      10 rows of class 1: 1, 4, 7, ... 27", "  by class    1: 10 of 10",
                          f"  held out    set 0: {len(held_out)} rows of class {label}"]


def test_each_fold_is_a_case_of_each_original(plan):
    """30 rows in five folds: two are the search's, on one original; three count, on both."""
    made = plan("forget={folds: 5}", "held_out.sets=2", "originals={count: 2}")
    assert made.request is None
    assert [case.key for case in made.held_out] == [(0, "held_out 0"), (0, "held_out 1")]
    assert [case.key for case in made.final] == [(k, f"final {fold}") for k in range(2) for fold in range(3)]
    rows = {case.name: case.rows for case in made.cases}
    assert sorted(np.concatenate(list(rows.values()))) == list(range(30))


def test_attacks_that_cannot_be_made_are_named_and_the_audit_changes_no_earlier_sweep(plan):
    made, asked = plan("forget={folds: 5}"), plan("forget={folds: 5}", "audit={klom: true, models: 4}")
    assert "\n  audit       klom is left out: it needs 2 x 4 (audit.models) retrained models of each" in str(asked)
    assert "forgetting_quality is left out" not in str(asked)
    assert "left out" not in str(made)  # nobody asked
    assert set(made.not_audited) == {"klom", "forgetting_quality"}
    assert "left out" not in str(plan("forget={folds: 5}", "audit.klom=true", "originals={count: 8}"))
    assert asked.identity == made.identity
    assert plan("forget={folds: 5}", "audit={klom: false}").identity != made.identity


def test_the_plan_says_that_several_workers_may_train_a_model_which_makes_no_other_sweep(plan):
    made, wide = plan(), plan("resources={widen: true}")
    (line,) = (line for line in str(wide).split("\n") if line.startswith("  trainings"))
    assert line.endswith(" GPU each; the first by several workers, where all end earlier so")
    assert str(made) == str(wide).replace("; the first by several workers, where all end earlier so", "")
    assert wide.identity == made.identity


def test_the_plan_says_how_autoattack_runs_and_refuses_what_it_cannot_attack(plan, monkeypatch):
    made = plan("audit={autoattack: {eps: 8/255}}")
    made.check()
    assert ("\n  AutoAttack  10 test images, Linf 0.03137: apgd-ce, apgd-dlr, fab-t, square (with 3 classes there is "
            "no targeted DLR loss)") in str(made)
    assert "(boundary, linear_probe, distance, autoattack)" in str(made)
    with pytest.raises(UserError, match="norm L2 needs images of at least 5 pixels a side, and these have 4"):
        plan("audit={autoattack: {norm: L2, eps: 0.5}}").check()
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(UserError, match="audit.autoattack: needs the package pyautoattack"):
        made.check()
    plan().check()


def test_a_list_of_a_whole_class_is_the_same_request(plan, tmp_path):
    made = plan("forget={classes: [1]}")
    (tmp_path / "request.csv").write_text("index\n" + "".join(f"{row}\n" for row in made.sets.final[0]))
    listed = plan()
    np.testing.assert_array_equal(listed.sets.held_out, made.sets.held_out)
    assert listed.sets.groups == made.sets.groups


@pytest.fixture
def persons(plan, tmp_path):
    """The plan of the same files with a column `person` over both: a b c d in turn, but for one cell."""
    write(tmp_path / "train" / "a.parquet", IMAGES[:20], [None, *"bcd", *"abcd" * 4])
    write(tmp_path / "train" / "b.parquet", IMAGES[20:30], [*"abcdabcdab"])
    return lambda values, *overrides: plan(f"forget={{column: person, values: {values}}}", *overrides)


def test_a_person_is_forgotten_and_another_one_is_searched_on(persons):
    made = persons("[b]")
    assert made.sets.final[0].tolist() == [1, 5, 9, 13, 17, 21, 25, 29]
    assert made.sets.groups in {("person a",), ("person c",), ("person d",)}
    assert len(made.sets.held_out[0]) == 7
    assert ("  forget      8 rows of person b: 1, 5, 9, ... 29\n  by class    0: 2 of 11, 1: 3 of 10, 2: 3 of 9\n"
            "  held out    set 0: 7 rows of person ") in str(made)
    assert made.identity != persons("[a]").identity


def test_a_person_of_a_folder_of_hugging_face_is_forgotten(persons, plan, tmp_path):
    """The rows of the training split alone count, over its files in their order."""
    hub = tmp_path / "hub"
    hub.mkdir()
    write(hub / "train-00000-of-00002.parquet", IMAGES[:20], [None, *"bcd", *"abcd" * 4])
    write(hub / "train-00001-of-00002.parquet", IMAGES[20:30], [*"abcdabcdab"])
    write(hub / "validation.parquet", IMAGES[30:], [*"bbbbbbbbbb"])
    asked = "forget={column: person, values: [b]}"
    made = plan(asked, f"data={{name: huggingface, path: {hub}}}")
    assert made.sets.final[0].tolist() == [1, 5, 9, 13, 17, 21, 25, 29]
    assert str(made.request) == str(persons("[b]").request)
    other = plan(asked, f"data={{name: huggingface, path: {hub}, train: validation, test: train}}", "held_out.sets=1")
    with pytest.raises(UserError, match="the request is for all 10 training images"):
        assert other.sets


def test_held_out_persons_of_another_size_are_warned_of(plan, tmp_path):
    write(tmp_path / "train" / "a.parquet", IMAGES[:20], [*"aaaaaaaaaaaabbbbcccc"])
    write(tmp_path / "train" / "b.parquet", IMAGES[20:30], [*"bbccccdddd"])
    asked = "forget={column: person, values: [%s]}"
    assert plan(asked % "a").warnings == []  # 8 of c for 12 of a
    (warning,) = plan(asked % "a", "held_out.sets=3").warnings
    assert warning == ("warning: held-out set 2 (person d) has 4 images, the request 12, and no others are nearer: "
                       "settings that suit it may not suit the request")


def test_persons_and_subsets(persons):
    with pytest.raises(UserError, match="^forget.values: row .* 'b', is not among the 12 of 30 training rows"):
        assert persons("[b]", "data.train_size=12").sets


@pytest.mark.parametrize(("overrides", "message"), [
    (["forget={column: persn, values: [b]}"], "no columns called 'persn'; columns: image, label, person"),
    (["forget={column: person, values: [e]}"], "forget.values: column 'person' does not hold 'e'"),
    (["forget={column: person, values: [a, b, c]}"], "held-out sets that look like the request need 1 x 3 "),
    (["forget={column: person, values: [b]}", "data={name: digits}"],
     "forget.column: only data.name: huggingface and parquet have further columns, not digits"),
    (["forget={pattern: 'a/*'}"], "forget.pattern: the images of parquet are no files"),
    (["forget={files: list.txt}"], "forget.files: the images of parquet are no files"),
    (["forget={classes: [0, 1, 2]}"], "the request is for all 30 training images; train a new model on others"),
    (["forget={classes: [cat]}"], "forget.classes: the classes of parquet have numbers alone, 0..2, but got 'cat'"),
])
def test_requests_that_are_refused(persons, plan, overrides, message):
    with pytest.raises(UserError, match=message) as error:
        assert plan(*overrides).sets
    assert "\n" not in str(error.value)


def test_a_column_must_be_of_one_type_in_all_files(persons, tmp_path):
    write(tmp_path / "train" / "b.parquet", IMAGES[20:30], [*range(10)])
    with pytest.raises(UserError, match="train/b.parquet: column 'person' is of int64, in .*train/a.parquet of string"):
        assert persons("[b]").sets
