"""`search.points: earlier`: what finished sweeps in the store chose is tried first, and stays what it was."""

import pytest
from searching import sweep, without_ray

from amun_ray.stages.study import Study
from amun_ray.storage.store import Unit
from amun_ray.unlearn import Contender
from amun_ray.work.earlier import with_earlier
from amun_ray.work.plan import given_points

FINETUNE, SALUN = Contender("finetune", "retain"), Contender("salun", "retain")


def searched(folder, methods=None, **search):
    return without_ray(sweep({"points": "earlier", **search}, methods or {"finetune": None}), folder)


def finished(workspace, name, *rows, data="same", network="same"):
    """A finished sweep in the store, which chose for each of `rows` (method, lr, schedule, own settings, Avg. Gap)."""
    model = workspace.network.identity["model"]
    workspace.store.finish(
        Unit("tables", {"dataset": workspace.data_digest if data == "same" else "other",
                        "sweep": {"name": name, "model": model if network == "same" else {"name": "resnet18"}}}),
        {"rows": [{"method": method, "access": "retain", "lr": lr, "schedule": schedule, "epochs": 3, "settings": own,
                   "average_gap": {"mean": gap}} for method, lr, schedule, own, gap in rows]})


def points(workspace, contender=FINETUNE):
    return [tuple(point.values()) for point in given_points(workspace.sweep, contender)]


def test_the_nearest_sweeps_settings_come_first_and_only_those_of_the_method_inside_its_space(tmp_path, capsys):
    before = searched(tmp_path)
    finished(before, "far", ("finetune", 0.01, "never", {}, 0.1), data="other", network="other")
    finished(before, "images", ("finetune", 0.02, "never", {}, 9.0), network="other")
    finished(before, "network", ("finetune", 0.03, "never", {}, 0.5), data="other")
    finished(before, "alike", ("salun", 0.04, "never", {}, 0.1), ("finetune", 0.05, "every_1", {}, 3.0),
             ("finetune", 5.0, "never", {}, 0.1))
    after = with_earlier(before)
    assert points(after) == [(0.05, "every_1"), (0.02, "never")]
    assert capsys.readouterr().out == (
        "search.points: finetune (retain): lr 5.00e-02, every_1 of the sweep alike\n"
        "search.points: finetune (retain): lr 2.00e-02, never of the sweep images (other network)\n")
    study = Study(after.sweep, FINETUNE, None)
    assert [study.next_settings()[1][:2] for _ in range(2)] == points(after)


def test_a_later_start_has_the_same_whatever_was_finished_meanwhile(tmp_path, capsys):
    before = searched(tmp_path)
    finished(before, "first", ("finetune", 0.02, "never", {}, 2.0))
    first = with_earlier(before)
    finished(before, "second", ("finetune", 0.03, "never", {}, 1.0))
    assert points(with_earlier(before)) == points(first) == [(0.02, "never")]
    other = searched(tmp_path, trials=3)
    assert points(with_earlier(other)) == [(0.03, "never"), (0.02, "never")]


def test_a_setting_of_the_method_counts_where_it_is_searched_and_none_is_tried_twice(tmp_path):
    own = {"points": [{"lr": 0.02, "schedule": "never"}], "search": ["mask_ratio"]}
    before = searched(tmp_path, {"salun": own | {"access": ["retain"]}}, trials=2)
    finished(before, "one", ("salun", 0.02, "never", {}, 0.1), ("salun", 0.03, "never", {"mask_ratio": 0.3}, 2.0),
             ("salun", 0.04, "never", {"mask_ratio": 7}, 0.2))
    finished(before, "two", ("salun", 0.03, "never", {"mask_ratio": 0.3}, 3.0), data="other")
    assert points(with_earlier(before), SALUN) == [(0.03, "never", 0.3), (0.02, "never")]


def test_without_any_that_is_said(tmp_path, capsys):
    before = searched(tmp_path)
    assert points(with_earlier(before)) == []
    assert "search.points: none, since no finished sweep in " in capsys.readouterr().out


def test_points_that_are_given_are_left_as_they_are(tmp_path, capsys):
    given = without_ray(sweep({"points": [{"lr": 0.5, "schedule": "never"}]}), tmp_path)
    assert with_earlier(given) is given
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_they_are_tried_before_a_grid_too(sampler, tmp_path):
    before = searched(tmp_path, sampler=sampler)
    finished(before, "first", ("finetune", 0.02, "never", {}, 2.0))
    assert points(with_earlier(before))[0] == (0.02, "never")
