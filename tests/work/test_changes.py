"""A start in a used folder says which settings differ."""

import yaml
from searching import sweep

from amun_ray.config import file as config_file
from amun_ray.work.changes import changes


def test_the_settings_that_differ_are_named_with_what_follows(tmp_path):
    first = sweep({"trials": 4})
    assert changes(first, tmp_path) == []
    assert changes(first, tmp_path) == []
    said = changes(sweep({"trials": 6, "lr": {"low": 1e-3, "high": 1.0}}), tmp_path)
    assert said == ["changed since the last start in this folder:", "  search.trials: 4 -> 6",
                    "  search.lr.low: 0.0001 -> 0.001",
                    "  what depends on these gets a new digest and is rebuilt; the rest is taken from the store"]
    assert changes(first, tmp_path)[1:3] == ["  search.trials: 6 -> 4", "  search.lr.low: 0.001 -> 0.0001"]


def test_where_it_runs_and_what_is_asked_beyond_its_table_change_no_result(tmp_path):
    first = sweep({})
    changes(first, tmp_path)
    asked = changes(first.model_copy(update={"study": "theorem"}), tmp_path)
    assert asked == ["changed since the last start in this folder, without effect on the sweep's results:",
                     "  study: not there -> theorem"]
    moved = first.model_copy(update={"storage": "s3://bucket"})
    changes(first, tmp_path)
    assert changes(moved, tmp_path) == [
        "changed since the last start in this folder, without effect on the sweep's results:",
        "  storage: None -> s3://bucket"]


def test_a_method_that_came_or_went_is_named(tmp_path):
    changes(sweep({}, {"amun": None, "finetune": None}), tmp_path)
    assert changes(sweep({}, {"amun": None, "salun": None}), tmp_path)[1:3] == [
        "  methods.finetune: None -> not there", "  methods.salun: not there -> None"]


def test_a_setting_that_an_earlier_version_did_not_know_is_no_change(tmp_path):
    now = sweep({}, {"amun": {"lr": {"low": 1e-4, "high": 1e-2}}})
    changes(now, tmp_path)
    path = tmp_path / "config.yaml"
    earlier = yaml.safe_load(path.read_text())
    del earlier["training"]["beta"], earlier["audit"], earlier["data"]["normalize"]
    del earlier["methods"]["amun"]["lr"]["forget_only"]
    path.write_text(yaml.safe_dump(earlier))
    assert changes(now, tmp_path) == []
    path.write_text("training: none\n")
    assert changes(sweep({}), tmp_path) == []


def test_the_file_that_is_left_is_a_config(tmp_path):
    changes(sweep({"trials": 4}, {"amun": None}), tmp_path)
    assert config_file.load(str(tmp_path / "config.yaml")) == sweep({"trials": 4}, {"amun": None})
    (tmp_path / "config.yaml").write_text("a: [")
    assert changes(sweep({}), tmp_path) == []  # nothing to compare with
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
